"""Numbers as people read them: percentages, intervals, points, probabilities, durations."""

MINUS = "\u2212"  # as wide as a plus sign, unlike the hyphen
FEW_SPEAKERS = 20  # below that, what an interval over utterances leaves out is worth a clause


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
    """0.00412 as `0.004`; below 0.001 only that; None as a dash."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def duration(seconds: float) -> str:
    """Seconds as `48 s`, `11 min 20 s` or `3 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(number: int, noun: str) -> str:
    """`1 utterance`, `1,200 utterances`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def few_speakers(speakers: int | None, resampled: str, *, has_seeds: bool) -> str:
    """What few voices do to an interval, as a clause; empty where they do nothing, or are not known.

    Args:
        speakers: how many said everything.
        resampled: `utterances` or `speakers`: what the interval is over.
        has_seeds: whether it is over several training seeds too.
    """
    if speakers is None or speakers >= FEW_SPEAKERS:
        return ""
    if resampled == "utterances":
        return f"the luck of so few speakers ({speakers}) is left out"
    return "" if has_seeds else f"an interval over so few speakers ({speakers}) covers too little"


def _signed(number: float, decimals: int) -> str:
    text = f"{number:.{decimals}f}"
    if not float(text):
        return text.lstrip("-")
    return text.replace("-", MINUS)
