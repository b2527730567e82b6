"""A teacher behind vLLM servers, asked over HTTP for its scores along transcripts that it is forced on.

What is sent is the audio itself and the ids of prompt and transcript, so that nothing is tokenised twice; what comes
back are the teacher's best tokens at each place and the scores of the tokens asked for by name (docs/teachers.md).
"""

import base64
import io
import json
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from arkasr.data.audio import SAMPLE_RATE
from arkasr.errors import InputError
from arkasr.model.frames import HOP_LENGTH, clip_of
from arkasr.model.head import Top
from arkasr.model.recognizer import Recognizer
from arkasr.teacher.replicas import Replicas
from arkasr.teacher.teacher import Answer, NamedScores, Question, Teacher

PATH = "/inference/v1/generate"
# A server's best tokens count those that no transcript holds; so many more are asked for, and all of them at need.
SPARE_TOKENS = 8


class ServedTeacher(Teacher):
    """A teacher whose weights are elsewhere.

    Args:
        recognizer: its processor and conventions; needs no weights.
        replicas: servers of the model.
        model: the name that they serve it under; None = whatever they serve.
        best_tokens: None = the scores of named tokens are asked for, and every score of the objective is exact. Else
            the number of best tokens asked for; the others share evenly what these leave (docs/teachers.md).
    """

    every_score = False
    listener = f"waveform-{SAMPLE_RATE}"

    def __init__(
        self, recognizer: Recognizer, replicas: Replicas, *, model: str | None = None, best_tokens: int | None = None
    ) -> None:
        super().__init__(recognizer)
        self.replicas = replicas
        self.model = model
        self.best_tokens = best_tokens
        self._askers = ThreadPoolExecutor(replicas.in_flight * len(replicas.replicas), "teacher")

    @staticmethod
    def features(waveform: np.ndarray) -> Tensor:
        """The clip itself, float32 `[samples]`: the server makes its own features of it."""
        # Data workers get this function without the teacher and its connections.
        return torch.from_numpy(clip_of(waveform))

    def ask(self, questions: Sequence[Question], top_k: int | None, device: torch.device) -> Answer:
        """Send every question at once, as far as the servers have room, and wait where the answer is wanted."""
        assert top_k is not None
        pending = [self._askers.submit(self.answer, question, top_k) for question in questions]
        return lambda: _joined(self._answers(pending)).to(device)

    def answer(self, question: Question, top_k: int) -> NamedScores:
        """The answer to one question, on the CPU.

        Raises:
            InputError: no server gives it.
        """
        forbidden = int((~self.allowed_tokens).sum())
        for spare in (min(SPARE_TOKENS, forbidden), forbidden):
            best_tokens = min(max(top_k + spare, self.best_tokens or 0), self.vocab_size)
            scores = self._read(self.exchange(question, best_tokens), question, top_k, best_tokens)
            if scores is not None:
                return scores
        raise InputError(f"{self.replicas.replicas[0].url} gives fewer than {top_k} tokens that a transcript may hold")

    def exchange(self, question: Question, best_tokens: int, *, prompt: bool = False) -> Any:
        """Ask the servers; what they answered, as it came.

        Args:
            question: of one utterance.
            best_tokens: how many of the best tokens of every place are wanted.
            prompt: have the prompt's ids sent back, too.
        """
        before, after = self.recognizer.prompt_parts(question.language)
        asked: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "detokenize": False, "prompt_logprobs": best_tokens}
        if self.best_tokens is None:
            named = torch.full((len(question.transcript), question.named.shape[1]), -1)
            paired = question.positions >= 0
            named[question.positions[paired]] = question.named[paired]
            asked["prompt_logprob_token_ids"] = named.tolist()
            asked["prompt_logprob_start"] = self._prompt_length(question) - 1
        request = {
            # One placeholder, which the server replaces by as many as the audio needs.
            "token_ids": [*before, self.recognizer.processor.audio_token_id, *after, *question.transcript.tolist()],
            "content_parts": [{"type": "audio_url", "url": _audio_url(question.heard)}],
            "sampling_params": asked,
            "return_token_ids": prompt,
        }
        if self.model is not None:
            request["model"] = self.model
        return self.replicas.post(PATH, json.dumps(request).encode())

    def _prompt_length(self, question: Question) -> int:
        shortest = getattr(self.recognizer.processor.feature_extractor, "min_length", 0)
        frames = max(len(question.heard), shortest) // HOP_LENGTH
        return len(self.recognizer.prompt_ids(frames, question.language))

    def _read(self, answer: Any, question: Question, top_k: int, best_tokens: int) -> NamedScores | None:
        """The scores in an answer; None if the best tokens among them are fewer than k that are allowed."""
        places = range(len(question.transcript))
        try:
            best = [_best_of(answer["prompt_logprobs"][place - len(places)]) for place in places]
            extra = None
            if self.best_tokens is None:
                extra = np.load(io.BytesIO(base64.b64decode(answer["prompt_token_id_logprobs"])), allow_pickle=False)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise InputError(
                f"{self.replicas.replicas[0].url} answers without scores ({type(error).__name__}); serve the teacher "
                "with vLLM 0.32 or later, with arkasr installed beside it"
            ) from error
        allowed = self.allowed_tokens
        # The forced token stands there, too, and need not be one of the best.
        tops = [[token for token, _ in row[:best_tokens] if allowed[token]][:top_k] for row in best]
        if any(len(top) < min(top_k, int(allowed.sum())) for top in tops):
            return None
        width = max(map(len, best))
        ids = torch.tensor([[token for token, _ in row] + [-1] * (width - len(row)) for row in best])
        log_probs = torch.tensor([[score for _, score in row] + [-math.inf] * (width - len(row)) for row in best])
        rows = question.positions.clamp(min=0)
        ids, log_probs = ids[rows], log_probs[rows]
        elsewhere = torch.where(question.positions >= 0, math.nan, 0.0)
        if extra is None:
            elsewhere = evenly_shared(log_probs, best_tokens, self.vocab_size)
        else:
            ids = torch.cat((ids, question.named), dim=1)
            log_probs = torch.cat((log_probs, torch.from_numpy(extra)[rows]), dim=1)
        top = torch.tensor(tops)[rows]
        unknown = torch.full((len(rows),), math.nan)
        return NamedScores(ids, log_probs, elsewhere, Top(top, top[:, 0], torch.zeros(len(rows)), unknown))

    def _answers(self, pending: Sequence[Future[NamedScores]]) -> list[NamedScores]:
        try:
            return [future.result() for future in pending]
        except BaseException:
            # An interrupted or failed step must not leave threads behind that wait for a server.
            for future in pending:
                future.cancel()
            self.replicas.give_up("the teacher is no longer asked: the step was given up")
            raise


def evenly_shared(log_probs: Tensor, best_tokens: int, vocab_size: int) -> Tensor:
    """Log-probability `[N]` of every other token if these leave them equal shares, none above the worst of the best.

    Args:
        log_probs: `[N, M]`, best first; −inf = empty slot.
        best_tokens: how many of them are the best ones; a token behind these was asked for by itself.
        vocab_size: V_T.
    """
    left = (1 - log_probs.exp().sum(1)).clamp_min(torch.finfo(log_probs.dtype).tiny)
    others = vocab_size - log_probs.isfinite().sum(1)
    return torch.minimum((left / others.clamp_min(1)).log(), log_probs[:, best_tokens - 1])


def _best_of(row: dict[str, dict[str, float]]) -> list[tuple[int, float]]:
    """Ids and log-probabilities of one place's tokens, best first; the forced one is among them, whatever its rank."""
    return sorted(((int(token), said["logprob"]) for token, said in row.items()), key=lambda pair: -pair[1])


def _audio_url(samples: Tensor) -> str:
    """The clip `[samples]` as a WAV file of float32, not a bit of it lost."""
    file = io.BytesIO()
    soundfile.write(file, samples.numpy(), SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _joined(answers: Sequence[NamedScores]) -> NamedScores:
    """The rows of several answers, empty slots added to the narrower ones."""
    width = max(answer.ids.shape[1] for answer in answers)

    def widened(tensor: Tensor, filler: float) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=filler)

    tops = [answer.top for answer in answers]
    return NamedScores(
        torch.cat([widened(answer.ids, -1) for answer in answers]),
        torch.cat([widened(answer.log_probs, -math.inf) for answer in answers]),
        torch.cat([answer.elsewhere for answer in answers]),
        Top(
            torch.cat([top.ids for top in tops]),
            torch.cat([top.best for top in tops]),
            torch.cat([top.log_normaliser for top in tops]),
            torch.cat([top.entropy for top in tops]),
        ),
    )
