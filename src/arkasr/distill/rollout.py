"""The student writes: transcripts of a batch, and what stands in for those that came out empty.

Source: arXiv 2605.28139, section 3.2; docs/objective.md, "When the rollout is empty". Knows nothing of the teacher.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from arkasr.model.decoding import Sampling, decode
from arkasr.model.engine import Engine
from arkasr.model.recognizer import Prompts, Recognizer
from arkasr.model.text import clean_transcript


@dataclass(frozen=True)
class Rollout:
    """The transcript on which one utterance is compared.

    Attributes:
        clip: place of the utterance in the batch.
        tokens: int64 `[n]`, the stop token included when it was written.
        states: what the student's decoder held as it wrote each token, `[n, H]` on the model's device; None for a
            reference, and where an engine wrote that does not tell.
    """

    clip: int
    tokens: Tensor
    states: Tensor | None


@dataclass(frozen=True)
class Rollouts:
    """What became of a batch.

    Attributes:
        kept: one rollout for every utterance that is not skipped.
        written: what the student wrote for every utterance, empty ones included.
        stopped: bool `[B]`, whether it came to a stop before the cap.
        fallbacks: empty rollouts replaced by the reference.
        skipped: empty rollouts without a reference.
        passes: how many times the decoder ran.
    """

    kept: list[Rollout]
    written: list[Tensor]
    stopped: Tensor
    fallbacks: int
    skipped: int
    passes: int


def roll_out(
    student: Recognizer,
    prompts: Prompts,
    references: Sequence[str | None],
    *,
    max_new_tokens: int,
    drafts: Sequence[Sequence[int]] | None = None,
    sampling: Sampling | None = None,
    engine: Engine | None = None,
) -> Rollouts:
    """Let the student write a transcript of every clip, without gradient.

    Args:
        student: its model's mode is the caller's.
        prompts: B prompts on the model's device.
        references: B texts to fall back on, None where there is none.
        max_new_tokens: cap on the tokens of a rollout, the stop token included.
        drafts: B guesses at the rollouts, as token ids; they change the time it takes and nothing else.
        sampling: draw tokens; None = greedy, as in the paper.
        engine: writes for the student; None = `decode`, in this process.
    """
    write = engine or decode
    transcripts = write(student, prompts, max_new_tokens=max_new_tokens, drafts=drafts, sampling=sampling)
    states: Sequence[Tensor | None] = [None] * len(transcripts.tokens)
    if transcripts.states is not None:
        states = transcripts.states.split([len(tokens) for tokens in transcripts.tokens])
    kept, fallbacks, skipped = [], 0, 0
    for clip, (tokens, reference) in enumerate(zip(transcripts.tokens, references, strict=True)):
        if clean_transcript(student.transcript_text(tokens)):
            kept.append(Rollout(clip, tokens, states[clip]))
        elif reference:
            kept.append(Rollout(clip, student.transcript_ids(reference), None))
            fallbacks += 1
        else:
            skipped += 1
    return Rollouts(kept, transcripts.tokens, transcripts.stopped, fallbacks, skipped, transcripts.passes)
