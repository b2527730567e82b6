from arkasr.serve.live.agreement import Agreement


def shown(*hypotheses: str) -> list[str]:
    agreement = Agreement()
    return [agreement.add(hypothesis) for hypothesis in hypotheses]


def test_words_are_shown_when_two_hypotheses_agree_and_the_last_word_waits() -> None:
    assert shown("The music", "The music came near", "The music came nearer and") == ["", "The music", " came"]


def test_what_is_shown_stays() -> None:
    assert shown("a b c", "a b c d", "x b c d", "x b c d e", "a b c d e f", "a b c d e f g") == [
        "",
        "a b c",
        "",
        "",
        "",
        " d e f",
    ]


def test_scripts_without_spaces_grow_by_characters() -> None:
    assert shown("今天去", "今天去北", "今天去北京") == ["", "今天去", "北"]


def test_nothing_comes_of_nothing() -> None:
    assert shown("", "", "a", "a", "a b") == ["", "", "", "", "a"]
