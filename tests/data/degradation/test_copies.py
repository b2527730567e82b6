import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from arkasr.cli.app import app
from arkasr.data.audio import decode_audio
from arkasr.data.degradation.copies import write_degraded_copies
from arkasr.data.degradation.settings import DegradationSettings
from arkasr.data.manifests.manifest import read_manifest
from arkasr.errors import InputError


@pytest.fixture
def manifest(tmp_path):
    generator = np.random.default_rng(0)
    rows = []
    for index, seconds in enumerate((0.5, 1.5, 1.0, 2.0, 0.7)):
        soundfile.write(tmp_path / f"{index}.wav", generator.normal(size=int(seconds * 16_000)) * 0.1, 16_000)
        rows.append({"audio": f"{index}.wav", "text": f"word {index}", "id": f"a/{index}", "speaker": "s", "mine": 7})
    rows[3] |= {"begin_time": 0.5, "end_time": 1.5}
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def white(snr):
    return DegradationSettings.model_validate({"noise": {"probability": 1, "kinds": ["white"], "snr_db": [snr, snr]}})


@pytest.mark.parametrize("snr", [0, 20])
def test_copies_have_the_noise_asked_for_and_all_fields(manifest, tmp_path, snr):
    copy = write_degraded_copies(manifest, tmp_path / "out", white(snr))
    for clean, degraded in zip(read_manifest(manifest), read_manifest(copy), strict=True):
        speech = decode_audio(clean.audio, clean.begin_time, clean.end_time)
        noise = decode_audio(degraded.audio) - speech
        found = 10 * np.log10((speech**2).mean() / (noise**2).mean())
        assert found == pytest.approx(snr, abs=0.1)
        assert (degraded.id, degraded.text, degraded.fields["mine"]) == (clean.id, clean.text, 7)
        assert degraded.begin_time is None
        assert degraded.fields["duration"] == pytest.approx(len(speech) / 16_000, abs=1e-3)


def test_a_copy_depends_on_settings_seed_and_id_only(manifest, tmp_path):
    first = write_degraded_copies(manifest, tmp_path / "1", white(5))
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[::-1]) + "\n")
    second = write_degraded_copies(manifest, tmp_path / "2", white(5))
    other = write_degraded_copies(manifest, tmp_path / "3", white(5), seed=1)
    of = [{item.id: item.audio.read_bytes() for item in read_manifest(copy)} for copy in (first, second, other)]
    assert of[0] == of[1]
    assert all(of[0][name] != of[2][name] for name in of[0])


def test_babble_comes_from_the_other_utterances(manifest, tmp_path):
    babble = {"noise": {"probability": 1, "kinds": ["babble"], "snr_db": [0, 0]}}
    copy = write_degraded_copies(manifest, tmp_path / "out", DegradationSettings.model_validate(babble))
    assert len(read_manifest(copy)) == 5
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:3]) + "\n")
    with pytest.raises(InputError, match="has 3 utterances, and `babble` needs at least 4"):
        write_degraded_copies(manifest, tmp_path / "few", DegradationSettings.model_validate(babble))


def test_the_command_writes_copies_and_does_not_replace_its_input(manifest, tmp_path):
    keys = ["--set", "noise={probability: 1, kinds: [white]}", "--set", "noise.snr_db=[5,5]"]
    command = ["data", "degrade", str(manifest), *keys, "--output"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert len(read_manifest(tmp_path / "out" / "test.jsonl")) == 5
    result = CliRunner().invoke(app, [*command, str(tmp_path)])
    assert isinstance(result.exception, InputError)
    assert "is an input of this command" in str(result.exception)


def test_ids_that_are_too_long_for_a_file_name_get_different_short_ones(manifest, tmp_path):
    """`arkasr data cut` makes ids from paths, and a letter of Mandarin or Cyrillic has several bytes."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    ids = [f"/аудио/{'папка/' * 40}{row['id']}" for row in rows]
    lines = [json.dumps(row | {"id": name}) + "\n" for row, name in zip(rows, ids, strict=True)]
    manifest.write_text("".join(lines))
    copies = read_manifest(write_degraded_copies(manifest, tmp_path / "out", white(5)))
    assert [copy.id for copy in copies] == ids
    assert len({copy.audio for copy in copies if copy.audio.is_file()}) == len(rows)
