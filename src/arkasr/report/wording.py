"""Numbers as text for people: percentages, intervals, points, p-values, durations."""

MINUS = "\u2212"  # the minus sign, as wide as a plus sign
FEW_SPEAKERS = 20  # with fewer speakers, an interval gets a warning


def percent(share: float | None, decimals: int = 1) -> str:
    """0.1234 as `12.3`; None as a dash."""
    return "–" if share is None else _signed(100 * share, decimals)


def percent_range(shares: tuple[float, float], decimals: int = 1) -> str:
    """(0.11, 0.138) as `11.0–13.8`."""
    return "–".join(percent(share, decimals) for share in shares)


def points(difference: float, decimals: int = 1) -> str:
    """A difference of shares in percentage points, always with its sign."""
    text = _signed(100 * difference, decimals)
    return text if text.startswith(MINUS) or not float(text) else f"+{text}"


def points_range(differences: tuple[float, float] | None, decimals: int = 1) -> str:
    """(-0.01, 0.02) as `−1.0 to +2.0`; None as a dash."""
    if differences is None:
        return "–"
    return " to ".join(points(difference, decimals) for difference in differences)


def probability(p: float | None) -> str:
    """0.00412 as `0.004`, smaller values than 0.001 as `< 0.001`; None as a dash."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def duration(seconds: float) -> str:
    """Seconds as `48 s`, `11 min 20 s` or `3 h 5 min`."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"


def count(number: int, noun: str) -> str:
    """`1 utterance`, `1,200 utterances`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def few_speakers(speakers: int | None, resampled: str, *, has_seeds: bool) -> str:
    """A warning about an interval over few speakers, as a clause; empty if there are enough, or the number is unknown.

    Args:
        speakers: number of speakers.
        resampled: the unit that the interval resamples, `utterances` or `speakers`.
        has_seeds: whether the interval is over several training seeds too.
    """
    if speakers is None or speakers >= FEW_SPEAKERS:
        return ""
    if resampled == "utterances":
        return f"the variance between so few speakers ({speakers}) is not included"
    return "" if has_seeds else f"an interval over so few speakers ({speakers}) is too narrow"


def _signed(number: float, decimals: int) -> str:
    text = f"{number:.{decimals}f}"
    if not float(text):
        return text.lstrip("-")
    return text.replace("-", MINUS)
