"""A teacher in the training process: every score, from its own weights.

With `offload` the weights live in main memory and are on the device only while it works.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arkasr.model.head import top_of_head
from arkasr.model.recognizer import Recognizer
from arkasr.model.scoring import forced_states
from arkasr.teacher.teacher import Answer, Question, TeacherStates


class InProcessTeacher:
    """A recogniser that scores.

    Args:
        recognizer: its weights do not change.
        offload: keep the weights in main memory between two questions.
    """

    every_score = True

    def __init__(self, recognizer: Recognizer, *, offload: bool = False) -> None:
        self.recognizer = recognizer
        self.offload = offload
        recognizer.model.eval().requires_grad_(False)
        if offload:
            recognizer.model.to("cpu")

    @property
    def tokenizer(self) -> Any:
        return self.recognizer.tokenizer

    @property
    def stop_token_id(self) -> int:
        return self.recognizer.stop_token_id

    @property
    def vocab_size(self) -> int:
        return self.recognizer.vocab_size

    @property
    def allowed_tokens(self) -> Tensor:
        return self.recognizer.allowed_tokens

    @property
    def listener(self) -> str:
        return self.recognizer.listener

    def features(self, waveform: np.ndarray) -> Tensor:
        return self.recognizer.features(waveform)

    def prompt_text(self, language: str | None) -> str:
        return self.recognizer.prompt_text(language)

    def ask(self, questions: Sequence[Question], top_k: int | None, device: torch.device) -> Answer:
        """Answer at once, on `device`."""
        if self.offload:
            self.recognizer.model.to(device)
        scores = self._scores(questions, top_k, device)
        if self.offload:
            self.recognizer.model.to("cpu")
        return lambda: scores

    @torch.no_grad()
    def _scores(self, questions: Sequence[Question], top_k: int | None, device: torch.device) -> TeacherStates:
        heard, languages = [question.heard for question in questions], [question.language for question in questions]
        prompts = self.recognizer.prompts(heard, languages).to(device)
        states = forced_states(self.recognizer, prompts, [question.transcript for question in questions])
        rows, first = [], 0
        for question in questions:
            rows.append(question.positions.clamp(min=0) + first)
            first += len(question.transcript)
        states = states[torch.cat(rows).to(device)]
        # Detached, the head stays where it is when the weights leave.
        head = self.recognizer.head.detach()
        if top_k is None:
            return TeacherStates(states, head, None)
        return TeacherStates(
            states, head, top_of_head(states, head, self.allowed_tokens.to(device), top_k, torch.float32)
        )
