"""The interface of a teacher, which scores the tokens of given transcripts.

In: audio and transcripts in teacher ids. Out: scores of the full vocabulary from a teacher in the training process, or
scores of some tokens from a served teacher. The student is left to others.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arkasr.recognizers.head import TopTokens
from arkasr.recognizers.head_scores import vocabulary_scores
from arkasr.recognizers.recognizer import Prompts, Recognizer


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """An utterance, and a transcript for teacher forcing.

    Attributes:
        audio: output of the teacher's `features`.
        language: the language in the prompt; None = the prompt names none, or the model detects it.
        transcript: LongTensor `[m]`, teacher ids, at least one.
        positions: LongTensor `[n]`, positions in `transcript` to score. −1 = none: that row of the scores is undefined.
        requested_ids: LongTensor `[n, K]`, teacher ids to score at these positions besides the teacher's k best;
            −1 = empty slot.
        forced_positions: LongTensor `[f]`, positions in `transcript` whose own token is scored, whatever its rank.
    """

    audio: Tensor
    language: str | None
    transcript: Tensor
    positions: Tensor
    requested_ids: Tensor
    forced_positions: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))


def prompts_of(recognizer: Recognizer, requests: Sequence[ScoringRequest], device: torch.device) -> Prompts:
    """The prompts of scoring requests to a teacher in process, on a device."""
    features, languages = [request.audio for request in requests], [request.language for request in requests]
    return recognizer.prompts(features, languages).to(device)


@dataclass(frozen=True, slots=True)
class TeacherStates:
    """Scores of the full vocabulary at N positions: logits are hidden · headᵀ.

    Attributes:
        hidden: `[N, H_T]`.
        head: `[V_T, H_T]`.
        top: the k best tokens; None if the objective uses the full vocabulary.
        forced_hidden: `[F, H_T]`, the states at all `forced_positions`; None = not needed.
        cached: number of requests that were answered from disk; None = the teacher has no cache.
    """

    hidden: Tensor
    head: Tensor
    top: TopTokens | None
    forced_hidden: Tensor | None = None
    cached: int | None = None

    def logits(self, rows: slice) -> Tensor:
        """Scores of all tokens at some positions, `[n, V_T]`."""
        return vocabulary_scores(self.hidden[rows], self.head)


@dataclass(frozen=True, slots=True)
class SparseScores:
    """Scores of some tokens at N positions.

    Attributes:
        ids: LongTensor `[N, M]`, −1 = empty slot.
        log_probs: float32 `[N, M]`, normalised over the server's full vocabulary.
        other_log_prob: float32 `[N]`, estimated log-probability of any other token; NaN = unknown.
        top: the k best tokens; its entropy is NaN because it is unknown.
        forced_log_probs: float32 `[F]`, of the tokens at all `forced_positions`, normalised likewise; None = not
            needed.
    """

    ids: Tensor
    log_probs: Tensor
    other_log_prob: Tensor
    top: TopTokens
    forced_log_probs: Tensor | None = None

    def log_probs_of(self, ids: Tensor) -> Tensor:
        """Log-probabilities `[N, K]` of ids `[N, K]`."""
        matches = ids[:, :, None] == self.ids[:, None, :]
        found = self.log_probs.gather(1, matches.int().argmax(dim=2))
        return torch.where(matches.any(dim=2), found, self.other_log_prob[:, None])

    def to(self, device: torch.device) -> "SparseScores":
        """The same scores on another device."""
        top = TopTokens(*(getattr(self.top, part.name).to(device) for part in fields(TopTokens)))
        forced = None if self.forced_log_probs is None else self.forced_log_probs.to(device)
        return SparseScores(self.ids.to(device), self.log_probs.to(device), self.other_log_prob.to(device), top, forced)


@dataclass(frozen=True, slots=True)
class DenseScores:
    """Log-probabilities of all tokens of the student at N positions.

    Attributes:
        log_probs: float32 `[N, V_S]`.
    """

    log_probs: Tensor

    def logits(self, rows: slice) -> Tensor:
        """Scores of all tokens at some positions, `[n, V_S]`."""
        return self.log_probs[rows]


TeacherScores = TeacherStates | SparseScores | DenseScores
# Waits for the scores. Its argument returns whether a stop is requested. Returns None if a stop ended the wait.
PendingScores = Callable[[Callable[[], bool]], TeacherScores | None]


class Teacher(ABC):
    """Scores given transcripts.

    Args:
        recognizer: processor, prompt and allowed tokens of the teacher. Only a teacher in this process needs weights.

    Attributes:
        full_vocabulary: whether scores cover the full vocabulary.
    """

    full_vocabulary: bool

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the transcripts."""
        return self.recognizer.tokenizer

    @property
    def stop_token_id(self) -> int:
        """The id that ends a transcript."""
        return self.recognizer.stop_token_id

    @property
    def vocab_size(self) -> int:
        """V_T."""
        return self.recognizer.vocab_size

    @property
    def allowed_tokens(self) -> Tensor:
        """BoolTensor `[V_T]`, A_T."""
        return self.recognizer.allowed_tokens

    @property
    def longest_clip_seconds(self) -> float:
        """The longest clip that the teacher takes, in seconds."""
        return self.recognizer.longest_clip_seconds

    def prompt_text(self, language: str | None) -> str:
        """The prompt.

        Raises:
            InputError: the teacher does not support the language.
        """
        return self.recognizer.prompt_text(language)

    @property
    @abstractmethod
    def frontend(self) -> str:
        """The name of the features that `features` computes."""

    @abstractmethod
    def features(self, waveform: np.ndarray) -> Tensor:
        """The teacher's input features of one 16 kHz mono float32 clip `[samples]`."""

    @abstractmethod
    def submit(self, requests: Sequence[ScoringRequest], top_k: int | None, device: torch.device) -> PendingScores:
        """Start scoring, without waiting for the scores of a served teacher.

        Args:
            requests: of one micro-batch.
            top_k: k; None = the full vocabulary is needed.
            device: where the scores are needed.

        Returns:
            A function that waits for the scores: one row for every entry of `positions` and of `forced_positions`,
            request after request.
        """

    def close(self) -> None:  # noqa: B027 (a teacher in process has nothing to release)
        """Release what the teacher holds outside this process. No request may follow."""
