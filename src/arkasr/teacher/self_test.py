"""Test before the first step that servers give the scores of the expected teacher.

In: servers, scoring requests, and the teacher itself if its weights are in this process. Out: the largest difference,
or an error that says what differs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from arkasr.data.audio import SAMPLE_RATE
from arkasr.errors import InputError
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.scoring import forced_logits
from arkasr.teacher.replicas import Replica, Replicas
from arkasr.teacher.served import GENERATE_PATH, Post, ServedTeacher
from arkasr.teacher.teacher import ScoringRequest, SparseScores

# The transcript of an utterance without text. Its content does not matter.
DEFAULT_TRANSCRIPT = "one two three"


def self_test_request(
    recognizer: Recognizer, waveform: np.ndarray, language: str | None, text: str | None, *, requested: int
) -> ScoringRequest:
    """A request for one clip `[samples]` with `requested` ids, evenly spaced in the vocabulary, at every position."""
    transcript = recognizer.transcript_ids(text or DEFAULT_TRANSCRIPT)
    allowed = recognizer.allowed_tokens.nonzero().squeeze(1)
    requested_ids = allowed[torch.linspace(0, len(allowed) - 1, requested).long()].expand(len(transcript), -1)
    audio = ServedTeacher.features(waveform)
    return ScoringRequest(audio, language, transcript, torch.arange(len(transcript)), requested_ids)


def check_servers(
    teacher: ServedTeacher, local: Recognizer | None, requests: Sequence[ScoringRequest], top_k: int, tolerance: float
) -> float:
    """Check that every server builds the prompt of the local processor and gives the teacher's scores.

    Afterwards, a failed server must pass the first request again before it gets others.

    Args:
        teacher: its servers are tested.
        local: the same teacher with its weights. None = all servers are compared with the first one, which therefore
            scores each request twice.
        requests: the shortest first.
        top_k: k of the objective.
        tolerance: nats.

    Returns:
        The largest difference of a log-probability, nats.

    Raises:
        InputError: a server differs; the message names the server and the difference.
    """
    replicas = teacher.replicas
    first = replicas.replicas[0]
    tests = []
    largest = 0.0
    for request in requests:
        if local is not None:
            test = _SelfTest(request, _local_scores(local, request), "the teacher's own", tolerance)
        else:
            reference = _reference_scores(_scores_from(teacher, first, request, top_k))
            test = _SelfTest(request, reference, f"those of {first.url}", tolerance)
        tests.append(test)
        for replica in replicas.replicas:
            _check_prompt(teacher, replica, request)
            largest = max(largest, test.difference(replica, _scores_from(teacher, replica, request, top_k)))

    shortest = tests[0]

    async def probe_replica(replica: Replica) -> None:
        scores = await teacher.score(shortest.request, top_k, partial(replicas.post_once, replica))
        shortest.difference(replica, scores)

    replicas.set_probe(probe_replica)
    return largest


@dataclass(frozen=True)
class _SelfTest:
    """A request with known scores.

    Attributes:
        request: the request.
        expected: gives the known log-probabilities of ids; NaN = unknown.
        source: where the known scores come from, for messages.
        tolerance: nats.
    """

    request: ScoringRequest
    expected: Callable[[Tensor], Tensor]
    source: str
    tolerance: float

    def difference(self, replica: Replica, found: SparseScores) -> float:
        """The largest difference between a server's log-probabilities and the known ones, nats.

        Raises:
            InputError: it exceeds the tolerance.
        """
        expected = self.expected(found.ids.clamp_min(0))
        # Unknown scores cannot be compared. A score that the tested server lacks counts as a difference.
        comparable = (found.ids >= 0) & expected.isfinite()
        differences = (expected - found.log_probs).abs().nan_to_num(nan=torch.inf)
        difference = float(differences.masked_fill(~comparable, 0.0).max())
        if not comparable.any() or difference > self.tolerance:
            seconds = len(self.request.audio) / SAMPLE_RATE
            raise InputError(
                f"teacher {replica.url}: on {seconds:.1f} s of audio its log-probabilities are up to {difference:.2g} "
                f"from {self.source}, more than `served.tolerance` ({self.tolerance:g}); serve the same weights in "
                "float32, with arkasr installed beside vLLM, or raise the tolerance"
            )
        return difference


def _post_to(replicas: Replicas, replica: Replica) -> Post:
    """Sends to one server only, with retries."""
    return partial(replicas.post, candidates=[replica])


def _scores_from(teacher: ServedTeacher, replica: Replica, request: ScoringRequest, top_k: int) -> SparseScores:
    replicas = teacher.replicas
    return replicas.submit(teacher.score(request, top_k, _post_to(replicas, replica))).result()


@torch.no_grad()
def _local_scores(local: Recognizer, request: ScoringRequest) -> Callable[[Tensor], Tensor]:
    features = local.features(request.audio.numpy())
    prompts = local.prompts([features], [request.language]).to(local.device)
    log_probs = forced_logits(local, prompts, [request.transcript]).float().log_softmax(-1).cpu()
    return lambda ids: log_probs.gather(1, ids)


def _reference_scores(scores: SparseScores) -> Callable[[Tensor], Tensor]:
    # Estimated scores cannot be a reference.
    return replace(scores, other_log_prob=torch.full_like(scores.other_log_prob, torch.nan)).log_probs_of


def _check_prompt(teacher: ServedTeacher, replica: Replica, request: ScoringRequest) -> None:
    post = _post_to(teacher.replicas, replica)
    body = teacher.request_body(request, 1, return_prompt=True)
    response = teacher.replicas.submit(post(GENERATE_PATH, body, lambda document: document)).result()
    frames = teacher.recognizer.features(request.audio.numpy()).shape[1]
    expected = [*teacher.recognizer.prompt_ids(frames, request.language), *request.transcript.tolist()]
    if not isinstance(response, dict) or response.get("prompt_token_ids") != expected:
        raise InputError(
            f"teacher {replica.url}: its prompt differs from that of the processor here; serve the model that "
            "`pretrained` names"
        )
