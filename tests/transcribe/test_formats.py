import json
import random
import re

import pytest

from arkasr.transcribe.formats import FORMATS, named_text, transcript_row
from arkasr.transcribe.transcript import Segment, Transcript, Word, join_segment_texts

FIELDS = {"audio": "talk.mp3", "speaker": "s1", "extra": [1, 2]}
TALK = Transcript(
    (
        Segment(0.5, 2.25, "Good morning & welcome.", "<raw> Good morning & welcome."),
        Segment(3599.9996, 3725.5, "", ""),
        Segment(3600.0, 3725.0, "the end " * 12 + "the end", "the end", ("looping", "truncated")),
    ),
    3800.0,
)


def test_a_row_has_every_input_field_and_the_transcript():
    row = transcript_row(FIELDS, TALK)
    assert list(row)[:3] == ["audio", "speaker", "extra"]
    assert row["pred_text"].startswith("Good morning & welcome. the end")
    assert row["pred_text_raw"] == "<raw> Good morning & welcome. the end"
    assert [segment["begin"] for segment in row["pred_segments"]] == [0.5, 3599.9996, 3600.0]
    assert row["pred_flags"] == ["looping", "truncated"]
    assert "words" not in row["pred_segments"][0]


def test_a_short_utterance_has_only_the_published_fields():
    row = transcript_row(FIELDS, Transcript((Segment(0.0, 2.0, "yes", "yes"),), 2.0))
    assert row == FIELDS | {"pred_text": "yes", "pred_text_raw": "yes"}


def test_fields_of_an_earlier_run_are_dropped():
    before = FIELDS | {"pred_text": "old", "error": "old", "pred_flags": ["looping"], "pred_segments": [1]}
    found = Transcript((Segment(0.0, 2.0, "yes", "yes"),), 2.0)
    assert transcript_row(before, found) == FIELDS | {"pred_text": "yes", "pred_text_raw": "yes"}


def test_a_failure_is_not_an_empty_transcript():
    assert transcript_row(FIELDS, Transcript(error="unreadable")) == FIELDS | {
        "pred_text": None,
        "pred_text_raw": None,
        "error": "unreadable",
    }
    half = transcript_row(FIELDS, Transcript((Segment(0.0, 2.0, "yes", "yes"),), 2.0, "ends early"))
    assert (half["pred_text"], half["error"]) == ("yes", "ends early")


def test_json_lines_are_lines_and_json_is_one_document():
    assert json.loads(FORMATS["jsonl"](FIELDS, TALK)) == transcript_row(FIELDS, TALK)
    assert FORMATS["jsonl"](FIELDS, TALK).count("\n") == 1
    assert json.loads(FORMATS["json"](FIELDS, TALK))["seconds"] == 3800.0


def test_subrip():
    assert FORMATS["srt"](FIELDS, TALK) == (
        "1\n00:00:00,500 --> 00:00:02,250\nGood morning & welcome.\n\n"
        "2\n01:00:00,000 --> 01:02:05,000\n"
        "the end the end the end the end the end\nthe end the end the end the end the end\nthe end the end the end\n"
    )


def test_webvtt():
    lines = FORMATS["vtt"](FIELDS, TALK).split("\n")
    assert lines[:4] == ["WEBVTT", "", "00:00:00.500 --> 00:00:02.250", "Good morning &amp; welcome."]


def test_text():
    assert FORMATS["txt"](FIELDS, TALK).splitlines()[0] == "Good morning & welcome."
    assert len(FORMATS["txt"](FIELDS, TALK).splitlines()) == 2
    assert named_text(FIELDS, TALK).startswith("talk.mp3\tGood morning & welcome. the end")


def test_words_with_times_make_short_cues_and_keep_their_punctuation():
    text = "Well, it's late. " + "We said so many things about it; " * 4 + "bye!"
    spelled = [word.strip(",.;!") for word in text.split()]
    words = tuple(Word(word, 0.4 * place, 0.4 * place + 0.3) for place, word in enumerate(spelled))
    late = tuple(Word(word.text, word.begin + 3, word.end + 3) for word in words[3:])
    segment = Segment(0.0, 30.0, text, text, (), words[:3] + late)
    shown = FORMATS["srt"](FIELDS, Transcript((segment,), 30.0)).strip().split("\n\n")
    cues = [" ".join(cue.split("\n")[2:]) for cue in shown]
    assert cues[0] == "Well, it's late."
    assert " ".join(cues) == " ".join(text.split())
    assert all(len(cue.split("\n")) <= 4 for cue in shown)
    assert max(len(line) for cue in shown for line in cue.split("\n")) <= 42
    assert shown[0].split("\n")[1] == "00:00:00,000 --> 00:00:01,100"
    assert shown[1].split("\n")[1].startswith("00:00:04,200 --> ")


def test_chinese_words_are_joined_without_spaces():
    words = tuple(Word(character, place, place + 0.5) for place, character in enumerate("今天去北京"))
    segment = Segment(0.0, 6.0, "今天,去北京。", "", (), words)
    assert "今天,去北京。" in FORMATS["srt"](FIELDS, Transcript((segment,), 6.0))


def test_words_may_keep_their_punctuation_and_follow_another_script():
    text = "天，天买iPhone 15 了。天"
    spelled = ["天，", "天", "买", "iPhone", "15", "了。", "天"]
    words = tuple(Word(word, 8 * place, 8 * place + 1) for place, word in enumerate(spelled))
    shown = FORMATS["srt"](FIELDS, Transcript((Segment(0.0, 60.0, text, "", (), words),), 60.0)).split("\n\n")
    assert [cue.strip().split("\n")[2] for cue in shown] == spelled


def test_cues_have_one_or_two_lines_and_contain_all_text():
    draw = random.Random(0)
    for _ in range(100):
        spelled = ["".join(draw.choices("abcdefghij", k=draw.randint(1, 14))) for _ in range(40)]
        aligned = [word if draw.random() < 0.9 else "otherwise" for word in spelled]
        words = tuple(Word(word, 0.3 * place, 0.3 * place + 0.2) for place, word in enumerate(aligned))
        segment = Segment(0.0, 12.0, " ".join(spelled), "", (), words)
        shown = [cue.split("\n")[2:] for cue in FORMATS["srt"](FIELDS, Transcript((segment,), 12.0)).split("\n\n")]
        lines = [[line for line in cue if line] for cue in shown]
        assert all(1 <= len(cue) <= 2 for cue in lines)
        assert " ".join(line for cue in lines for line in cue) == " ".join(spelled)


def test_characters_of_unspaced_scripts_count_twice_in_a_line():
    text = "今天我们去北京" * 10 + " and then some English words that go on for a while"
    shown = FORMATS["srt"](FIELDS, Transcript((Segment(0.0, 9.0, text, ""),), 9.0)).split("\n")[2:]
    assert "".join(shown).replace(" ", "") == text.replace(" ", "")
    assert len(shown[0]) == 21
    assert all(len(line) <= 42 for line in shown)


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["good", "morning"], "good morning"),
        (["今天", "很好"], "今天很好"),
        (["今天。", "很好"], "今天。很好"),
        (["今天", "OK"], "今天 OK"),
        (["", "a", "", "b "], "a b"),
        (["안녕", "하세요"], "안녕 하세요"),
        ([], ""),
    ],
)
def test_segments_are_joined_with_spaces_if_their_script_has_them(texts, joined):
    assert join_segment_texts(texts) == joined


@pytest.mark.parametrize("format_name", ["srt", "vtt"])
def test_every_cue_ends_after_it_begins(format_name):
    """Aligners give words of no length, also several at one time, and at the end of the recording."""
    spelled = ["one", "two", "three", "four", "five"]
    times = [(0.0, 0.0), (9.0, 9.0), (9.0, 9.0), (18.05, 18.05), (60.0, 60.0)]
    words = tuple(Word(word, *time) for word, time in zip(spelled, times, strict=True))
    segment = Segment(0.0, 60.0, " ".join(spelled), "", (), words)
    text = FORMATS[format_name](FIELDS, Transcript((segment,), 60.0))
    shown = re.findall(r"(\d\d):(\d\d):(\d\d)[,.](\d{3})", text)
    seconds = [3600 * int(h) + 60 * int(m) + int(s) + int(ms) / 1000 for h, m, s, ms in shown]
    assert len(seconds) == 2 * len(re.findall("-->", text)) > 6
    assert all(end > begin for begin, end in zip(seconds[::2], seconds[1::2], strict=True))
