"""A teacher in the training process. It scores the full vocabulary with its own weights.

With `offload` the weights stay in main memory and move to the device only for scoring.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from arkasr.recognizers.device import to_device
from arkasr.recognizers.head import top_tokens
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.scoring import forced_states
from arkasr.teacher.teacher import PendingScores, ScoringRequest, Teacher, TeacherStates, prompts_of
from arkasr.teacher.teacher_cache import TeacherCache


class InProcessTeacher(Teacher):
    """A recogniser that scores.

    Args:
        recognizer: the teacher; its weights are frozen.
        offload: keep the weights in main memory between two calls of `submit`.
        cache: keeps answers on disk; None = every answer is computed, in one batch per micro-batch.
    """

    full_vocabulary = True

    def __init__(self, recognizer: Recognizer, *, offload: bool = False, cache: TeacherCache | None = None) -> None:
        super().__init__(recognizer)
        self.offload = offload
        self.cache = cache
        recognizer.model.eval().requires_grad_(False)
        if offload:
            recognizer.model.to("cpu")

    @property
    def frontend(self) -> str:
        return self.recognizer.frontend

    def features(self, waveform: np.ndarray) -> Tensor:
        return self.recognizer.features(waveform)

    def submit(self, requests: Sequence[ScoringRequest], top_k: int | None, device: torch.device) -> PendingScores:
        """Score at once, on `device`."""
        if self.offload:
            self.recognizer.model.to(device)
        scores = self._score(requests, top_k, device)
        if self.offload:
            self.recognizer.model.to("cpu")
        return lambda stop_requested: scores

    @torch.no_grad()
    def _score(self, requests: Sequence[ScoringRequest], top_k: int | None, device: torch.device) -> TeacherStates:
        states, cached = self._states(requests, device)
        rows, forced_rows, offset = [], [], 0
        for request in requests:
            rows.append(request.positions.clamp(min=0) + offset)
            forced_rows.append(request.forced_positions + offset)
            offset += len(request.transcript)
        forced_hidden = states.index_select(0, to_device(torch.cat(forced_rows), device))
        states = states.index_select(0, to_device(torch.cat(rows), device))
        # A detached head stays on the device when the weights are moved back.
        head = self.recognizer.head.detach()
        top = None
        if top_k is not None:
            top = top_tokens(states, head, self.allowed_tokens, top_k, torch.float32)
        return TeacherStates(states, head, top, forced_hidden, cached)

    def _states(self, requests: Sequence[ScoringRequest], device: torch.device) -> tuple[Tensor, int | None]:
        """The states at every transcript token `[sum m, H_T]`, and the number of requests answered from disk."""
        if self.cache is not None:
            return self.cache.states(requests, device)
        prompts = prompts_of(self.recognizer, requests, device)
        return forced_states(self.recognizer, prompts, [request.transcript for request in requests]), None
