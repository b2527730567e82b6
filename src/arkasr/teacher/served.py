"""A teacher on vLLM servers, which scores given transcripts over HTTP.

Each request holds the audio and the token ids of prompt and transcript, so that no server tokenises. Each response
holds the teacher's best tokens at every position. If the server can score tokens by id, the response also holds the
scores of the requested tokens (docs/teachers.md).
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
from arkasr.recognizers.decoder_only import DecoderOnlyRecognizer, require_decoder_only
from arkasr.recognizers.head import TopTokens
from arkasr.recognizers.recognizer import Recognizer
from arkasr.teacher.replicas import InvalidResponseError, Replicas
from arkasr.teacher.teacher import PendingScores, ScoringRequest, SparseScores, Teacher

GENERATE_PATH = "/inference/v1/generate"
# A server's best tokens include special ones, which no transcript holds. The first attempt requests this many tokens
# more than k.
SPARE_TOKENS = 8
# How often a wait for scores checks whether a stop is requested.
STOP_POLL_SECONDS = 0.5

Parsed = TypeVar("Parsed")


class Post(Protocol):
    """Sends a request and parses the response: `Replicas.post`, or `Replicas.post_once` for one replica."""

    async def __call__(self, path: str, body: bytes, parse: Callable[[Any], Parsed], /) -> Parsed: ...


class ServedTeacher(Teacher):
    """A teacher whose weights are on servers.

    Args:
        recognizer: the teacher's processor, prompt and allowed tokens; needs no weights.
        replicas: servers of the model; closed with the teacher.
        model: the name under which the servers serve it; None = the server's model.
        best_tokens: None = request scores by token id, so that the objective is exact. Otherwise only the
            best tokens are requested, at least this many, and all others share the remaining probability equally
            (docs/teachers.md).
    """

    recognizer: DecoderOnlyRecognizer
    full_vocabulary = False
    frontend = f"waveform-{SAMPLE_RATE}"

    def __init__(
        self, recognizer: Recognizer, replicas: Replicas, *, model: str | None = None, best_tokens: int | None = None
    ) -> None:
        super().__init__(require_decoder_only(recognizer, "a served teacher"))
        self.replicas = replicas
        self.model = model
        self.best_tokens = best_tokens

    @staticmethod
    def features(waveform: np.ndarray) -> Tensor:
        """The clip itself, float32 `[samples]`; the server computes its features."""
        # Static, so that data workers get it without the teacher and its connections.
        return torch.from_numpy(clip_of(waveform))

    def close(self) -> None:
        self.replicas.close()

    def submit(self, requests: Sequence[ScoringRequest], top_k: int | None, device: torch.device) -> PendingScores:
        """Send all requests, as far as the servers have capacity, and return at once."""
        assert top_k is not None
        pending = [self.replicas.submit(self.score(request, top_k, self.replicas.post)) for request in requests]

        def wait_for_scores(stop_requested: Callable[[], bool]) -> SparseScores | None:
            try:
                while (waited := wait(pending, 0 if stop_requested() else STOP_POLL_SECONDS, FIRST_EXCEPTION)).not_done:
                    for future in waited.done:
                        future.result()  # raises the error of a failed request
                    if stop_requested():
                        return None
                return _concatenated([future.result() for future in pending]).to(device)
            finally:
                for future in pending:
                    future.cancel()

        return wait_for_scores

    async def score(self, request: ScoringRequest, top_k: int, post: Post) -> SparseScores:
        """The scores of one request, on the CPU.

        Args:
            request: of one utterance.
            top_k: k.
            post: sends it.

        Raises:
            InputError: whenever `post` raises it.
        """
        forbidden_count = int((~self.allowed_tokens).sum())
        # The second attempt requests k + all forbidden tokens, so k allowed ones are among them.
        for spare in (min(SPARE_TOKENS, forbidden_count), forbidden_count):
            best_tokens = min(max(top_k + spare, self.best_tokens or 0), self.vocab_size)
            parse = partial(self._parse, request=request, top_k=top_k, best_tokens=best_tokens)
            scores = await post(GENERATE_PATH, self.request_body(request, best_tokens), parse)
            if scores is not None:
                break
        assert scores is not None
        return scores

    def request_body(self, request: ScoringRequest, best_tokens: int, *, return_prompt: bool = False) -> bytes:
        """The JSON body of a request.

        Args:
            request: of one utterance.
            best_tokens: number of best tokens to return at every position.
            return_prompt: also return the ids of the prompt.
        """
        before, after = self.recognizer.prompt_parts(request.language)
        sampling: dict[str, Any] = {
            "max_tokens": 1,
            "temperature": 0,
            "detokenize": False,
            "prompt_logprobs": best_tokens,
        }
        if self.best_tokens is None:
            sampling["prompt_logprob_token_ids"] = _requested_ids(request).tolist()
            sampling["prompt_logprob_start"] = self._prompt_length(request) - 1
        body = {
            # One placeholder; the server expands it to the length of the audio.
            "token_ids": [*before, self.recognizer.processor.audio_token_id, *after, *request.transcript.tolist()],
            "content_parts": [{"type": "audio_url", "url": _audio_url(request.audio)}],
            "sampling_params": sampling,
            "return_token_ids": return_prompt,
        }
        if self.model is not None:
            body["model"] = self.model
        return json.dumps(body).encode()

    def _prompt_length(self, request: ScoringRequest) -> int:
        min_samples = getattr(self.recognizer.processor.feature_extractor, "min_length", 0)
        frames = max(len(request.audio), min_samples) // HOP_LENGTH
        return len(self.recognizer.prompt_ids(frames, request.language))

    def _parse(self, response: Any, request: ScoringRequest, top_k: int, best_tokens: int) -> SparseScores | None:
        """The scores in a response; None if fewer than k of its best tokens are allowed.

        Raises:
            InvalidResponseError: scores are missing or malformed.
        """
        try:
            best = self._best_tokens(response, request, best_tokens)
            requested = None if self.best_tokens is not None else _requested_log_probs(response, request)
        except (LookupError, TypeError, ValueError, AttributeError, EOFError) as error:
            raise InvalidResponseError(
                f"sends a response without the requested scores ({type(error).__name__}: {error}); it is shutting "
                "down, runs vLLM before 0.32, or has no arkasr installed beside vLLM"
            ) from error
        allowed = self.allowed_tokens
        # The last of `row` may be the forced token. It need not be one of the best.
        tops = [[token for token, _ in row[:best_tokens] if allowed[token]][:top_k] for row in best]
        if any(len(top) < min(top_k, int(allowed.sum())) for top in tops):
            return None
        ids = torch.tensor(_padded([[token for token, _ in row] for row in best], -1))
        log_probs = torch.tensor(_padded([[score for _, score in row] for row in best], -math.inf))
        rows = request.positions.clamp(min=0)
        ids, log_probs = ids[rows], log_probs[rows]
        if requested is None:
            other_log_prob = uniform_remainder(log_probs, best_tokens, self.vocab_size)
        else:
            # NaN where scored: any other token is unknown; 0 in rows that are not scored.
            other_log_prob = torch.where(request.positions >= 0, math.nan, 0.0)
            ids = torch.cat((ids, request.requested_ids), dim=1)
            log_probs = torch.cat((log_probs, requested[rows]), dim=1)
        # As many columns as the top k of a teacher in process.
        top = torch.tensor(_padded(tops, -1, min(top_k, self.vocab_size)))[rows]
        unknown = torch.full((len(rows),), math.nan)
        top_tokens = TopTokens(top, top[:, 0], torch.zeros(len(rows)), unknown)
        return SparseScores(ids, log_probs, other_log_prob, top_tokens, _forced_log_probs(best, request))

    def _best_tokens(self, response: Any, request: ScoringRequest, best_tokens: int) -> list[list[tuple[int, float]]]:
        """Ids and log-probabilities at every position of the transcript, best first.

        The forced token is included even if it is not among the best.
        """
        positions = response["prompt_logprobs"]
        prompt_length = self._prompt_length(request)
        if len(positions) != prompt_length + len(request.transcript):
            raise ValueError(f"has {len(positions)} positions instead of {prompt_length + len(request.transcript)}")
        best = []
        for candidates, forced in zip(positions[prompt_length:], request.transcript.tolist(), strict=True):
            scores = {int(token): float(score["logprob"]) for token, score in candidates.items()}
            if len(scores) < best_tokens or forced not in scores:
                raise ValueError(f"has {len(scores)} tokens instead of {best_tokens}, or lacks the forced token")
            if max(scores) >= self.vocab_size or any(math.isnan(score) for score in scores.values()):
                raise ValueError(f"has a token outside the vocabulary of {self.vocab_size}, or a score that is NaN")
            best.append(sorted(scores.items(), key=lambda pair: -pair[1]))
        return best


def _forced_log_probs(best: Sequence[Sequence[tuple[int, float]]], request: ScoringRequest) -> Tensor:
    """The log-probabilities `[f]` of the tokens at `forced_positions`; every row of `best` holds its forced token."""
    tokens = request.transcript.tolist()
    return torch.tensor([dict(best[position])[tokens[position]] for position in request.forced_positions.tolist()])


def uniform_remainder(log_probs: Tensor, best_tokens: int, vocab_size: int) -> Tensor:
    """Log-probability `[N]` of each remaining token if all of them share the remaining probability equally.

    It is at most the lowest log-probability among the best tokens.

    Args:
        log_probs: `[N, M]`, best first; −inf = empty slot.
        best_tokens: the number of best tokens; a column after these is the forced token.
        vocab_size: V_T.
    """
    remaining = (1 - log_probs.exp().sum(1)).clamp_min(torch.finfo(log_probs.dtype).tiny)
    others = vocab_size - log_probs.isfinite().sum(1)
    return torch.minimum((remaining / others.clamp_min(1)).log(), log_probs[:, best_tokens - 1])


def _requested_ids(request: ScoringRequest) -> Tensor:
    """The requested ids at every position of the transcript, LongTensor `[m, K]`; −1 = no id."""
    ids = torch.full((len(request.transcript), request.requested_ids.shape[1]), -1)
    scored = request.positions >= 0
    ids[request.positions[scored]] = request.requested_ids[scored]
    return ids


def _requested_log_probs(response: Any, request: ScoringRequest) -> Tensor:
    """The log-probabilities of the requested ids, float32 `[m, K]`."""
    file = io.BytesIO(base64.b64decode(response["prompt_token_id_logprobs"]))
    log_probs = torch.from_numpy(np.load(file, allow_pickle=False)).float()
    ids = _requested_ids(request)
    if log_probs.shape != ids.shape or not log_probs[ids >= 0].isfinite().all():
        raise ValueError(
            f"has requested scores of shape {tuple(log_probs.shape)} instead of {tuple(ids.shape)}, or non-finite ones"
        )
    return log_probs


def _padded(rows: Sequence[list[Any]], padding: float, width: int = 0) -> list[list[Any]]:
    """Pad rows to the longest of them, and at least to `width`."""
    width = max(width, *map(len, rows))
    return [row + [padding] * (width - len(row)) for row in rows]


def _audio_url(samples: Tensor) -> str:
    """The clip `[samples]` as a float32 WAV file, which is lossless."""
    file = io.BytesIO()
    soundfile.write(file, samples.numpy(), SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _concatenated(parts: Sequence[SparseScores]) -> SparseScores:
    """Concatenate the rows of several requests; narrower ones get empty slots."""
    width = max(part.ids.shape[1] for part in parts)

    def widened(tensor: Tensor, padding: float) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=padding)

    tops = [part.top for part in parts]
    return SparseScores(
        torch.cat([widened(part.ids, -1) for part in parts]),
        torch.cat([widened(part.log_probs, -math.inf) for part in parts]),
        torch.cat([part.other_log_prob for part in parts]),
        TopTokens(
            torch.cat([top.ids for top in tops]),
            torch.cat([top.best for top in tops]),
            torch.cat([top.log_normaliser for top in tops]),
            torch.cat([top.entropy for top in tops]),
        ),
        torch.cat([part.forced_log_probs for part in parts if part.forced_log_probs is not None]),
    )
