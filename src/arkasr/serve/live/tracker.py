"""Where speech begins and ends in a stream. In: samples as they come. Out: utterances, open and finished.

An utterance ends at a pause. One that becomes too long ends where it is least likely to be speech. Every sample of
speech is in exactly one utterance.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arkasr.data.audio import SAMPLE_RATE
from arkasr.transcribe.speech import FRAME_SAMPLES, MARGIN_MS, MIN_SPEECH_MS, SPEECH_THRESHOLD

FRAMES_PER_SECOND = SAMPLE_RATE / FRAME_SAMPLES
MARGIN_FRAMES = -(-MARGIN_MS * SAMPLE_RATE // 1000 // FRAME_SAMPLES)
MIN_SPEECH_FRAMES = MIN_SPEECH_MS * SAMPLE_RATE // 1000 // FRAME_SAMPLES
# Speech goes on above this probability, which is lower than that at which it begins (as Silero's authors do it).
GOES_ON_THRESHOLD = SPEECH_THRESHOLD - 0.15
SMOOTHING_FRAMES = 7

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Started:
    """Speech has begun.

    Attributes:
        begin: its first sample, counted as by the tracker.
    """

    begin: int


@dataclass(frozen=True)
class Ended:
    """An utterance is complete.

    Attributes:
        begin: its first sample, counted as by the tracker.
        samples: float32 `[n]`, 16 kHz mono.
        goes_on: whether the speech goes on in the next utterance, because this one became too long.
    """

    begin: int
    samples: Samples
    goes_on: bool = False


class SpeechTracker:
    """Follows one stream.

    Args:
        probability: of speech in a frame `[FRAME_SAMPLES]`; called with every frame in order.
        pause_seconds: of silence that end an utterance.
        longest_seconds: of an utterance.
        first_sample: the number of the stream's first sample.
    """

    def __init__(
        self,
        probability: Callable[[Samples], float],
        *,
        pause_seconds: float,
        longest_seconds: float,
        first_sample: int = 0,
    ) -> None:
        self._probability, self._first_sample = probability, first_sample
        self._pause_frames = max(round(pause_seconds * FRAMES_PER_SECOND), 1)
        self._longest_frames = int(longest_seconds * FRAMES_PER_SECOND)
        self._rest = np.zeros(0, dtype=np.float32)
        self._frames_heard = 0
        # Of silence: what may be the beginning of speech. Of speech: all of the utterance.
        self._frames: deque[Samples] = deque()
        self._probabilities: deque[float] = deque()
        self._is_speech = False
        self._run = 0  # frames of speech, in silence, or of silence, in speech

    @property
    def open_samples(self) -> Samples | None:
        """The utterance so far, float32 `[n]`; None in silence."""
        return np.concatenate(self._frames) if self._is_speech else None

    def add(self, samples: Samples) -> Iterator[Started | Ended]:
        """The changes that further samples, float32 `[n]`, bring."""
        self._rest = np.concatenate((self._rest, samples))
        while len(self._rest) >= FRAME_SAMPLES:
            frame, self._rest = self._rest[:FRAME_SAMPLES], self._rest[FRAME_SAMPLES:]
            yield from self._add_frame(frame)

    def finish(self) -> Iterator[Ended]:
        """The utterance that is open, up to the last sample; the stream ends."""
        if self._is_speech:
            ended = self._ended(len(self._frames), keep=0)
            yield Ended(ended.begin, np.concatenate((ended.samples, self._rest)))

    def _add_frame(self, frame: Samples) -> Iterator[Started | Ended]:
        probability = self._probability(frame)
        self._frames_heard += 1
        self._frames.append(frame)
        self._probabilities.append(probability)
        if self._is_speech:
            yield from self._in_speech(probability)
        else:
            yield from self._in_silence(probability)

    def _in_silence(self, probability: float) -> Iterator[Started]:
        self._run = self._run + 1 if probability >= SPEECH_THRESHOLD else 0
        while len(self._frames) > MARGIN_FRAMES + max(self._run, 1):
            self._frames.popleft()
            self._probabilities.popleft()
        if self._run >= MIN_SPEECH_FRAMES:
            self._is_speech, self._run = True, 0
            yield Started(self._begin())

    def _in_speech(self, probability: float) -> Iterator[Ended]:
        self._run = self._run + 1 if probability < GOES_ON_THRESHOLD else 0
        if self._run >= self._pause_frames:
            margin = min(MARGIN_FRAMES, self._run)
            yield self._ended(len(self._frames) - self._run + margin, keep=min(MARGIN_FRAMES, self._run - margin))
        elif len(self._frames) >= self._longest_frames:
            yield self._cut()

    def _ended(self, length: int, *, keep: int) -> Ended:
        """End the utterance after `length` frames. Of the frames after it, the last `keep` may begin the next one."""
        ended = Ended(self._begin(), np.concatenate(list(self._frames)[:length]))
        for queue in (self._frames, self._probabilities):
            while len(queue) > keep:
                queue.popleft()
        self._is_speech, self._run = False, 0
        return ended

    def _cut(self) -> Ended:
        probabilities = np.pad(np.array(self._probabilities), SMOOTHING_FRAMES // 2, mode="edge")
        smooth = np.convolve(probabilities, np.full(SMOOTHING_FRAMES, 1 / SMOOTHING_FRAMES), mode="valid")
        half = len(smooth) // 2
        length = half + int(smooth[half:].argmin())
        ended = Ended(self._begin(), np.concatenate(list(self._frames)[:length]), goes_on=True)
        for _ in range(length):
            self._frames.popleft()
            self._probabilities.popleft()
        return ended

    def _begin(self) -> int:
        return self._first_sample + (self._frames_heard - len(self._frames)) * FRAME_SAMPLES
