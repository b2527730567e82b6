"""`arkasr transcribe` as a subprocess."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from arkasr.cli import main
from arkasr.data.manifests.manifest import write_manifest
from arkasr.recognizers.ark_asr import build_ark_asr
from arkasr.transcribe.transcriber import Transcriber, TranscriptionSettings
from tests.models import SMALL_STUDENT

SETTINGS = TranscriptionSettings(max_new_tokens=12)


def transcribe(*arguments, model, stdin=None, cwd=None):
    command = [sys.executable, "-m", "arkasr", "transcribe", *map(str, arguments), "--model", str(model)]
    command += ["--max-new-tokens", "12"]
    environment = os.environ | {"COLUMNS": "100"}
    return subprocess.run(command, capture_output=True, input=stdin, env=environment, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def model(vocabulary, tmp_path_factory):
    torch.manual_seed(7)
    student = build_ark_asr(SMALL_STUDENT, vocabulary)
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            if parameter.dim() > 1 and "embed" not in name and "lm_head" not in name:
                parameter.mul_(2.5)
    folder = tmp_path_factory.mktemp("model")
    student.save(folder)
    return folder


@pytest.fixture(scope="module")
def transcriber(model):
    return Transcriber(model, settings=SETTINGS)


@pytest.fixture
def manifest(tmp_path):
    """Thirty utterances of different lengths, not sorted, with extra fields."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(30):
        waveform = generator.normal(size=generator.integers(1_000, 60_000)) * 0.1
        soundfile.write(tmp_path / f"{number}.flac", waveform, 16_000)
        rows.append(
            {"audio": f"{number}.flac", "text": "words", "note": {"n": number}, "begin_time": -1, "end_time": -1}
        )
    rows[3] |= {"begin_time": 0.01, "end_time": 0.06}
    write_manifest(tmp_path / "all.jsonl", rows)
    return tmp_path / "all.jsonl"


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_manifest_keeps_its_fields_and_order_and_a_bad_line_does_not_stop_the_rest(manifest, model, transcriber):
    rows = rows_of(manifest)
    rows[7]["audio"] = "absent.flac"
    write_manifest(manifest, rows)
    output = manifest.with_name("out.jsonl")
    finished = transcribe(manifest, "-o", output, model=model)
    assert finished.returncode == 2
    last = finished.stderr.decode().strip().splitlines()[-1]
    assert last.startswith("arkasr: 1 of 30 recordings not transcribed, or not completely; the first: ")
    assert "absent.flac: no such audio file" in last
    found = rows_of(output)
    assert [{key: row[key] for key in rows[0]} for row in found] == rows
    assert (found[7]["pred_text"], "no such audio file" in found[7]["error"]) == (None, True)
    for number in (0, 29):
        waveform, _ = soundfile.read(manifest.parent / f"{number}.flac", dtype="float32")
        assert found[number]["pred_text_raw"] == transcriber(waveform).raw or transcriber(waveform).raw == ""
        assert found[number]["pred_text"] is not None
        assert set(found[number]) == {*rows[0], "pred_text", "pred_text_raw", "pred_flags"} - (
            set() if "pred_flags" in found[number] else {"pred_flags"}
        )
    assert not list(manifest.parent.glob(".*"))


def test_a_killed_run_continues_and_gives_the_same_lines(manifest, model):
    expected, output = manifest.with_name("expected.jsonl"), manifest.with_name("killed.jsonl")
    assert transcribe(manifest, "-o", expected, "--batch-size", 1, model=model).returncode == 0
    journal = output.with_name(f".{output.name}.partial")
    command = [sys.executable, "-m", "arkasr", "transcribe", str(manifest), "--model", str(model), "-o", str(output)]
    command += ["--max-new-tokens", "12", "--batch-size", "1"]
    for lines in (1, 8, 20):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (journal.is_file() and journal.read_bytes().count(b"\n") > lines):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not output.exists() or output.read_bytes() == expected.read_bytes()
    assert transcribe(manifest, "-o", output, "--batch-size", 1, model=model).returncode == 0
    assert output.read_bytes() == expected.read_bytes()
    assert not list(manifest.parent.glob(".*"))


def test_an_interrupted_run_says_how_to_continue(manifest, model):
    output = manifest.with_name("out.jsonl")
    command = [sys.executable, "-m", "arkasr", "transcribe", str(manifest), "--model", str(model), "-o", str(output)]
    # A shell without job control makes background processes ignore SIGINT.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen([*command, "--batch-size", "1"], stderr=subprocess.PIPE, preexec_fn=listen)
    journal = output.with_name(f".{output.name}.partial")
    while process.poll() is None and not (journal.is_file() and journal.stat().st_size > 300):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    printed = process.communicate()[1].decode().strip().splitlines()
    assert process.returncode == 130
    assert printed[-1] == (
        "arkasr: interrupted; continue `run` and `train` with --resume, "
        "`transcribe` and `data cut` with the same command"
    )
    assert journal.is_file()
    assert not output.exists()


def test_a_run_is_not_continued_with_another_model(manifest, model):
    output = manifest.with_name("out.jsonl")
    output.with_name(".out.jsonl.partial").write_text('{"model": "another"}\n')
    finished = transcribe(manifest, "-o", output, model=model)
    assert finished.returncode == 2
    assert "keeps the progress of a run with another model or other settings" in finished.stderr.decode()
    assert not output.exists()


def test_a_folder_becomes_one_subtitle_file_per_recording(tmp_path, long_recording, spoken, model, transcriber):
    (tmp_path / "talks" / "monday").mkdir(parents=True)
    soundfile.write(tmp_path / "talks" / "monday" / "long.wav", long_recording[0], 16_000)
    soundfile.write(tmp_path / "talks" / "short.flac", spoken[0], 16_000)
    (tmp_path / "talks" / "notes.txt").write_text("not audio")
    finished = transcribe(tmp_path / "talks", "-o", f"{tmp_path}/out/", "--format", "srt", model=model)
    assert finished.returncode == 0, finished.stderr
    written = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert [str(path) for path in written] == ["monday/long.srt", "short.srt"]
    cues = (tmp_path / "out" / "monday" / "long.srt").read_text().strip().split("\n\n")
    settings = TranscriptionSettings(max_new_tokens=12, piece_seconds=10.0)
    found = Transcriber(transcriber.recognizer, settings=settings)(tmp_path / "talks" / "monday" / "long.wav")
    assert len(found.segments) > 8
    assert len(cues) == sum(bool(segment.text) for segment in found.segments)
    assert all(" --> " in cue for cue in cues)


def test_several_files_print_their_names_and_texts(tmp_path, spoken, model, transcriber):
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", spoken[number], 16_000, subtype="FLOAT")
    finished = transcribe("1.wav", "0.wav", model=model, cwd=tmp_path)
    assert finished.returncode == 0
    expected = [f"{number}.wav\t{transcriber(spoken[number]).text}" for number in (1, 0)]
    assert finished.stdout.decode().splitlines() == expected


def test_standard_input_is_audio_or_a_manifest(tmp_path, spoken, model, transcriber):
    soundfile.write(tmp_path / "speech.wav", spoken[0], 16_000, subtype="FLOAT")
    text = transcriber(spoken[0]).text
    piped = transcribe("-", model=model, stdin=(tmp_path / "speech.wav").read_bytes())
    assert piped.stdout.decode().strip() == text
    line = json.dumps({"audio": "speech.wav", "id": "first"}).encode() + b"\n"
    listed = transcribe("-", "--vad", model=model, stdin=line, cwd=tmp_path)
    assert json.loads(listed.stdout)["id"] == "first"
    assert json.loads(listed.stdout)["pred_text"] == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.mp3"], "absent.mp3: no such file or folder"),
        (["empty"], "empty: holds no audio (.wav"),
        (["a/x.wav", "b/x.wav", "-o", "out/"], "would both be written to out/x.txt; rename one"),
        (["a/x.wav", "b/x.wav", "-o", "out.srt"], "format srt holds one recording, there are 2; give a folder"),
        (["a/x.wav", "--format", "str"], "format str: did you mean 'srt'?"),
        (["a/x.wav", "-o", "a/x.wav", "--format", "txt"], "a/x.wav: is an input of this command; name another output"),
        (["a/x.wav", "-o", "plain"], "plain: is a file without a suffix"),
        (["-", "-"], "standard input can be read once"),
        (["a/x.wav", "--device", "bogus"], "device bogus: there is no such kind"),
        (["a/x.wav", "--dtype", "float8"], "dtype float8: did you mean 'float"),
        (["a/x.wav", "--piece-seconds", "40"], "piece_seconds is 40; give 1 to 30"),
        (["bad.jsonl"], "bad.jsonl:1: `audio` is missing"),
    ],
)
def test_bad_input_gives_a_one_line_error(tmp_path, model, monkeypatch, capsys, arguments, message):
    for folder in ("a", "b", "empty"):
        (tmp_path / folder).mkdir()
    for folder in ("a", "b"):
        soundfile.write(tmp_path / folder / "x.wav", np.zeros(1_600), 16_000)
    (tmp_path / "bad.jsonl").write_text("{}\n")
    (tmp_path / "plain").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["arkasr", "transcribe", *arguments, "--model", str(model)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1
    assert message in printed[0]


def test_output_names_keep_their_dots_and_folder_names_may_have_dots(tmp_path, model, spoken):
    for name in ("talk.part1", "talk.part2"):
        soundfile.write(tmp_path / f"{name}.wav", spoken[0], 16_000)
    rows = [{"audio": f"talk.part{n}.wav", "id": f"set/utt.{n}"} for n in (1, 2)]
    write_manifest(tmp_path / "all.jsonl", rows)
    inputs = ["talk.part1.wav", "all.jsonl"]
    finished = transcribe(*inputs, "-o", "out.v2/", "--format", "json", model=model, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    written = sorted(path.name for path in (tmp_path / "out.v2").iterdir())
    assert written == ["set-utt.1.json", "set-utt.2.json", "talk.part1.json"]


def test_a_file_name_that_is_not_utf8_is_accepted(tmp_path, model, spoken):
    folder = tmp_path / "latin"
    folder.mkdir()
    soundfile.write(tmp_path / "speech.flac", spoken[0], 16_000)
    (tmp_path / "speech.flac").rename(folder / os.fsdecode(b"caf\xe9.flac"))
    finished = transcribe(folder, "--format", "jsonl", model=model)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["audio"].endswith("caf\udce9.flac")


def test_a_run_is_not_continued_with_other_weights_in_the_same_folder(manifest, model, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    output = manifest.with_name("out.jsonl")
    journal = output.with_name(f".{output.name}.partial")
    command = [sys.executable, "-m", "arkasr", "transcribe", str(manifest), "--model", str(copy), "-o", str(output)]
    process = subprocess.Popen([*command, "--batch-size", "1"], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (journal.is_file() and journal.stat().st_size > 300):
        time.sleep(0.002)
    process.kill()
    process.wait()
    weights = load_file(copy / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    finished = transcribe(manifest, "-o", output, "--batch-size", 1, model=copy)
    assert "another model or other settings" in finished.stderr.decode()
