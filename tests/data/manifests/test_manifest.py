import json

import pytest

from arkasr.data.manifests.check import check_manifest
from arkasr.data.manifests.durations import decode_utterance
from arkasr.data.manifests.manifest import ManifestError, read_manifest, read_rows, write_manifest
from arkasr.errors import InputError
from arkasr.transcribe.recording import recording_of


def write(folder, *lines):
    path = folder / "set.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_a_line_becomes_an_utterance_and_keeps_all_its_fields(folder):
    line = {
        "audio": "clips/a.wav",
        "text": "hi",
        "language": "en-US",
        "speaker": "s",
        "task": "asr",
        "mood": {"happy": True},
        "id": 7,
    }
    utterance = read_manifest(write(folder, line))[0]
    assert utterance.audio == folder / "clips" / "a.wav"
    assert utterance.audio.is_absolute()
    assert (utterance.text, utterance.language, utterance.speaker, utterance.id) == ("hi", "English", "s", "7")
    assert (utterance.begin_time, utterance.end_time, utterance.duration) == (None, None, None)
    assert utterance.fields == line


def test_times_are_seconds_and_minus_one_means_the_whole_file(folder):
    first, second = read_manifest(
        write(
            folder,
            {"audio": "clips/a.wav", "begin_time": -1, "end_time": -1},
            {"audio": "clips/a.wav", "begin_time": 0.25, "end_time": 0.75},
        )
    )
    assert (first.begin_time, first.end_time, first.text) == (None, None, None)
    assert (second.begin_time, second.end_time, second.duration) == (0.25, 0.75, 0.5)
    assert first.id != second.id


BAD_LINES = [
    ("{not json", "not JSON"),
    ('{"audio": "clips/a.wav", "snr": NaN}', "NaN is no JSON number"),
    ('{"audio": "clips/a.wav", "snr": [1e999]}', "1e999 is no JSON number"),
    ("[1, 2]", "expected a JSON object, found list"),
    ({"text": "no audio"}, "`audio` is missing"),
    ({"audio": "clips/none.wav"}, "no such file; paths are relative to the manifest's folder"),
    ({"audio": "clips/a.wav", "text": 3}, "`text` is 3; it must be a string"),
    ({"audio": "clips/a.wav", "begin_time": 2, "end_time": 1}, "`end_time` 1.0 is not after `begin_time` 2.0"),
    ({"audio": "clips/a.wav", "begin_time": "soon"}, "`begin_time` is 'soon'"),
    ({"audio": "clips/a.wav", "duration": -3}, "`duration` is -3"),
    ({"audio": "clips/a.wav", "duration": 0}, "`duration` is 0"),
    ({"audio": "clips/a.wav", "task": "translate"}, "`task` is 'translate'; it must be asr, or be left out"),
    ({"audio": "clips/a.wav", "language": "klingon"}, "language 'klingon' is not known"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[message for _, message in BAD_LINES])
def test_a_bad_line_is_named_with_file_number_and_remedy(folder, line, message):
    path = write(folder, {"audio": "clips/a.wav"}, "", line)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_bad_line_is_found_not_only_the_first(folder):
    path = write(folder, *(line for line, _ in BAD_LINES), {"audio": "clips/a.wav"})
    with pytest.raises(ManifestError, match="and 12 more") as caught:
        read_manifest(path)
    assert [problem.line for problem in caught.value.problems] == list(range(1, 14))
    for problem, (_, message) in zip(caught.value.problems, BAD_LINES, strict=True):
        assert message in problem.message


def test_a_repeated_id_names_the_earlier_line(folder):
    path = write(folder, {"audio": "clips/a.wav", "id": "x"}, {"audio": "clips/b.flac", "id": "x"})
    with pytest.raises(ManifestError, match="2: id 'x' is also in line 1"):
        read_manifest(path)


def test_wrong_encoding_missing_and_empty_files(folder):
    path = folder / "set.jsonl"
    path.write_bytes('{"audio": "clips/a.wav", "text": "ä"}'.encode("latin-1"))
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_manifest(path)
    with pytest.raises(InputError, match="no such manifest"):
        read_manifest(folder / "absent.jsonl")
    path.write_text("\n\n")
    with pytest.raises(InputError, match="the manifest is empty"):
        read_manifest(path)


def test_rows_are_written_atomically(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    rows = [{"text": "你好\u2028there"}, {"text": "b"}]
    write_manifest(path, rows)
    assert read_rows(path) == rows

    def broken():
        yield {"text": "c"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(path, broken())
    assert read_rows(path) == rows


def test_check_summarises_the_manifest_and_finds_lines_that_contradict_the_audio(folder):
    path = write(
        folder,
        {"audio": "clips/a.wav", "text": "hi", "language": "en", "speaker": "s"},
        {"audio": "clips/a.wav", "begin_time": 0.5, "end_time": 3.0},
        {"audio": "clips/a.wav", "duration": 9.0, "id": "long"},
        {"audio": "clips/b.flac", "id": "silent"},
        {"text": "no audio"},
    )
    report = check_manifest(path)
    assert (report.utterances, report.without_text, report.speakers) == (4, 3, 1)
    assert report.languages == {None: 3, "English": 1}
    assert [problem.line for problem in report.problems] == [2, 3, 5]
    assert "is not in the file, which is 1.00 s long; correct `begin_time`" in report.problems[0].message
    assert "`duration` is 9 s, but the audio is 1.00 s long; correct it" in report.problems[1].message
    assert [problem.line for problem in check_manifest(path, decode_audio=True).problems] == [2, 3, 4, 5]


def test_begin_and_duration_name_a_piece(folder):
    """As in NeMo's manifests. Read from `begin_time` to the end of the file, the piece would be another one."""
    row = {"audio": "clips/a.wav", "begin_time": 0.2, "duration": 0.5}
    [utterance] = read_manifest(write(folder, row))
    assert (utterance.begin_time, utterance.end_time, utterance.duration) == (0.2, 0.7, 0.5)
    with pytest.raises(InputError, match=r"`duration` is 0\.5 s, but the times give 0\.8 s; correct one of them"):
        read_manifest(write(folder, row | {"end_time": 1.0}))


def test_a_duration_that_is_not_that_of_the_audio_is_found_when_it_is_read(folder):
    [utterance] = read_manifest(write(folder, {"audio": "clips/a.wav", "duration": 0.5}))
    message = r"a\.wav: `duration` is 0\.5 s, but the audio is 1\.00 s long; correct it"
    with pytest.raises(InputError, match=message):
        decode_utterance(utterance)
    with pytest.raises(InputError, match=message):
        recording_of(utterance).seconds()
