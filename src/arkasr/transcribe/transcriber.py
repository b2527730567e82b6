"""Recordings of any number and length into text, with any recogniser of the package.

Pieces of all recordings are batched together by length, a window of recordings at a time; the next window is cut into
pieces while this one is decoded. What comes out does not depend on what else is transcribed.
"""

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
from arkasr.recognizers.inference import Recognition, RecognitionSettings, recognize_clips
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.precision import default_dtype
from arkasr.recognizers.recognizer import Recognizer
from arkasr.transcribe.cutting import CutRecording, cut_recording
from arkasr.transcribe.journal import Journal
from arkasr.transcribe.recording import Recording
from arkasr.transcribe.transcript import Transcript, segment_of
from arkasr.transcribe.words import Aligner

# Recordings are sorted by length within a window of this many batches.
WINDOW_BATCHES = 32
WINDOW_RECORDINGS = 4096

Audio = str | Path | np.ndarray | Recording


@dataclass(frozen=True)
class TranscriptionSettings:
    """How recordings are cut and decoded.

    Attributes:
        piece_seconds: longest piece into which a recording is cut, at most 30.
        batch_seconds: audio seconds decoded at once, padding included.
        batch_clips: pieces decoded at once, at most; None = no bound.
        max_new_tokens: cap on the tokens of a piece.

    Raises:
        InputError: a value is out of its range.
    """

    piece_seconds: float = LONGEST_CLIP_SECONDS
    batch_seconds: float = 120.0
    batch_clips: int | None = None
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.piece_seconds <= LONGEST_CLIP_SECONDS:
            raise InputError(f"piece_seconds is {self.piece_seconds:g}; give 1 to {LONGEST_CLIP_SECONDS:g}")
        for name in ("batch_seconds", "batch_clips", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} is {value:g}; it must be more than 0")


class Transcriber:
    """A model that transcribes recordings.

    Args:
        model: a folder, a hub name, or a recogniser that is loaded already.
        revision: commit, tag or branch of a hub name.
        device: such as "cuda"; None = the accelerator if there is one, else the CPU.
        dtype: of the weights; None = float32 on the CPU, else bfloat16 where the device has it, else float16.
        attention: `sdpa`, `eager` or `flash_attention_2`; None = the best that the machine has.
        language: of recordings that name none; needed by Qwen3-ASR only.
        aligner: folder or hub name of a Qwen3 forced aligner, for word times; None = none.
        settings: how recordings are cut and decoded.

    Raises:
        InputError: a model or a language is not known, or a setting is out of its range.
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
        place = device_named(device)
        dtype = dtype or default_dtype(place)
        if isinstance(model, Recognizer):
            self.recognizer = model
        else:
            self.recognizer = load_recognizer(
                model, revision=revision, dtype=dtype, device=str(place), attention=attention
            )
        self.language = canonical_language(language) if language else None
        self.aligner = None if aligner is None else Aligner(aligner, device=str(place), dtype=dtype)
        self.settings = settings or TranscriptionSettings()

    def __call__(self, audio: Audio) -> Transcript:
        """Transcribe one recording: a file, a waveform float `[samples]` (16 kHz mono), or a `Recording`.

        Raises:
            InputError: it cannot be heard.
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
        """Transcribe recordings, in the order given; one that cannot be heard has an `error` and stops nothing.

        Args:
            recordings: files, waveforms float `[samples]` (16 kHz mono) or `Recording`s.
            journal: remembers pieces across interruptions.
            on_progress: told the seconds of audio, and the recordings (a piece is a share of one), just done.
        """
        report = on_progress or (lambda seconds, recordings: None)
        left = threading.Event()
        windows = self._windows(map(_recording, recordings), left)
        with ThreadPoolExecutor(1, thread_name_prefix="plan") as pool:
            try:
                upcoming = pool.submit(next, windows, None)
                while (window := upcoming.result()) is not None:
                    upcoming = pool.submit(next, windows, None)
                    yield from self._transcribe_window(*window, journal, report)
            finally:
                left.set()

    def _windows(
        self, recordings: Iterator[Recording], left: threading.Event
    ) -> Iterator[tuple[list[Recording], list[CutRecording]]]:
        window: list[Recording] = []
        cuts: list[CutRecording] = []
        seconds = 0.0
        for recording in recordings:
            if left.is_set():
                return
            window.append(recording)
            cuts.append(cut_recording(recording, self.settings.piece_seconds))
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
        report: Callable[[float, float], None],
    ) -> Iterator[Transcript]:
        pieces = [(place, span) for place, found in enumerate(cuts) for span in found.pieces]
        keys = [f"{cuts[place].identity}:{span.begin}:{span.end}" for place, span in pieces]
        remembered = {number: journal.get(key) for number, key in enumerate(keys)} if journal else {}
        known = {number: recognition for number, recognition in remembered.items() if recognition is not None}

        def features(number: int) -> Tensor:
            place, span = pieces[number]
            return self.recognizer.features(recordings[place].read(span.begin, span.end))

        missing = {number: span.samples / SAMPLE_RATE for number, (_, span) in enumerate(pieces) if number not in known}
        shares = [1 / len(cuts[place].pieces) for place, _ in pieces]
        batches = recognize_clips(
            self.recognizer,
            missing,
            features,
            lambda number: recordings[pieces[number][0]].language or self.language,
            RecognitionSettings(self.settings.batch_seconds, self.settings.max_new_tokens, self.settings.batch_clips),
        )
        for batch in batches:
            known |= batch
            if journal:
                heard = {keys[number]: found for number, found in batch.items() if found.error is None}
                journal.add(heard)
            report(sum(missing[number] for number in batch), sum(shares[number] for number in batch))
        silent = sum(found.seconds for found in cuts) - sum(missing.values())
        report(silent, len(recordings) - sum(shares[number] for number in missing))
        numbers = iter(range(len(pieces)))
        for recording, found in zip(recordings, cuts, strict=True):
            yield self._transcript(recording, found, [known[next(numbers)] for _ in found.pieces])

    def _transcript(self, recording: Recording, found: CutRecording, recognitions: Sequence[Recognition]) -> Transcript:
        errors = [found.error] if found.error else []
        segments = []
        for span, recognition in zip(found.pieces, recognitions, strict=True):
            try:
                if recognition.error is not None:
                    raise InputError(recognition.error)
                segment = segment_of(recognition, span.begin / SAMPLE_RATE, span.end / SAMPLE_RATE)
                if self.aligner is not None:
                    waveform = recording.read(span.begin, span.end)
                    segment = self.aligner.align(segment, waveform, recording.language or self.language)
                segments.append(segment)
            except InputError as error:
                errors.append(str(error))
        return Transcript(tuple(segments), found.seconds, errors[0] if errors else None)


def _recording(audio: Audio) -> Recording:
    if isinstance(audio, Recording):
        return audio
    if isinstance(audio, str | Path):
        return Recording(Path(audio))
    return Recording(np.asarray(audio))
