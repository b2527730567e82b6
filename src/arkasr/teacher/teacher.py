"""What distillation asks of a teacher: what it would have written at the places of transcripts that are not its own.

Two answer: one in the training process, which knows every score, and one behind servers, which knows those asked for by
name. Knows nothing of students but the tokens they propose.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arkasr.recognizers.head import TopTokens
from arkasr.recognizers.recognizer import Recognizer


@dataclass(frozen=True, slots=True)
class Question:
    """An utterance and the transcript that a teacher is forced on.

    Attributes:
        audio: the audio, as the teacher's `features` gave it.
        language: that the prompt asks for.
        transcript: LongTensor `[m]`, teacher ids, at least one.
        positions: LongTensor `[n]`, the places in `transcript` that are asked about; −1 = none, and whatever stands in
            that row of the answer means nothing.
        named: LongTensor `[n, K]`, teacher ids whose scores are wanted at these places besides the teacher's own best;
            −1 = no id.
    """

    audio: Tensor
    language: str | None
    transcript: Tensor
    positions: Tensor
    named: Tensor


@dataclass(frozen=True, slots=True)
class TeacherStates:
    """Every score at N positions: logits are hidden · headᵀ.

    Attributes:
        hidden: `[N, H_T]`.
        head: `[V_T, H_T]`.
        top: the k best tokens; None where every score is looked at.
    """

    hidden: Tensor
    head: Tensor
    top: TopTokens | None


@dataclass(frozen=True, slots=True)
class NamedScores:
    """The scores of some tokens at N positions.

    Attributes:
        ids: LongTensor `[N, M]`, −1 = empty slot.
        log_probs: float32 `[N, M]`, over the server's whole vocabulary.
        elsewhere: float32 `[N]`, what stands for the log-probability of any other token; NaN = it is not known.
        top: the k best tokens; its entropy is NaN, being unknown.
    """

    ids: Tensor
    log_probs: Tensor
    elsewhere: Tensor
    top: TopTokens

    def of(self, ids: Tensor) -> Tensor:
        """Log-probabilities `[N, K]` of ids `[N, K]`."""
        same = ids[:, :, None] == self.ids[:, None, :]
        found = self.log_probs.gather(1, same.int().argmax(dim=2))
        return torch.where(same.any(dim=2), found, self.elsewhere[:, None])

    def to(self, device: torch.device) -> "NamedScores":
        """The same scores on another device."""
        top = TopTokens(*(getattr(self.top, field.name).to(device) for field in fields(TopTokens)))
        return NamedScores(self.ids.to(device), self.log_probs.to(device), self.elsewhere.to(device), top)


TeacherScores = TeacherStates | NamedScores
# Waits for the scores; None if it would have to wait on while the function it is given says that a stop is asked for.
Answer = Callable[[Callable[[], bool]], TeacherScores | None]


class Teacher(ABC):
    """Scores along given transcripts.

    Args:
        recognizer: its processor and conventions, and the weights of a teacher that has them here.

    Attributes:
        every_score: whether an objective may look at the whole vocabulary.
    """

    every_score: bool

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer

    @property
    def tokenizer(self) -> Any:
        """Of the transcripts."""
        return self.recognizer.tokenizer

    @property
    def stop_token_id(self) -> int:
        """Ends a transcript."""
        return self.recognizer.stop_token_id

    @property
    def vocab_size(self) -> int:
        """V_T."""
        return self.recognizer.vocab_size

    @property
    def allowed_tokens(self) -> Tensor:
        """BoolTensor `[V_T]`, A_T."""
        return self.recognizer.allowed_tokens

    def prompt_text(self, language: str | None) -> str:
        """The prompt.

        Raises:
            InputError: the teacher cannot be asked in that language.
        """
        return self.recognizer.prompt_text(language)

    @property
    @abstractmethod
    def frontend(self) -> str:
        """Names what `features` gives."""

    @abstractmethod
    def features(self, waveform: np.ndarray) -> Tensor:
        """What the teacher hears of one 16 kHz mono float32 clip `[samples]`."""

    @abstractmethod
    def ask(self, questions: Sequence[Question], top_k: int | None, device: torch.device) -> Answer:
        """Set the teacher to work.

        Args:
            questions: of a micro-batch.
            top_k: k; None = every score is wanted.
            device: where the answer is wanted.

        Returns:
            Waits for the answer, one row for every asked place of the questions in turn.
        """

    def close(self) -> None:  # noqa: B027 (one in process holds nothing)
        """Give back what the teacher holds outside this process; it is not asked any more."""
