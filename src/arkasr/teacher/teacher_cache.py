"""Answers of a frozen teacher that are kept on disk: embeddings of the audio, and states of the latest transcripts.

In: scoring requests. Out: the teacher's states, read or computed, with the same bits. Scores are left to others.

In another batch, an answer rounds differently. So an answer that is kept is computed for one utterance alone. It then
depends only on the utterance, and it does not matter whether it was kept, computed again, or lost in between.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from arkasr.recognizers.device import to_device
from arkasr.recognizers.fingerprint import arithmetic, digest_of, digest_of_model
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.scoring import forced_states
from arkasr.teacher.teacher import ScoringRequest, prompts_of
from arkasr.teacher.tensor_store import TensorStore


class TeacherCache:
    """Reads a teacher's answers from disk, or computes and keeps them.

    Args:
        recognizer: the teacher; its weights must not change.
        folder: of the cache. It holds the answers of one teacher, and those of any other are removed.
        limit_bytes: of all processes together.
        keeps_states: keep the states of each utterance's latest transcript, too.
        process: number of this process among `processes`, from 0.
        processes: number of processes that share the folder.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        folder: Path,
        limit_bytes: int,
        *,
        keeps_states: bool = False,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._recognizer = recognizer
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._keeps_states = keeps_states
        self._process = process
        self._processes = processes
        self._store: TensorStore | None = None

    def states(self, requests: Sequence[ScoringRequest], device: torch.device) -> tuple[Tensor, int]:
        """The teacher's states at every transcript token.

        Returns:
            States, transcript after transcript, `[sum m, H_T]` on the device; and how many requests had their states
            on disk (their embeddings, if states are not kept).
        """
        store = self._opened_store(device)
        if not self._keeps_states:
            embeddings = [_kept_embeddings(store, request) for request in requests]
            return self._forced(store, requests, embeddings, device), _found(embeddings)
        kept = [self._kept_states(store, request) for request in requests]
        states = [
            self._new_states(store, request, device) if found is None else to_device(found, device)
            for request, found in zip(requests, kept, strict=True)
        ]
        return torch.cat(states), _found(kept)

    def _kept_states(self, store: TensorStore, request: ScoringRequest) -> Tensor | None:
        entry = store.get(self._key_of_states(request))
        if entry is None or not torch.equal(entry["transcript"], request.transcript.cpu()):
            return None
        return entry["states"]

    def _new_states(self, store: TensorStore, request: ScoringRequest, device: torch.device) -> Tensor:
        states = self._forced(store, [request], [_kept_embeddings(store, request)], device)
        # One entry for each utterance: an earlier transcript seldom comes back.
        store.put(self._key_of_states(request), {"transcript": request.transcript, "states": states})
        return states

    def _forced(
        self,
        store: TensorStore,
        requests: Sequence[ScoringRequest],
        embeddings: Sequence[Tensor | None],
        device: torch.device,
    ) -> Tensor:
        """One decoder pass over all requests. Embeddings that are None are computed and kept."""
        prompts = prompts_of(self._recognizer, requests, device)
        complete = [
            self._new_embeddings(store, request, device) if found is None else to_device(found, device)
            for request, found in zip(requests, embeddings, strict=True)
        ]
        audio = prompts.audio | {"embeddings": pad_sequence(complete, batch_first=True)}
        return forced_states(
            self._recognizer, replace(prompts, audio=audio), [request.transcript for request in requests]
        )

    def _new_embeddings(self, store: TensorStore, request: ScoringRequest, device: torch.device) -> Tensor:
        prompts = self._recognizer.embed_audio(prompts_of(self._recognizer, [request], device))
        embeddings = prompts.audio["embeddings"][0, : prompts.audio_lengths[0]]
        store.put(_key_of_embeddings(request), {"embeddings": embeddings})
        return embeddings

    def _key_of_states(self, request: ScoringRequest) -> str:
        return digest_of(["states", request.audio, self._recognizer.prompt_text(request.language)])

    def _opened_store(self, device: torch.device) -> TensorStore:
        """The store for this teacher on this device with the present arithmetic, such as its dtype."""
        name = self._name(device)
        if self._store is None or self._store.folder.name != name:
            for other in self._folder.glob("*"):
                if other.name != name:
                    shutil.rmtree(other, ignore_errors=True)
            self._store = TensorStore(
                self._folder / name, self._limit_bytes, process=self._process, processes=self._processes
            )
        return self._store

    def _name(self, device: torch.device) -> str:
        """A name that differs if the teacher's answers may differ in any bit."""
        how = json.dumps(arithmetic(self._recognizer.model, device))
        return digest_of([self._digest_of_model, self._recognizer.frontend, how])

    @cached_property
    def _digest_of_model(self) -> str:
        return digest_of_model(self._recognizer.model)


def _key_of_embeddings(request: ScoringRequest) -> str:
    return digest_of(["embeddings", request.audio])


def _kept_embeddings(store: TensorStore, request: ScoringRequest) -> Tensor | None:
    entry = store.get(_key_of_embeddings(request))
    return None if entry is None else entry["embeddings"]


def _found(answers: Sequence[Tensor | None]) -> int:
    return sum(answer is not None for answer in answers)
