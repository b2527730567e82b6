import pytest

from arkasr.recognizers.loops import is_looping, loop_start


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
def test_loops_are_detected_in_any_script(text):
    assert is_looping(text)


@pytest.mark.parametrize(
    "text",
    ["", "very very very good", "one two three one two three", "10000000000", "...........", "hahaha", "四四四号"],
)
def test_a_few_repetitions_are_no_loop(text):
    assert not is_looping(text)


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("", None),
        ("no no no", None),
        ("no no no no", "no no no"),
        ("one two two two", None),
        ("well i see i see i see i see and so on", "i see i see i see and so on"),
        # The shortest phrase that explains the words, and the first of two loops.
        ("a b a b a b a b a b", "a b a b a b a b"),
        ("yes yes yes yes no no no no", "yes yes yes no no no no"),
        ("我说我说我说我说", "我说我说我说"),
        ("haaaaaaaaaa", "aaaaaaaaa"),
        # A sentence of twelve words is a phrase, too.
        (
            " ".join([" ".join(f"w{place}" for place in range(12))] * 4),
            " ".join(["w0 w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11"] * 3),
        ),
        # Repeated, but not in direct succession.
        ("a b x a b y a b z a b", None),
    ],
)
def test_a_loop_starts_at_its_second_repetition(text, second):
    start = loop_start(text)
    assert (None if start is None else text[start:]) == second
    assert is_looping(text) == (second is not None)


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("see you there see you there see yo", None),
        ("see you there see you there see you there se", "see you there see you there se"),
        ("five five five", None),
        ("five five five five fi", "five five five fi"),
        ("see you there see you there see you there and th", None),
    ],
)
def test_a_text_that_is_cut_off_needs_one_repetition_less(text, second):
    start = loop_start(text, cut_off=True)
    assert (None if start is None else text[start:]) == second
