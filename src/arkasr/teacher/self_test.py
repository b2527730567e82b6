"""Do servers give the scores of the teacher whose processor is here? Asked before the first step of a run.

In: servers, some questions, and the teacher itself where its weights are at hand. Out: the largest difference, or one
line that says what differs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from arkasr.data.audio import SAMPLE_RATE
from arkasr.errors import InputError
from arkasr.model.recognizer import Recognizer
from arkasr.model.scoring import forced_logits
from arkasr.teacher.served import ServedTeacher
from arkasr.teacher.teacher import Question

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
    servers: Sequence[ServedTeacher],
    own: Recognizer | None,
    questions: Sequence[Question],
    top_k: int,
    tolerance: float,
) -> float:
    """See that every server reads the prompt as it is read here, and gives the teacher's scores.

    Args:
        servers: a teacher for each of them.
        own: the same teacher with its weights; None compares with the first server's scores, itself included, which is
            then asked twice.
        questions: what they are asked.
        top_k: k of the objective.
        tolerance: nats.

    Returns:
        The largest difference of a log-probability, nats.

    Raises:
        InputError: names the server, and what differs.
    """
    worst = 0.0
    for question in questions:
        expected = _scores_here(own, question) if own is not None else _scores_there(servers[0], question, top_k)
        for server in servers:
            url = server.replicas.replicas[0].url
            _check_prompt(server, question, url)
            found = server.answer(question, top_k)
            expectation = expected(found.ids.clamp_min(0))
            # What the other server did not say is nothing to compare with; what this one does not say is a difference.
            comparable = (found.ids >= 0) & expectation.isfinite()
            differences = (expectation - found.log_probs).abs().nan_to_num(nan=torch.inf)
            difference = float(differences.masked_fill(~comparable, 0.0).max())
            if not comparable.any() or difference > tolerance:
                whose = "the teacher's own" if own is not None else f"those of {servers[0].replicas.replicas[0].url}"
                seconds = len(question.heard) / SAMPLE_RATE
                raise InputError(
                    f"teacher {url}: on {seconds:.1f} s of audio its log-probabilities are up to {difference:.2g} from "
                    f"{whose}, more than `served.tolerance` ({tolerance:g}); serve the same weights in float32, with "
                    "arkasr installed beside vLLM, or raise the tolerance"
                )
            worst = max(worst, difference)
    return worst


@torch.no_grad()
def _scores_here(own: Recognizer, question: Question) -> Callable[[Tensor], Tensor]:
    features = own.features(question.heard.numpy())
    prompts = own.prompts([features], [question.language]).to(own.device)
    log_probs = forced_logits(own, prompts, [question.transcript]).float().log_softmax(-1).cpu()
    return lambda ids: log_probs.gather(1, ids)


def _scores_there(server: ServedTeacher, question: Question, top_k: int) -> Callable[[Tensor], Tensor]:
    scores = server.answer(question, top_k)
    # What it did not say is nothing to compare with.
    return replace(scores, elsewhere=torch.full_like(scores.elsewhere, torch.nan)).of


def _check_prompt(server: ServedTeacher, question: Question, url: str) -> None:
    read = server.exchange(question, 1, prompt=True)
    frames = server.recognizer.features(question.heard.numpy()).shape[1]
    expected = [*server.recognizer.prompt_ids(frames, question.language), *question.transcript.tolist()]
    if read.get("prompt_token_ids") != expected:
        raise InputError(
            f"teacher {url}: it reads another prompt than the processor here writes; serve the model that `pretrained` "
            "names"
        )
