"""A teacher in the training process: every score, from its own weights.

With `offload` the weights live in main memory and are on the device only while it works.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from arkasr.recognizers.device import to_device
from arkasr.recognizers.head import top_tokens
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.scoring import forced_states
from arkasr.teacher.teacher import Answer, Question, Teacher, TeacherStates


class InProcessTeacher(Teacher):
    """A recogniser that scores.

    Args:
        recognizer: its weights do not change.
        offload: keep the weights in main memory between two questions.
    """

    every_score = True

    def __init__(self, recognizer: Recognizer, *, offload: bool = False) -> None:
        super().__init__(recognizer)
        self.offload = offload
        recognizer.model.eval().requires_grad_(False)
        if offload:
            recognizer.model.to("cpu")

    @property
    def frontend(self) -> str:
        return self.recognizer.frontend

    def features(self, waveform: np.ndarray) -> Tensor:
        return self.recognizer.features(waveform)

    def ask(self, questions: Sequence[Question], top_k: int | None, device: torch.device) -> Answer:
        """Answer at once, on `device`."""
        if self.offload:
            self.recognizer.model.to(device)
        scores = self._scores(questions, top_k, device)
        if self.offload:
            self.recognizer.model.to("cpu")
        return lambda stop_asked: scores

    @torch.no_grad()
    def _scores(self, questions: Sequence[Question], top_k: int | None, device: torch.device) -> TeacherStates:
        heard, languages = [question.audio for question in questions], [question.language for question in questions]
        prompts = self.recognizer.prompts(heard, languages).to(device)
        states = forced_states(self.recognizer, prompts, [question.transcript for question in questions])
        rows, first = [], 0
        for question in questions:
            rows.append(question.positions.clamp(min=0) + first)
            first += len(question.transcript)
        states = states.index_select(0, to_device(torch.cat(rows), device))
        # Detached, the head stays where it is when the weights leave.
        head = self.recognizer.head.detach()
        if top_k is None:
            return TeacherStates(states, head, None)
        return TeacherStates(states, head, top_tokens(states, head, self.allowed_tokens, top_k, torch.float32))
