"""A thread that recognises clips from many requests in one continuous batch.

In: clips and their owners, from any thread. Out: a future for each. Files and pieces are left to others.
"""

import itertools
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from arkasr.recognizers.continuous import Clip, ContinuousDecoder, Written
from arkasr.recognizers.recognition import Recognition
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.scoring import check_transcript_length
from arkasr.recognizers.text import clean_transcript
from arkasr.serve.fair_queue import FairQueue


@dataclass(frozen=True)
class Recognized:
    """What was written for a clip.

    Attributes:
        recognition: text and flags.
        tokens: int64 `[n]`, with the stop token if it was written.
        log_probabilities: of the tokens, float32 `[n]`; None if they were not wanted.
        language: by name, as given or detected; None if the model does not say.
    """

    recognition: Recognition
    tokens: Tensor
    log_probabilities: Tensor | None
    language: str | None


@dataclass(frozen=True, eq=False)
class _Job:
    clip: Clip
    seconds: float
    future: "Future[Recognized]" = field(default_factory=Future)


class Decoder(Protocol):
    """A batch of clips, such as `ContinuousDecoder`."""

    def enter(self, clips: Mapping[int, Clip]) -> dict[int, Written]:
        """Add clips, by keys that the batch does not have; returns those that are finished at once."""

    def step(self) -> dict[int, Written]:
        """Write more of every clip; returns those that are finished now."""

    def drop(self, key: int) -> None:
        """Give up a clip."""


class Engine:
    """Decodes with the model while it serves; a context manager, which finishes what it has accepted.

    Attributes:
        is_broken: whether the model failed for good, so that nothing is accepted any more.
        cache_bytes: as given.

    Args:
        recognizer: no other thread runs its model from now on.
        open_decoder: opens a decoder of the recogniser, anew after an error; None = `ContinuousDecoder`.
        cache_bytes: what the decoder reserves for keys and values.
        batch_seconds: most seconds of audio in the batch, padding included; the longest clip fits in any case.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        open_decoder: Callable[[], AbstractContextManager[Decoder]] | None = None,
        *,
        batch_seconds: float,
        cache_bytes: int = 0,
    ) -> None:
        self.recognizer, self.cache_bytes = recognizer, cache_bytes
        self._open_decoder = open_decoder or (lambda: nullcontext(ContinuousDecoder(recognizer)))
        self._opened = ExitStack()
        self._room = max(batch_seconds, recognizer.window_seconds, recognizer.longest_clip_seconds)
        self._waiting: FairQueue[_Job] = FairQueue()
        self._active: dict[int, _Job] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self.is_broken = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def __enter__(self) -> "Engine":
        self._decoder = self._opened.enter_context(self._open_decoder())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        self._opened.close()

    @property
    def waiting(self) -> int:
        """How many clips wait for room in the batch."""
        with self._changed:
            return len(self._waiting)

    @property
    def active(self) -> int:
        """How many clips are in the batch."""
        return len(self._active)

    def submit(self, clip: Clip, seconds: float, owner: Hashable) -> "Future[Recognized]":
        """Queue a clip; cancel the future to give it up.

        Args:
            clip: its features have `seconds` of sound.
            seconds: more than 0.
            owner: whose turn it uses, such as a request.

        Raises:
            InputError: the model cannot write so many tokens, or does not know the language.
        """
        self.recognizer.prompt_text(clip.language)
        check_transcript_length(self.recognizer, clip.max_new_tokens, "max_new_tokens")
        job = _Job(clip, max(seconds, self.recognizer.window_seconds))
        with self._changed:
            if self._is_closing:
                raise RuntimeError("the engine is closed")
            self._waiting.put(owner, job)
            self._changed.notify()
        return job.future

    def _work(self) -> None:
        keys = itertools.count()
        while self._wait_for_work():
            try:
                self._give_up_cancelled()
                if entering := {next(keys): job for job in self._admitted()}:
                    self._active |= entering
                    self._deliver(self._decoder.enter({key: job.clip for key, job in entering.items()}))
                self._deliver(self._decoder.step())
            except Exception as error:  # the server goes on; those who wait are told
                self._fail_active(error)
                try:
                    with suppress(Exception):
                        self._opened.close()
                    self._decoder = self._opened.enter_context(self._open_decoder())
                except Exception as fatal:  # such as after an error of the accelerator
                    self._fail_for_good(fatal)
                    return

    def _fail_active(self, error: Exception) -> None:
        failed, self._active = self._active, {}
        for job in failed.values():
            _fail(job, error)

    def _fail_for_good(self, error: Exception) -> None:
        with self._changed:
            self._is_closing = self.is_broken = True
            while (job := self._waiting.take(lambda job: True)) is not None:
                _fail(job, error)

    def _wait_for_work(self) -> bool:
        """Whether there is work; False when the engine is closed and has finished."""
        with self._changed:
            while not self._waiting and not self._active:
                if self._is_closing:
                    return False
                self._changed.wait()
        return True

    def _admitted(self) -> list[_Job]:
        """Waiting jobs for which there is room, in turn."""
        used = sum(job.seconds for job in self._active.values())
        admitted: list[_Job] = []
        with self._changed:
            while True:
                room = self._room - used
                job = self._waiting.take(lambda job, room=room: job.seconds <= room)  # type: ignore[misc]
                if job is None:
                    return admitted
                if not job.future.cancelled():
                    admitted.append(job)
                    used += job.seconds

    def _give_up_cancelled(self) -> None:
        for key in [key for key, job in self._active.items() if job.future.cancelled()]:
            self._decoder.drop(key)
            del self._active[key]

    def _deliver(self, written: dict[int, Written]) -> None:
        for key, found in written.items():
            job = self._active[key]
            raw = self.recognizer.transcript_text(found.tokens)
            recognition = Recognition(raw, clean_transcript(raw), len(found.tokens), found.stopped)
            recognized = Recognized(recognition, found.tokens, found.log_probabilities, found.language)
            if job.future.set_running_or_notify_cancel():
                job.future.set_result(recognized)
            del self._active[key]


def _fail(job: _Job, error: Exception) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
