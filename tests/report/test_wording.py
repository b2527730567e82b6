import pytest

from arkasr.report.wording import (
    count,
    duration,
    few_speakers,
    percent,
    percent_range,
    points,
    points_range,
    probability,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.1234), "12.3"),
        (percent(0.01239, 2), "1.24"),
        (percent(1.034), "103.4"),
        (percent(None), "–"),
        (percent(-0.0001), "0.0"),
        (percent_range((0.11, 0.138)), "11.0–13.8"),
        (points_range((-0.01, 0.02)), "−1.0 to +2.0"),
        (points(0.0213), "+2.1"),
        (points(-0.0213), "−2.1"),
        (points(-0.00001), "0.0"),
        (points_range(None), "–"),
        (probability(None), "–"),
        (few_speakers(8, "utterances", has_seeds=True), "the variance between so few speakers (8) is not included"),
        (few_speakers(8, "speakers", has_seeds=False), "an interval over so few speakers (8) is too narrow"),
        (few_speakers(8, "speakers", has_seeds=True), ""),
        (few_speakers(20, "utterances", has_seeds=False), ""),
        (few_speakers(None, "utterances", has_seeds=False), ""),
        (probability(0.0001), "< 0.001"),
        (probability(0.0304), "0.030"),
        (probability(0.41), "0.41"),
        (duration(47.6), "48 s"),
        (duration(754.2), "12 min 34 s"),
        (duration(11_100), "3 h 5 min"),
        (count(1, "utterance"), "1 utterance"),
        (count(1200, "utterance"), "1,200 utterances"),
    ],
)
def test_numbers_as_text(text: str, expected: str) -> None:
    assert text == expected
