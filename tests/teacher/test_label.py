import json

import numpy as np
import pytest
import soundfile

from arkasr.data.manifests.manifest import read_manifest
from arkasr.recognizers.inference import RecognitionSettings, recognize
from arkasr.recognizers.recognition import Recognition
from arkasr.recognizers.text import clean_transcript
from arkasr.teacher.label import failure_of, fastest_possible_seconds, label
from tests.audio_files import noise_rows


@pytest.fixture
def manifest(tmp_path):
    rows = noise_rows(tmp_path)
    (tmp_path / "3.wav").write_text("not audio")
    rows.insert(1, {"audio": "3.wav", "language": "English", "id": "broken"})
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_results_keep_their_order_and_an_unreadable_file_fails_alone(student, manifest):
    written = recognize(student, read_manifest(manifest), RecognitionSettings(3.0, 5))
    assert [result.error is None for result in written] == [True, False, True, True]
    assert "3.wav: not audio that can be read" in written[1].error
    assert written[1].text is None
    alone = [recognize(student, [u], RecognitionSettings(3.0, 5))[0] for u in read_manifest(manifest)]
    assert written == alone


def test_labels_are_the_teachers_transcripts_and_dropped_ones_are_counted(teacher, manifest):
    labels = label(teacher, read_manifest(manifest), RecognitionSettings(30.0, 4))
    assert sum(labels.counts.values()) == 4
    assert labels.counts["unreadable"] == 1
    assert len(labels.rows) == labels.counts["kept"]
    assert {row["id"] for row in labels.dropped} | {row["id"] for row in labels.rows} == {"0", "1", "2", "broken"}
    for row in [*labels.rows, *labels.dropped]:
        assert row["text"] != "truth"
    everything = label(teacher, read_manifest(manifest), RecognitionSettings(30.0, 4), drop_failures=False)
    assert everything.counts == {"kept": 3, "unreadable": 1}


def test_a_long_recording_and_an_unsupported_language_fail_alone(student, teacher, manifest):
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    soundfile.write(manifest.parent / "0.wav", np.full(31 * 16_000, 0.1), 16_000)
    del rows[2]["language"]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    written = recognize(teacher, read_manifest(manifest), RecognitionSettings(60.0, 5))
    assert "0.wav: the audio is 31.0 s long" in written[0].error
    assert "language None cannot be forced" in written[2].error
    assert written[3].error is None
    labels = label(teacher, read_manifest(manifest), RecognitionSettings(60.0, 5), drop_failures=False)
    assert labels.counts == {"kept": 1, "unreadable": 3}
    assert [row["error"] for row in labels.dropped] == [written[index].error for index in (0, 1, 2)]


@pytest.mark.parametrize(
    ("recognition", "seconds", "failure"),
    [
        (Recognition(raw="a b", text="a b", tokens=3, stopped=True), 1.0, None),
        (Recognition(error="no such file"), 0.0, "unreadable"),
        (Recognition(raw="", text="", tokens=1, stopped=True), 1.0, "empty"),
        (Recognition(raw="a b", text="a b", tokens=9, stopped=False), 1.0, "truncated"),
        (Recognition(raw="", text="no no no no", tokens=5, stopped=True), 2.0, "looping"),
        (Recognition(raw="", text="half a ch\ufffd", tokens=7, stopped=True), 5.0, "undecodable"),
        (Recognition(raw="", text="far too many words to say", tokens=7, stopped=True), 0.3, "too-long"),
        (Recognition(raw="", text="今天我们去北京买书", tokens=9, stopped=True), 0.5, "too-long"),
    ],
)
def test_obvious_failures(recognition, seconds, failure):
    assert failure_of(recognition, seconds) == failure


def test_the_fastest_speech_depends_on_the_script():
    assert fastest_possible_seconds("a" * 35) == pytest.approx(1)
    assert fastest_possible_seconds("今" * 12) == pytest.approx(1)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (" hello  there ", "hello there"),
        ("text<|im_end|>more", "text"),
        ("heard<|user|>again", "heard"),
        ("think<|text|>said", "said"),
        ("<|start_content|>a<|bicodec_semantic_12|> b<|end_content|>", "a b"),
        (", . - well", "well"),
        ("", ""),
    ],
)
def test_transcripts_are_cleaned_as_in_the_published_evaluation(raw, clean):
    assert clean_transcript(raw) == clean
