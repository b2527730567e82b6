"""Speech into pieces that a model can hear: cut at pauses, joined where they are short.

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
    pieces: list[Span] = []
    for span in speech:
        for part in _cut(span, probabilities, max_samples):
            last = pieces[-1] if pieces else None
            if last and part.begin - last.end <= LONGEST_PAUSE and part.end - last.begin <= max_samples:
                pieces[-1] = Span(last.begin, part.end)
            else:
                pieces.append(part)
    return pieces


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
