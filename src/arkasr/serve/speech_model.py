"""A model that serves requests: recordings are cut into pieces, the pieces of all requests share one batch.

In: the path of a recording and a client's options. Out: its segments, in order, each as soon as it is ready.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from arkasr.data.audio import LONGEST_CLIP_SECONDS, SAMPLE_RATE
from arkasr.errors import InputError
from arkasr.recognizers.continuous import Clip
from arkasr.recognizers.recognizer import Recognizer
from arkasr.serve.engine import Engine, Recognized
from arkasr.serve.options import Options
from arkasr.transcribe.aligner import Aligner
from arkasr.transcribe.cutting import CutRecording, cut_in_steps
from arkasr.transcribe.recording import Recording
from arkasr.transcribe.speech import SampleRange
from arkasr.transcribe.transcript import Segment, segment_of
from arkasr.transcribe.whisper_aligner import WhisperAligner

# Pieces of one request that wait or are in the batch. More would only take memory.
PIECES_AHEAD = 16
CUTTING_THREADS, FEATURE_THREADS = 4, 2

Result = TypeVar("Result")


@dataclass(frozen=True)
class ServedSegment:
    """A segment, and how sure the model is.

    Attributes:
        segment: text and times.
        recognized: tokens and their log-probabilities.
        speech_share: mean probability of speech in the piece; None if speech was not looked for.
    """

    segment: Segment
    recognized: Recognized
    speech_share: float | None


class SpeechModel:
    """A recogniser with its engine and its threads.

    Args:
        name: under which clients ask for it.
        recognizer: loaded.
        engine: of the recogniser, running.
        max_new_tokens: cap on the tokens of a piece.
        longest_seconds: of a recording.
        aligner: gives word times; None = there are none.
    """

    def __init__(
        self,
        name: str,
        recognizer: Recognizer,
        engine: Engine,
        *,
        max_new_tokens: int,
        longest_seconds: float,
        aligner: Aligner | WhisperAligner | None,
    ) -> None:
        self.name, self.engine, self.aligner = name, engine, aligner
        self._recognizer = recognizer
        self._max_new_tokens, self._longest_seconds = max_new_tokens, longest_seconds
        self._cutting = ThreadPoolExecutor(CUTTING_THREADS, "cut")
        self._features = ThreadPoolExecutor(FEATURE_THREADS, "features")

    async def cut(self, path: Path, options: Options) -> CutRecording:
        """The pieces of a recording.

        Raises:
            InputError: it cannot be read.
        """
        longest = self._recognizer.longest_clip_seconds
        piece_seconds = min(options.longest_piece_seconds or LONGEST_CLIP_SECONDS, longest)
        steps = cut_in_steps(Recording(path), piece_seconds, longest, self._longest_seconds)
        # Every step queues for a thread, so recordings take turns.
        while (cut := await _in(self._cutting, partial(_step, steps))) is None:
            pass
        if cut.error is not None:
            raise InputError(cut.error)
        return cut

    async def segments(
        self, path: Path, cut: CutRecording, options: Options, *, scored: bool
    ) -> AsyncGenerator[ServedSegment]:
        """The segments, in order. If the iterator is closed, the rest is given up.

        Args:
            path: of the recording.
            cut: its pieces.
            options: what the client asked for.
            scored: whether log-probabilities are wanted.

        Raises:
            InputError: a piece cannot be read, or the model does not know the language.
        """
        recording, owner, context = Recording(path, language=options.language), object(), self.context_ids(options)
        shares: list[float | None] = list(cut.speech_shares) or [None] * len(cut.pieces)
        pending: deque[tuple[SampleRange, float | None, Future[Recognized]]] = deque()
        try:
            for number, (piece, share) in enumerate(zip(cut.pieces, shares, strict=True)):
                if len(pending) == PIECES_AHEAD:
                    yield await self._finished(recording, *pending.popleft(), options)
                features = await _in(self._features, partial(self._features_of, recording, piece))
                clip = Clip(
                    features,
                    options.language,
                    self._max_new_tokens,
                    options.temperature,
                    seed=number,  # pieces are sampled independently, and a request again as before
                    context=context,
                    scored=scored,
                )
                pending.append((piece, share, self.engine.submit(clip, piece.samples / SAMPLE_RATE, owner)))
            while pending:
                yield await self._finished(recording, *pending.popleft(), options)
        finally:
            for _, _, future in pending:
                future.cancel()

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights, and of what the engine keeps beside them."""
        model = self._recognizer.model
        weights = {id(tensor): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
        return sum(weights.values()) + self.engine.cache_bytes

    @property
    def longest_clip_seconds(self) -> float:
        """The longest piece that the model hears at once."""
        return self._recognizer.longest_clip_seconds

    @property
    def allowed_tokens(self) -> Tensor:
        """Which tokens the model may write, bool `[V]`."""
        return self._recognizer.allowed_tokens

    def check_language(self, language: str | None) -> None:
        """Check that the model can be asked for a language.

        Raises:
            InputError: it cannot.
        """
        self._recognizer.prompt_text(language)

    def context_ids(self, options: Options) -> list[int]:
        """The client's prompt as token ids.

        Raises:
            InputError: the model takes none, or it is too long.
        """
        return self._recognizer.context_ids(options.prompt, self._max_new_tokens) if options.prompt.strip() else []

    async def recognize(self, waveform: np.ndarray, language: str | None, owner: Hashable) -> Recognized:
        """What is said in a clip of at most `longest_clip_seconds`.

        Args:
            waveform: float32 `[samples]`, 16 kHz mono.
            language: by name; None = unknown.
            owner: whose turn it uses.

        Raises:
            InputError: the model does not know the language.
        """
        features = await _in(self._features, partial(self._recognizer.features, waveform))
        clip = Clip(features, language, self._max_new_tokens)
        return await asyncio.wrap_future(self.engine.submit(clip, len(waveform) / SAMPLE_RATE, owner))

    @property
    def tokenizer(self) -> Any:
        """The recogniser's tokenizer."""
        return self._recognizer.tokenizer

    def close(self) -> None:
        """End the threads."""
        self._cutting.shutdown()
        self._features.shutdown()

    def _features_of(self, recording: Recording, piece: SampleRange) -> Tensor:
        return self._recognizer.features(recording.read(piece.begin, piece.end))

    async def _finished(
        self,
        recording: Recording,
        piece: SampleRange,
        share: float | None,
        future: "Future[Recognized]",
        options: Options,
    ) -> ServedSegment:
        recognized = await asyncio.wrap_future(future)
        segment = segment_of(recognized.recognition, piece.begin / SAMPLE_RATE, piece.end / SAMPLE_RATE)
        if options.word_times and self.aligner is not None:
            language = options.language or recognized.language
            segment = await _in(self._features, partial(self._aligned, recording, piece, segment, language))
        return ServedSegment(segment, recognized, share)

    def _aligned(self, recording: Recording, piece: SampleRange, segment: Segment, language: str | None) -> Segment:
        assert self.aligner is not None
        return self.aligner.align(segment, recording.read(piece.begin, piece.end), language)


def _step(steps: Generator[None, None, CutRecording]) -> CutRecording | None:
    """The next step; the result after the last one, else None."""
    try:
        return next(steps)
    except StopIteration as finished:
        cut: CutRecording = finished.value
        return cut


async def _in(pool: ThreadPoolExecutor, work: Callable[[], Result]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, work)
