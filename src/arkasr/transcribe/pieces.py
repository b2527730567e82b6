"""Speech into pieces: long speech is cut at its longest pauses, short speech is joined.

In: sample ranges of speech. Out: sample ranges of pieces. Every sample of speech is in exactly one piece.
"""

from collections.abc import Sequence

import numpy as np

from arkasr.transcribe.speech import FRAME_SAMPLES, SampleRange

MAX_PAUSE_SAMPLES = 32_000  # two seconds; longer pauses are in no piece
SMOOTHING_FRAMES = (
    7  # 224 ms; without a pause, the cut is where the mean probability of speech over so many frames is lowest
)


def pieces_of(speech: Sequence[SampleRange], probabilities: np.ndarray, max_samples: int) -> list[SampleRange]:
    """Pieces of at most `max_samples` that contain all of `speech`, in order and without overlap.

    Args:
        speech: in order and without overlap.
        probabilities: of speech, `[frames]`; speech without a pause is cut where they are lowest.
        max_samples: longest piece.
    """
    parts = [part for speech_range in speech for part in _cut(speech_range, probabilities, max_samples)]
    pieces: list[SampleRange] = []
    first = 0
    while first < len(parts):
        last = _last_of_piece(parts, first, max_samples)
        pieces.append(SampleRange(parts[first].begin, parts[last].end))
        first = last + 1
    return pieces


def _last_of_piece(parts: Sequence[SampleRange], first: int, max_samples: int) -> int:
    """Index of the last part of the piece that begins with part `first`.

    A full piece ends before the longest pause of its second half.
    """
    last = first
    while last + 1 < len(parts):
        following = parts[last + 1]
        if following.begin - parts[last].end > MAX_PAUSE_SAMPLES:
            return last
        if following.end - parts[first].begin > max_samples:
            break
        last += 1
    if last + 1 == len(parts):
        return last
    middle = parts[first].begin + max_samples // 2
    candidates = [index for index in range(first, last + 1) if parts[index].end >= middle] or [last]
    return max(candidates, key=lambda index: parts[index + 1].begin - parts[index].end)


def _cut(speech_range: SampleRange, probabilities: np.ndarray, max_samples: int) -> list[SampleRange]:
    parts = []
    begin, end = speech_range.begin, speech_range.end
    while end - begin > max_samples:
        cut = _least_speech(probabilities, begin + max_samples // 2, begin + max_samples)
        parts.append(SampleRange(begin, cut))
        begin = cut
    return [*parts, SampleRange(begin, end)]


def _least_speech(probabilities: np.ndarray, begin: int, end: int) -> int:
    """Middle sample of the frame between `begin` and `end` with the lowest smoothed probability of speech."""
    first, last = -(-begin // FRAME_SAMPLES), end // FRAME_SAMPLES
    padded = np.pad(probabilities, SMOOTHING_FRAMES // 2, mode="edge")
    smooth = np.convolve(padded, np.full(SMOOTHING_FRAMES, 1 / SMOOTHING_FRAMES), mode="valid")
    return (first + int(smooth[first:last].argmin())) * FRAME_SAMPLES + FRAME_SAMPLES // 2
