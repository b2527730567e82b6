"""Speech into pieces that a model can hear: cut at the longest pauses, joined where they are short.

No sample of speech is in two pieces or in none. Knows nothing of files or models.
"""

from collections.abc import Sequence

import numpy as np

from arkasr.transcribe.speech import FRAME_SAMPLES, Span

LONGEST_PAUSE = 32_000  # two seconds: what is silent for longer is not worth hearing
# A cut through speech is made where speech is least likely over about a fifth of a second.
CUT_FRAMES = 7


def pieces_of(speech: Sequence[Span], probabilities: np.ndarray, max_samples: int) -> list[Span]:
    """Pieces of at most `max_samples`, in order and without overlap, that hold all of `speech`.

    Args:
        speech: in order and without overlap.
        probabilities: of speech, for each frame of the recording; decides where speech without a pause is cut.
        max_samples: longest piece.
    """
    parts = [part for span in speech for part in _cut(span, probabilities, max_samples)]
    pieces: list[Span] = []
    first = 0
    while first < len(parts):
        last = _last_of_piece(parts, first, max_samples)
        pieces.append(Span(parts[first].begin, parts[last].end))
        first = last + 1
    return pieces


def _last_of_piece(parts: Sequence[Span], first: int, max_samples: int) -> int:
    """The part after which a piece that begins with `first` ends: before the longest pause of its second half."""
    fitting = first
    while fitting + 1 < len(parts):
        following = parts[fitting + 1]
        if following.begin - parts[fitting].end > LONGEST_PAUSE:
            return fitting
        if following.end - parts[first].begin > max_samples:
            break
        fitting += 1
    if fitting + 1 == len(parts):
        return fitting
    middle = parts[first].begin + max_samples // 2
    candidates = [place for place in range(first, fitting + 1) if parts[place].end >= middle] or [fitting]
    return max(candidates, key=lambda place: parts[place + 1].begin - parts[place].end)


def _cut(span: Span, probabilities: np.ndarray, max_samples: int) -> list[Span]:
    parts = []
    while span.samples > max_samples:
        place = _least_speech(probabilities, span.begin + max_samples // 2, span.begin + max_samples)
        parts.append(Span(span.begin, place))
        span = Span(place, span.end)
    return [*parts, span]


def _least_speech(probabilities: np.ndarray, begin: int, end: int) -> int:
    """The middle of the frame between two samples around which speech is least likely."""
    first, last = -(-begin // FRAME_SAMPLES), end // FRAME_SAMPLES
    around = np.pad(probabilities, CUT_FRAMES // 2, mode="edge")
    smooth = np.convolve(around, np.full(CUT_FRAMES, 1 / CUT_FRAMES), mode="valid")
    return (first + int(smooth[first:last].argmin())) * FRAME_SAMPLES + FRAME_SAMPLES // 2
