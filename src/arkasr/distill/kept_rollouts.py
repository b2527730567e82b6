"""The rollouts of a batch that are trained on: loops marked, empty rollouts replaced or left out.

Source: arXiv 2605.28139, section 3.2; docs/objective.md, "When the rollout is empty". In: the student's transcripts.
Out: the transcripts on which both models are compared. The teacher is left to others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arkasr.recognizers.decoding import Transcripts
from arkasr.recognizers.loops import loop_start
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.text import clean_transcript


@dataclass(frozen=True)
class Rollout:
    """The transcript on which both models are compared for one utterance.

    Attributes:
        index: of the utterance in the batch.
        tokens: int64 `[n]`, with the stop token if it was generated.
        states: the decoder's states from which the tokens were generated, `[n, H]` on the model's device; None for a
            reference and for engines that do not return them.
        stopped: whether it ends in the stop token.
        loop_start_token: index of the token at which the repeated words start for the second time; None = no loop, or
            the rollout is a reference.
    """

    index: int
    tokens: Tensor
    states: Tensor | None
    stopped: bool = True
    loop_start_token: int | None = None

    def outside_loop(self) -> Tensor:
        """Bool `[n]`: the positions up to and including `loop_start_token`, and the stop token.

        At `loop_start_token` the teacher has not read a repetition yet, and can score what should come instead.
        """
        outside = torch.ones(len(self.tokens), dtype=torch.bool)
        if self.loop_start_token is not None:
            outside[self.loop_start_token + 1 : len(self.tokens) - int(self.stopped)] = False
        return outside


@dataclass(frozen=True)
class Rollouts:
    """The rollouts of a batch.

    Attributes:
        kept: one rollout for each utterance that is not skipped.
        transcripts: the student's tokens for every utterance, empty transcripts included.
        loop_start_tokens: `Rollout.loop_start_token` of every utterance.
        stopped: bool `[B]`, whether the stop token was generated before the cap.
        fallbacks: number of empty rollouts replaced by the reference.
        skipped: number of empty rollouts without a reference that the student can write.
        passes: number of decoder passes.
    """

    kept: list[Rollout]
    transcripts: list[Tensor]
    loop_start_tokens: list[int | None]
    stopped: Tensor
    fallbacks: int
    skipped: int
    passes: int


def prepare_rollouts(student: Recognizer, transcripts: Transcripts, references: Sequence[str | None]) -> Rollouts:
    """Find loops, and replace or skip empty transcripts.

    Args:
        student: the recogniser that generated the transcripts.
        transcripts: of B utterances.
        references: B texts that replace empty transcripts, None = no text.
    """
    states: Sequence[Tensor | None] = [None] * len(transcripts.tokens)
    if transcripts.states is not None:
        states = transcripts.states.split([len(tokens) for tokens in transcripts.tokens])
    stopped = transcripts.stopped.tolist()
    texts = [student.transcript_text(tokens) for tokens in transcripts.tokens]
    loop_start_tokens = [
        _loop_start_token(student, *transcript) for transcript in zip(transcripts.tokens, texts, stopped, strict=True)
    ]
    kept, fallbacks, skipped = [], 0, 0
    for index, (tokens, text, reference) in enumerate(zip(transcripts.tokens, texts, references, strict=True)):
        if clean_transcript(text):
            kept.append(Rollout(index, tokens, states[index], stopped[index], loop_start_tokens[index]))
        elif reference and student.can_write(len(reference_tokens := student.transcript_ids(reference))):
            kept.append(Rollout(index, reference_tokens, None))
            fallbacks += 1
        else:
            skipped += 1
    return Rollouts(
        kept, transcripts.tokens, loop_start_tokens, transcripts.stopped, fallbacks, skipped, transcripts.passes
    )


def _loop_start_token(student: Recognizer, tokens: Tensor, text: str, stopped: bool) -> int | None:
    """`Rollout.loop_start_token` of a transcript; `text` is its decoded text."""
    first_character = loop_start(text, cut_off=not stopped)
    if first_character is None:
        return None
    lengths = (len(student.transcript_text(tokens[: count + 1])) for count in range(len(tokens)))
    return next(index for index, length in enumerate(lengths) if length > first_character)
