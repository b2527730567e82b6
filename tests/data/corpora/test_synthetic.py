import hashlib
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from arkasr.data.audio import decode_audio
from arkasr.data.corpora.synthetic import (
    SyntheticCorpusConfig,
    corpus_cache_folder,
    prepare_synthetic_corpus,
)
from arkasr.data.manifests.manifest import read_manifest
from arkasr.errors import InputError

CONFIG = SyntheticCorpusConfig(train_utterances=70, dev_utterances=2, test_utterances=3)
MANIFESTS = {"train", "dev", "en-clean", "en-other", "zh-read", "zh-meeting", "zh-net"}


def contents(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora") / "tiny"
    return prepare_synthetic_corpus(CONFIG, folder, workers=1, progress=False)


def test_every_manifest_line_has_audio_text_and_labels(corpus: Path) -> None:
    assert {file.stem for file in corpus.glob("*.jsonl")} == MANIFESTS
    for name in MANIFESTS:
        for utterance in read_manifest(corpus / f"{name}.jsonl"):
            samples = decode_audio(utterance.audio)
            assert len(samples) / 16_000 == pytest.approx(utterance.duration)
            assert utterance.id.startswith(name)
            assert utterance.language == ("Chinese" if "-zh-" in utterance.id or name[:2] == "zh" else "English")
            assert utterance.speaker
            assert utterance.text
            assert utterance.fields["condition"]


def test_the_description_holds_configuration_sizes_and_licence(corpus: Path) -> None:
    description = json.loads((corpus / "corpus.json").read_text(encoding="utf-8"))
    assert description["config"]["train_utterances"] == 70
    assert {name: of["utterances"] for name, of in description["sets"].items()} == {
        "train": 70,
        "dev": 4,
        **dict.fromkeys(MANIFESTS - {"train", "dev"}, 3),
    }
    assert "Apache-2.0" in description["licence"]


def test_the_number_of_workers_changes_nothing(corpus: Path, tmp_path: Path) -> None:
    again = prepare_synthetic_corpus(CONFIG, tmp_path / "again", workers=2, progress=False)
    assert contents(again) == contents(corpus)


def test_a_complete_corpus_is_not_written_again(corpus: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in corpus.rglob("*")}
    assert prepare_synthetic_corpus(CONFIG, corpus, workers=1, progress=False) == corpus
    assert {file: file.stat().st_mtime_ns for file in corpus.rglob("*")} == before


def test_two_concurrent_calls_write_one_corpus(corpus: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(prepare_synthetic_corpus, CONFIG, tmp_path / "shared", workers=1, progress=False)
            for _ in range(2)
        ]
    assert [each.result() for each in both] == [tmp_path / "shared"] * 2
    assert contents(tmp_path / "shared") == contents(corpus)


def test_an_interrupted_corpus_is_not_used(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    program = (
        "from pathlib import Path\n"
        "from arkasr.data.corpora.synthetic import SyntheticCorpusConfig, prepare_synthetic_corpus\n"
        f"config = SyntheticCorpusConfig(train_utterances=5000)\n"
        f"prepare_synthetic_corpus(config, Path({str(folder)!r}), workers=1, progress=False)\n"
    )
    builder = subprocess.Popen([sys.executable, "-c", program])
    while not list(tmp_path.rglob("*.flac")):
        assert builder.poll() is None
        time.sleep(0.02)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert not folder.exists()
    prepare_synthetic_corpus(CONFIG, folder, workers=1, progress=False)
    assert contents(folder) == contents(corpus)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["killed"]


def test_a_different_corpus_is_not_overwritten(corpus: Path) -> None:
    with pytest.raises(InputError, match="another built-in corpus"):
        prepare_synthetic_corpus(replace(CONFIG, seed=1), corpus, progress=False)


@pytest.mark.parametrize("occupied", ["folder", "file"])
def test_a_path_with_other_content_is_refused(occupied: str, tmp_path: Path) -> None:
    place = tmp_path / "mine"
    if occupied == "folder":
        place.mkdir()
        (place / "thesis.tex").write_text("precious")
    else:
        place.write_text("precious")
    with pytest.raises(InputError, match="holds no built-in corpus"):
        prepare_synthetic_corpus(CONFIG, place, progress=False)


def test_zero_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers is 0"):
        prepare_synthetic_corpus(CONFIG, tmp_path / "none", workers=0)


def test_environment_variables_choose_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARKASR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert corpus_cache_folder(CONFIG).parent == tmp_path / "xdg" / "arkasr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert corpus_cache_folder(CONFIG).parent == tmp_path / "home" / ".cache" / "arkasr"
    monkeypatch.setenv("ARKASR_CACHE", str(tmp_path / "mine"))
    assert corpus_cache_folder(CONFIG).parent == tmp_path / "mine"
    assert corpus_cache_folder(CONFIG) != corpus_cache_folder(replace(CONFIG, seed=1))
