import json

import numpy as np
import pytest
import soundfile

from arkasr.data.audio import decode_audio
from arkasr.data.corpora.prepare import prepare_corpus
from arkasr.data.manifests.manifest import read_manifest
from arkasr.errors import InputError
from tests.paths import SHARED_DATA, needs_shared_data

SAMPLES = (np.sin(np.arange(8_000) / 10) * 9_000).astype(np.int16)


@pytest.fixture
def an4(tmp_path):
    """A small copy of AN4's layout: headerless big-endian recordings, one speaker of the development set."""
    root = tmp_path / "an4"
    lines = {
        "train": ["<s> YES </s> (an251-fash-b)", "<s> R U B O U T </s> (an7-ftmj-b)"],
        "test": ["ENTER  SIXTY (an9-fcaw-b)"],
    }
    (root / "etc").mkdir(parents=True)
    for part, texts in lines.items():
        (root / "etc" / f"an4_{part}.transcription").write_text("\n".join(texts) + "\n")
        for text in texts:
            name = text.rsplit("(", 1)[1].rstrip(")")
            speaker = root / "wav" / f"an4{part}_clstk" / name.split("-")[1]
            speaker.mkdir(parents=True)
            SAMPLES.astype(">i2").tofile(speaker / f"{name}.raw")
    (root / "LICENSE").write_text("terms")
    return root


def test_an4_as_distributed(an4, tmp_path):
    prepared = prepare_corpus("an4", an4, tmp_path / "out")
    sets = {split: read_manifest(tmp_path / "out" / f"{split}.jsonl") for split in ("train", "dev", "test")}
    assert {split: [(u.text, u.speaker) for u in found] for split, found in sets.items()} == {
        "train": [("yes", "fash")],
        "dev": [("r u b o u t", "ftmj")],
        "test": [("enter sixty", "fcaw")],
    }
    decoded = decode_audio(sets["train"][0].audio)
    assert np.abs(decoded - SAMPLES / 32_768).max() < 1e-4
    assert (tmp_path / "out" / "LICENSE").read_text() == "terms"
    assert "test.jsonl: 1 utterances" in prepared.summary()
    assert "Carnegie Mellon" in prepared.summary()


def test_spoken_digits_as_distributed(tmp_path):
    recordings = tmp_path / "fsdd" / "recordings"
    recordings.mkdir(parents=True)
    for name in ("7_jackson_4", "7_jackson_5", "0_theo_0"):
        soundfile.write(recordings / f"{name}.wav", SAMPLES, 8_000)
    prepare_corpus("spoken-digits", tmp_path / "fsdd", tmp_path / "out")
    test = read_manifest(tmp_path / "out" / "test.jsonl")
    assert [(u.text, u.speaker) for u in test] == [("zero", "theo"), ("seven", "jackson")]
    assert [u.id for u in read_manifest(tmp_path / "out" / "train.jsonl")] == ["spoken-digits-7_jackson_5"]


def test_librispeech_as_distributed(tmp_path):
    for part, name, text in (
        ("train-clean-5", "1088-134315-0000", "AS YOU KNOW"),
        ("dev-clean", "84-121123-0001", "GO DO YOU HEAR"),
        ("other-part", "1-2-0000", "NOT A SPLIT"),
    ):
        speaker, chapter, _ = name.split("-")
        folder = tmp_path / "LibriSpeech" / part / speaker / chapter
        folder.mkdir(parents=True)
        soundfile.write(folder / f"{name}.flac", SAMPLES, 16_000)
        (folder / f"{speaker}-{chapter}.trans.txt").write_text(f"{name} {text}\n")
    prepare_corpus("librispeech", tmp_path / "LibriSpeech", tmp_path / "out")
    [train] = read_manifest(tmp_path / "out" / "train.jsonl")
    assert (train.text, train.speaker, train.id) == ("as you know", "1088", "librispeech-1088-134315-0000")
    assert [utterance.text for utterance in read_manifest(tmp_path / "out" / "dev.jsonl")] == ["go do you hear"]
    assert not (tmp_path / "out" / "test.jsonl").exists()

    train.audio.unlink()
    with pytest.raises(InputError, match=r"1088-134315\.trans\.txt:1: there is no 1088-134315-0000\.flac"):
        prepare_corpus("librispeech", tmp_path / "LibriSpeech", tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("an4", "expected AN4 with etc/an4_train.transcription, or a folder with train.jsonl"),
        ("spoken-digits", "expected spoken-digits with recordings/0_NAME_0.wav, or a folder with train.jsonl"),
        ("dspspeech20", "expected train.jsonl and dev.jsonl of dspspeech20"),
        ("librispeech", "expected librispeech with a folder such as train-clean-5"),
        ("tedlium", "corpus 'tedlium' is not known; choose one of an4"),
    ],
)
def test_the_error_for_a_wrong_folder_says_what_was_expected(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        prepare_corpus(name, tmp_path, tmp_path / "out")


def test_a_missing_source_and_an_output_equal_to_it_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        prepare_corpus("an4", tmp_path / "absent", tmp_path / "out")
    with pytest.raises(InputError, match="is the source folder itself"):
        prepare_corpus("an4", tmp_path, tmp_path)


def test_manifests_keep_times_ids_and_unknown_fields(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    soundfile.write(source / "talk.wav", np.tile(SAMPLES, 4), 16_000)
    rows = [
        {"audio": "talk.wav", "text": "YES", "begin_time": 0.25, "end_time": 1.0, "condition": "far"},
        {"audio": "talk.wav", "text": "No", "begin_time": 1.0, "id": "second", "language": "de"},
    ]
    (source / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare_corpus("an4", source, tmp_path / "out")
    first, second = read_manifest(tmp_path / "out" / "train.jsonl")
    assert (first.begin_time, first.end_time, first.duration, first.text) == (0.25, 1.0, 0.75, "yes")
    assert (first.fields["condition"], first.language) == ("far", "English")
    assert (second.id, second.begin_time, second.duration, second.language) == ("second", 1.0, 1.0, "German")
    assert first.id != second.id


@needs_shared_data
@pytest.mark.parametrize(("name", "train", "test"), [("an4", 858, 130), ("spoken-digits", 2000, 500)])
def test_manifests_of_real_speech(tmp_path, name, train, test):
    prepare_corpus(name, SHARED_DATA / name, tmp_path)
    found = read_manifest(tmp_path / "train.jsonl")
    assert len(found) == train
    assert len(read_manifest(tmp_path / "test.jsonl")) == test
    assert all(utterance.text == utterance.text.lower() for utterance in found)
    assert len({utterance.id for utterance in found}) == train
