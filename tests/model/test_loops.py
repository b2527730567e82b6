import pytest

from arkasr.model.loops import is_looping


@pytest.mark.parametrize(
    "text",
    [
        "thank you thank you thank you thank you",
        "one two one two one two one two",
        "我要我要我要我要",
        "and so on and so on and so on and so on and",
        "ありがとうありがとうありがとうありがとう",
        "hahahahahahahahaha",
        "ขอบคุณขอบคุณขอบคุณขอบคุณ",
    ],
)
def test_loops_are_seen_in_any_script(text):
    assert is_looping(text)


@pytest.mark.parametrize(
    "text",
    ["", "very very very good", "one two three one two three", "10000000000", "...........", "hahaha", "四四四号"],
)
def test_speech_repeats_itself_a_little(text):
    assert not is_looping(text)
