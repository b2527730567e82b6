"""Do servers give the scores of the teacher whose processor is here? Asked before the first step of a run.

In: servers, some questions, and the teacher itself where its weights are at hand. Out: the largest difference, or one
line that says what differs.
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
from arkasr.teacher.served import PATH, Post, ServedTeacher
from arkasr.teacher.teacher import NamedScores, Question

# What is forced where an utterance has no text: any tokens do.
WORDS = "one two three"


def trial_question(
    recognizer: Recognizer, waveform: np.ndarray, language: str | None, text: str | None, *, named: int
) -> Question:
    """A question about one clip `[samples]`, with `named` tokens from all over the vocabulary asked for by name."""
    transcript = recognizer.transcript_ids(text or WORDS)
    allowed = recognizer.allowed_tokens.nonzero().squeeze(1)
    spread = allowed[torch.linspace(0, len(allowed) - 1, named).long()].expand(len(transcript), -1)
    return Question(ServedTeacher.features(waveform), language, transcript, torch.arange(len(transcript)), spread)


def check_servers(
    teacher: ServedTeacher, own: Recognizer | None, questions: Sequence[Question], top_k: int, tolerance: float
) -> float:
    """See that every server reads the prompt as it is read here, and gives the teacher's scores.

    A server that fails later is asked the first question again before it gets another, and must still pass.

    Args:
        teacher: at the servers.
        own: the same teacher with its weights; None compares with the first server's scores, itself included, which is
            then asked twice.
        questions: what they are asked, the cheapest first.
        top_k: k of the objective.
        tolerance: nats.

    Returns:
        The largest difference of a log-probability, nats.

    Raises:
        InputError: names the server, and what differs.
    """
    replicas = teacher.replicas
    first = replicas.replicas[0]
    whose = "the teacher's own" if own is not None else f"those of {first.url}"

    async def ask(question: Question, post: Post) -> NamedScores:
        return await teacher.answer(question, top_k, post)

    trials = []
    worst = 0.0
    for question in questions:
        if own is not None:
            expected = _scores_here(own, question)
        else:
            expected = _scores_there(replicas.start(ask(question, _only(replicas, first))).result())
        trial = _Trial(question, expected, whose, tolerance)
        trials.append(trial)
        for replica in replicas.replicas:
            post = _only(replicas, replica)
            _check_prompt(teacher, replica, post, question)
            worst = max(worst, trial.difference(replica, replicas.start(ask(question, post)).result()))

    shortest = trials[0]

    async def still_passes(replica: Replica) -> None:
        shortest.difference(replica, await ask(shortest.question, partial(replicas.ask, replica)))

    replicas.trust(still_passes)
    return worst


@dataclass(frozen=True)
class _Trial:
    """A question with a known answer.

    Attributes:
        question: asked.
        expected: log-probabilities of ids; NaN = not known.
        whose: they are.
        tolerance: nats.
    """

    question: Question
    expected: Callable[[Tensor], Tensor]
    whose: str
    tolerance: float

    def difference(self, replica: Replica, found: NamedScores) -> float:
        """The largest difference of a log-probability that a server gave, nats.

        Raises:
            InputError: it is too large.
        """
        expectation = self.expected(found.ids.clamp_min(0))
        # What the other server did not say is nothing to compare with; what this one does not say is a difference.
        comparable = (found.ids >= 0) & expectation.isfinite()
        differences = (expectation - found.log_probs).abs().nan_to_num(nan=torch.inf)
        difference = float(differences.masked_fill(~comparable, 0.0).max())
        if not comparable.any() or difference > self.tolerance:
            seconds = len(self.question.audio) / SAMPLE_RATE
            raise InputError(
                f"teacher {replica.url}: on {seconds:.1f} s of audio its log-probabilities are up to {difference:.2g} "
                f"from {self.whose}, more than `served.tolerance` ({self.tolerance:g}); serve the same weights in "
                "float32, with arkasr installed beside vLLM, or raise the tolerance"
            )
        return difference


def _only(replicas: Replicas, replica: Replica) -> Post:
    """Asks one of the servers, as often as patience lasts."""
    return partial(replicas.post, among=[replica])


@torch.no_grad()
def _scores_here(own: Recognizer, question: Question) -> Callable[[Tensor], Tensor]:
    features = own.features(question.audio.numpy())
    prompts = own.prompts([features], [question.language]).to(own.device)
    log_probs = forced_logits(own, prompts, [question.transcript]).float().log_softmax(-1).cpu()
    return lambda ids: log_probs.gather(1, ids)


def _scores_there(scores: NamedScores) -> Callable[[Tensor], Tensor]:
    # What it did not say is nothing to compare with.
    return replace(scores, elsewhere=torch.full_like(scores.elsewhere, torch.nan)).of


def _check_prompt(teacher: ServedTeacher, replica: Replica, post: Post, question: Question) -> None:
    body = teacher.request(question, 1, prompt=True)
    read = teacher.replicas.start(post(PATH, body, lambda answer: answer)).result()
    frames = teacher.recognizer.features(question.audio.numpy()).shape[1]
    expected = [*teacher.recognizer.prompt_ids(frames, question.language), *question.transcript.tolist()]
    if not isinstance(read, dict) or read.get("prompt_token_ids") != expected:
        raise InputError(
            f"teacher {replica.url}: it reads another prompt than the processor here writes; serve the model that "
            "`pretrained` names"
        )
