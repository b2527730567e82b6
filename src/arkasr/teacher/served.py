"""A teacher behind vLLM servers, asked over HTTP for its scores along transcripts that it is forced on.

What is sent is the audio itself and the ids of prompt and transcript, so that nothing is tokenised twice; what comes
back are the teacher's best tokens at each place and the scores of the tokens asked for by name (docs/teachers.md).
"""

import base64
import io
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import soundfile
import torch
from torch import Tensor

from arkasr.data.audio import SAMPLE_RATE
from arkasr.model.frames import HOP_LENGTH, clip_of
from arkasr.recognizers.head import TopTokens
from arkasr.recognizers.recognizer import Recognizer
from arkasr.teacher.replicas import Replicas, UnusableAnswerError
from arkasr.teacher.teacher import Answer, NamedScores, Question, Teacher

PATH = "/inference/v1/generate"
# A server's best tokens count those that no transcript holds; so many more are asked for, and all of them at need.
SPARE_TOKENS = 8
# How often who waits for the teacher looks whether a stop is asked for.
LOOK_UP_SECONDS = 0.5

Read = TypeVar("Read")


class Post(Protocol):
    """Asks, and reads the answer: `Replicas.post`, or `Replicas.ask` of one replica."""

    async def __call__(self, path: str, body: bytes, read: Callable[[Any], Read], /) -> Read: ...


class ServedTeacher(Teacher):
    """A teacher whose weights are elsewhere.

    Args:
        recognizer: its processor and conventions; needs no weights.
        replicas: servers of the model; closed with the teacher.
        model: the name that they serve it under; None = whatever they serve.
        best_tokens: None = the scores of named tokens are asked for, and every score of the objective is exact. Else
            the number of best tokens asked for; the others share evenly what these leave (docs/teachers.md).
    """

    every_score = False
    frontend = f"waveform-{SAMPLE_RATE}"

    def __init__(
        self, recognizer: Recognizer, replicas: Replicas, *, model: str | None = None, best_tokens: int | None = None
    ) -> None:
        super().__init__(recognizer)
        self.replicas = replicas
        self.model = model
        self.best_tokens = best_tokens

    @staticmethod
    def features(waveform: np.ndarray) -> Tensor:
        """The clip itself, float32 `[samples]`: the server makes its own features of it."""
        # Data workers get this function without the teacher and its connections.
        return torch.from_numpy(clip_of(waveform))

    def close(self) -> None:
        self.replicas.close()

    def ask(self, questions: Sequence[Question], top_k: int | None, device: torch.device) -> Answer:
        """Send every question at once, as far as the servers have room, and wait where the answer is wanted."""
        assert top_k is not None
        pending = [self.replicas.start(self.answer(question, top_k, self.replicas.post)) for question in questions]

        def answers(stop_asked: Callable[[], bool]) -> NamedScores | None:
            try:
                while (waited := wait(pending, 0 if stop_asked() else LOOK_UP_SECONDS, FIRST_EXCEPTION)).not_done:
                    for future in waited.done:
                        future.result()  # raises what one of them failed of
                    if stop_asked():
                        return None
                return _joined([future.result() for future in pending]).to(device)
            finally:
                for future in pending:
                    future.cancel()

        return answers

    async def answer(self, question: Question, top_k: int, post: Post) -> NamedScores:
        """The answer to one question, on the CPU.

        Args:
            question: of one utterance.
            top_k: k.
            post: asks the servers, or one of them.

        Raises:
            InputError: `post` does.
        """
        forbidden = int((~self.allowed_tokens).sum())
        scores = None
        for spare in (min(SPARE_TOKENS, forbidden), forbidden):
            if scores is None:
                best_tokens = min(max(top_k + spare, self.best_tokens or 0), self.vocab_size)
                read = partial(self._read, question=question, top_k=top_k, best_tokens=best_tokens)
                scores = await post(PATH, self.request(question, best_tokens), read)
        assert scores is not None
        return scores

    def request(self, question: Question, best_tokens: int, *, prompt: bool = False) -> bytes:
        """What is sent, as JSON.

        Args:
            question: of one utterance.
            best_tokens: how many of the best tokens of every place are wanted.
            prompt: have the prompt's ids sent back, too.
        """
        before, after = self.recognizer.prompt_parts(question.language)
        asked: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "detokenize": False, "prompt_logprobs": best_tokens}
        if self.best_tokens is None:
            asked["prompt_logprob_token_ids"] = _named_by_place(question).tolist()
            asked["prompt_logprob_start"] = self._prompt_length(question) - 1
        request = {
            # One placeholder, which the server replaces by as many as the audio needs.
            "token_ids": [*before, self.recognizer.processor.audio_token_id, *after, *question.transcript.tolist()],
            "content_parts": [{"type": "audio_url", "url": _audio_url(question.audio)}],
            "sampling_params": asked,
            "return_token_ids": prompt,
        }
        if self.model is not None:
            request["model"] = self.model
        return json.dumps(request).encode()

    def _prompt_length(self, question: Question) -> int:
        shortest = getattr(self.recognizer.processor.feature_extractor, "min_length", 0)
        frames = max(len(question.audio), shortest) // HOP_LENGTH
        return len(self.recognizer.prompt_ids(frames, question.language))

    def _read(self, answer: Any, question: Question, top_k: int, best_tokens: int) -> NamedScores | None:
        """The scores in an answer; None if the best tokens among them are fewer than k that are allowed.

        Raises:
            UnusableAnswerError: not all that was asked for is there.
        """
        try:
            best = self._best_tokens(answer, question, best_tokens)
            extra = None if self.best_tokens is not None else _named_scores(answer, question)
        except (LookupError, TypeError, ValueError, AttributeError, EOFError) as error:
            raise UnusableAnswerError(
                f"answers without the scores asked for ({type(error).__name__}: {error}), as one does that is being "
                "stopped, or runs vLLM before 0.32, or has no arkasr beside it"
            ) from error
        allowed = self.allowed_tokens
        # The forced token stands there, too, and need not be one of the best.
        tops = [[token for token, _ in row[:best_tokens] if allowed[token]][:top_k] for row in best]
        if any(len(top) < min(top_k, int(allowed.sum())) for top in tops):
            return None
        ids = torch.tensor(_filled([[token for token, _ in row] for row in best], -1))
        log_probs = torch.tensor(_filled([[score for _, score in row] for row in best], -math.inf))
        rows = question.positions.clamp(min=0)
        ids, log_probs = ids[rows], log_probs[rows]
        elsewhere = torch.where(question.positions >= 0, math.nan, 0.0)
        if extra is None:
            elsewhere = evenly_shared(log_probs, best_tokens, self.vocab_size)
        else:
            ids = torch.cat((ids, question.named), dim=1)
            log_probs = torch.cat((log_probs, extra[rows]), dim=1)
        # As many as in process, which fills up with tokens that are not allowed.
        top = torch.tensor(_filled(tops, -1, min(top_k, self.vocab_size)))[rows]
        unknown = torch.full((len(rows),), math.nan)
        return NamedScores(ids, log_probs, elsewhere, TopTokens(top, top[:, 0], torch.zeros(len(rows)), unknown))

    def _best_tokens(self, answer: Any, question: Question, best_tokens: int) -> list[list[tuple[int, float]]]:
        """Ids and log-probabilities at every place of the transcript, best first, the forced token's among them."""
        places = answer["prompt_logprobs"]
        before = self._prompt_length(question)
        if len(places) != before + len(question.transcript):
            raise ValueError(f"{len(places)} places of {before + len(question.transcript)}")
        best = []
        for said, forced in zip(places[before:], question.transcript.tolist(), strict=True):
            scores = {int(token): float(it["logprob"]) for token, it in said.items()}
            if len(scores) < best_tokens or forced not in scores:
                raise ValueError(f"{len(scores)} tokens of {best_tokens}, or not the forced one")
            if max(scores) >= self.vocab_size or any(math.isnan(score) for score in scores.values()):
                raise ValueError(f"a token beyond the vocabulary of {self.vocab_size}, or one without a number")
            best.append(sorted(scores.items(), key=lambda pair: -pair[1]))
        return best


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


def _named_by_place(question: Question) -> Tensor:
    """The ids asked for by name at every place of the transcript, LongTensor `[m, K]`; −1 = no id."""
    named = torch.full((len(question.transcript), question.named.shape[1]), -1)
    paired = question.positions >= 0
    named[question.positions[paired]] = question.named[paired]
    return named


def _named_scores(answer: Any, question: Question) -> Tensor:
    """The log-probabilities of the tokens asked for by name, float32 `[m, K]`."""
    file = io.BytesIO(base64.b64decode(answer["prompt_token_id_logprobs"]))
    scores = torch.from_numpy(np.load(file, allow_pickle=False)).float()
    named = _named_by_place(question)
    if scores.shape != named.shape or not scores[named >= 0].isfinite().all():
        raise ValueError(f"named scores of shape {tuple(scores.shape)} of {tuple(named.shape)}, or not all finite")
    return scores


def _filled(rows: Sequence[list[Any]], filler: float, width: int = 0) -> list[list[Any]]:
    """Rows as long as the longest, or as `width`."""
    width = max(width, *map(len, rows))
    return [row + [filler] * (width - len(row)) for row in rows]


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
        TopTokens(
            torch.cat([top.ids for top in tops]),
            torch.cat([top.best for top in tops]),
            torch.cat([top.log_normaliser for top in tops]),
            torch.cat([top.entropy for top in tops]),
        ),
    )
