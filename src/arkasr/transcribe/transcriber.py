"""Transcription of any number of recordings of any length, with any recogniser of the package.

Recordings are processed in groups (windows). The pieces of a window are batched by length, while the recordings of the
next window are cut into pieces in the background. A transcript does not depend on the other recordings, except
for rounding.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from arkasr.data.audio import LONGEST_CLIP_SECONDS, SAMPLE_RATE
from arkasr.data.languages import canonical_language
from arkasr.errors import InputError
from arkasr.recognizers.device import device_named
from arkasr.recognizers.inference import RecognitionSettings, recognize_clips
from arkasr.recognizers.journal import Journal
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.precision import default_dtype
from arkasr.recognizers.recognition import Recognition
from arkasr.recognizers.recognizer import Recognizer
from arkasr.transcribe.aligner import open_aligner
from arkasr.transcribe.cutting import CutRecording, cut_recording
from arkasr.transcribe.recording import Recording
from arkasr.transcribe.transcript import Transcript, segment_of

# A window ends when it has this many batches of audio, or this many recordings.
WINDOW_BATCHES = 32
WINDOW_RECORDINGS = 4096

Audio = str | Path | np.ndarray | Recording


@dataclass(frozen=True)
class TranscriptionSettings:
    """How recordings are cut and decoded.

    Attributes:
        piece_seconds: longest piece into which a recording is cut, at most 30 and at most the longest clip that the
            model takes; None = `default_piece_seconds`, or that clip if it is shorter.
        batch_seconds: most seconds of audio per batch, with padding; the longest piece fits in any case.
        batch_clips: most pieces per batch; None = no limit.
        max_new_tokens: most tokens per piece.
        default_piece_seconds: longest piece if the caller asks for none.

    Raises:
        InputError: a value is out of its range.
    """

    piece_seconds: float | None = None
    batch_seconds: float = 120.0
    batch_clips: int | None = None
    max_new_tokens: int = 256
    default_piece_seconds: float = LONGEST_CLIP_SECONDS

    def __post_init__(self) -> None:
        if self.piece_seconds is not None and not 1 <= self.piece_seconds <= LONGEST_CLIP_SECONDS:
            raise InputError(f"piece_seconds is {self.piece_seconds:g}; give 1 to {LONGEST_CLIP_SECONDS:g}")
        for name in ("batch_seconds", "batch_clips", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} is {value:g}; it must be more than 0")


class Transcriber:
    """A model that transcribes recordings.

    Args:
        model: a folder, a hub name, or a loaded recogniser, which keeps its device, dtype and attention.
        revision: commit, tag or branch of a hub name.
        device: such as "cuda"; None = the accelerator, or the CPU if there is none.
        dtype: of the weights; None = float32 on the CPU, else bfloat16 if the device supports it, else float16.
        attention: `sdpa`, `eager` or `flash_attention_2`; None = the fastest that is available.
        language: of recordings without a language. Qwen3-ASR needs it; Whisper detects it otherwise.
        aligner: folder or hub name of a Qwen3 forced aligner or a Whisper model, for word times; None = none.
        settings: how recordings are cut and decoded.

    Raises:
        InputError: a model cannot be loaded, a language is unknown, or a setting is out of its range.
    """

    def __init__(
        self,
        model: str | Path | Recognizer,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: torch.dtype | Literal["auto"] | None = None,
        attention: str | None = None,
        language: str | None = None,
        aligner: str | Path | None = None,
        settings: TranscriptionSettings | None = None,
    ) -> None:
        torch_device = device_named(device)
        dtype = dtype or default_dtype(torch_device)
        if isinstance(model, Recognizer):
            self.recognizer = model
        else:
            self.recognizer = load_recognizer(
                model, revision=revision, dtype=dtype, device=str(torch_device), attention=attention
            )
        self.language = canonical_language(language) if language else None
        self.aligner = None if aligner is None else open_aligner(aligner, device=str(torch_device), dtype=dtype)
        self.settings = settings or TranscriptionSettings()
        self._piece_seconds()  # an error comes before the first recording is read

    def __call__(self, audio: Audio) -> Transcript:
        """Transcribe one recording: a file, a waveform float `[samples]` (16 kHz mono), or a `Recording`.

        Raises:
            InputError: it, or a piece of it, cannot be transcribed.
        """
        transcript = next(self.transcribe([audio]))
        if transcript.error is not None:
            raise InputError(transcript.error)
        return transcript

    def transcribe(
        self,
        recordings: Iterable[Audio],
        *,
        journal: Journal | None = None,
        on_progress: Callable[[float, float], None] | None = None,
    ) -> Iterator[Transcript]:
        """Transcribe recordings, in the given order. If one fails, its transcript has an `error`; the others go on.

        Args:
            recordings: files, waveforms float `[samples]` (16 kHz mono) or `Recording`s.
            journal: stores finished pieces, so that an interrupted run can continue.
            on_progress: called with two numbers: seconds of audio and number of recordings finished since the last
                call. The number of recordings may be a fraction.
        """
        on_progress = on_progress or (lambda seconds, recordings: None)
        stopped = threading.Event()
        windows = self._windows(map(_recording, recordings), stopped)
        with ThreadPoolExecutor(1, thread_name_prefix="cut") as pool:
            try:
                upcoming = pool.submit(next, windows, None)
                while (window := upcoming.result()) is not None:
                    upcoming = pool.submit(next, windows, None)
                    yield from self._transcribe_window(*window, journal, on_progress)
            finally:
                stopped.set()

    def _piece_seconds(self) -> float:
        longest, seconds = self.recognizer.longest_clip_seconds, self.settings.piece_seconds
        if seconds is None:
            return min(self.settings.default_piece_seconds, longest)
        if seconds > longest:
            raise InputError(f"piece_seconds is {seconds:g}; give 1 to {longest:g}, the longest clip of this model")
        return seconds

    def _windows(
        self, recordings: Iterator[Recording], stopped: threading.Event
    ) -> Iterator[tuple[list[Recording], list[CutRecording]]]:
        window: list[Recording] = []
        cuts: list[CutRecording] = []
        seconds = 0.0
        piece_seconds, longest = self._piece_seconds(), self.recognizer.longest_clip_seconds
        for recording in recordings:
            if stopped.is_set():
                return
            window.append(recording)
            cuts.append(cut_recording(recording, piece_seconds, longest))
            seconds += cuts[-1].seconds
            if seconds >= WINDOW_BATCHES * self.settings.batch_seconds or len(cuts) == WINDOW_RECORDINGS:
                yield window, cuts
                window, cuts, seconds = [], [], 0.0
        if window:
            yield window, cuts

    def _transcribe_window(
        self,
        recordings: Sequence[Recording],
        cuts: Sequence[CutRecording],
        journal: Journal | None,
        on_progress: Callable[[float, float], None],
    ) -> Iterator[Transcript]:
        pieces = [
            (recording, cut, piece) for recording, cut in zip(recordings, cuts, strict=True) for piece in cut.pieces
        ]
        keys = [f"{cut.identity}:{piece.begin}:{piece.end}" for _, cut, piece in pieces]
        shares = [1 / len(cut.pieces) for _, cut, _ in pieces]
        journaled = {index: journal.get(key) for index, key in enumerate(keys)} if journal else {}
        finished = {index: recognition for index, recognition in journaled.items() if recognition is not None}
        seconds_to_decode = {
            index: piece.samples / SAMPLE_RATE for index, (*_, piece) in enumerate(pieces) if index not in finished
        }

        def features(index: int) -> Tensor:
            recording, _, piece = pieces[index]
            return self.recognizer.features(recording.read(piece.begin, piece.end))

        batches = recognize_clips(
            self.recognizer,
            seconds_to_decode,
            features,
            lambda index: pieces[index][0].language or self.language,
            RecognitionSettings(self.settings.batch_seconds, self.settings.max_new_tokens, self.settings.batch_clips),
        )
        for batch in batches:
            finished |= batch
            if journal:
                journal.add({keys[index]: found for index, found in batch.items() if found.error is None})
            on_progress(sum(seconds_to_decode[index] for index in batch), sum(shares[index] for index in batch))
        seconds_not_decoded = sum(cut.seconds for cut in cuts) - sum(seconds_to_decode.values())
        on_progress(seconds_not_decoded, len(recordings) - sum(shares[index] for index in seconds_to_decode))
        recognitions = (finished[index] for index in range(len(pieces)))
        for recording, cut in zip(recordings, cuts, strict=True):
            yield self._transcript(recording, cut, list(itertools.islice(recognitions, len(cut.pieces))))

    def _transcript(self, recording: Recording, cut: CutRecording, recognitions: Sequence[Recognition]) -> Transcript:
        errors = [cut.error] if cut.error else []
        segments = []
        for piece, recognition in zip(cut.pieces, recognitions, strict=True):
            try:
                if recognition.error is not None:
                    raise InputError(recognition.error)
                segment = segment_of(recognition, piece.begin / SAMPLE_RATE, piece.end / SAMPLE_RATE)
                if self.aligner is not None:
                    waveform = recording.read(piece.begin, piece.end)
                    segment = self.aligner.align(segment, waveform, recording.language or self.language)
                segments.append(segment)
            except InputError as error:
                errors.append(str(error))
        return Transcript(tuple(segments), cut.seconds, errors[0] if errors else None)


def _recording(audio: Audio) -> Recording:
    if isinstance(audio, Recording):
        return audio
    if isinstance(audio, str | Path):
        return Recording(Path(audio))
    return Recording(np.asarray(audio))
