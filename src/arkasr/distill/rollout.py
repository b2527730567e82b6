"""What becomes of a batch that the student has written, and what stands in for transcripts that came out empty.

Source: arXiv 2605.28139, section 3.2; docs/objective.md, "When the rollout is empty". Knows nothing of the teacher.
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
    """The transcript on which one utterance is compared.

    Attributes:
        clip: place of the utterance in the batch.
        tokens: int64 `[n]`, the stop token included when it was written.
        stopped: whether it ends in the stop token.
        loop: place of the token that starts a loop over (`loops.py`); None = no loop, or the student did not write it.
        states: what the student's decoder held as it wrote each token, `[n, H]` on the model's device; None for a
            reference, and where an engine wrote that does not tell.
    """

    clip: int
    tokens: Tensor
    states: Tensor | None
    stopped: bool = True
    loop: int | None = None

    def outside_loop(self) -> Tensor:
        """Bool `[n]`: the positions whose prefix repeats nothing, and the stop token.

        The token that starts the loop over is among them: the teacher does not yet read a repetition there, and may
        say what should have come instead.
        """
        outside = torch.ones(len(self.tokens), dtype=torch.bool)
        if self.loop is not None:
            outside[self.loop + 1 : len(self.tokens) - int(self.stopped)] = False
        return outside


@dataclass(frozen=True)
class Rollouts:
    """What became of a batch.

    Attributes:
        kept: one rollout for every utterance that is not skipped.
        written: what the student wrote for every utterance, empty ones included.
        loops: for every utterance, the place of the token that starts a loop over; None = no loop.
        stopped: bool `[B]`, whether it came to a stop before the cap.
        fallbacks: empty rollouts replaced by the reference.
        skipped: empty rollouts without a reference.
        passes: how many times the decoder ran.
    """

    kept: list[Rollout]
    written: list[Tensor]
    loops: list[int | None]
    stopped: Tensor
    fallbacks: int
    skipped: int
    passes: int


def keep_rollouts(student: Recognizer, transcripts: Transcripts, references: Sequence[str | None]) -> Rollouts:
    """Sort out a batch that the student has written.

    Args:
        student: whose tokens these are.
        transcripts: B of them.
        references: B texts to fall back on, None where there is none.
    """
    states: Sequence[Tensor | None] = [None] * len(transcripts.tokens)
    if transcripts.states is not None:
        states = transcripts.states.split([len(tokens) for tokens in transcripts.tokens])
    stopped = transcripts.stopped.tolist()
    texts = [student.transcript_text(tokens) for tokens in transcripts.tokens]
    loops = [_loop_in(student, *written) for written in zip(transcripts.tokens, texts, stopped, strict=True)]
    kept, fallbacks, skipped = [], 0, 0
    for clip, (tokens, text, reference) in enumerate(zip(transcripts.tokens, texts, references, strict=True)):
        if clean_transcript(text):
            kept.append(Rollout(clip, tokens, states[clip], stopped[clip], loops[clip]))
        elif reference:
            kept.append(Rollout(clip, student.transcript_ids(reference), None))
            fallbacks += 1
        else:
            skipped += 1
    return Rollouts(kept, transcripts.tokens, loops, transcripts.stopped, fallbacks, skipped, transcripts.passes)


def _loop_in(student: Recognizer, tokens: Tensor, text: str, stopped: bool) -> int | None:
    """The place of the token that starts the first loop of a transcript over; `text` is what the tokens say."""
    start = loop_start(text, cut_off=not stopped)
    if start is None:
        return None
    return next(place for place in range(len(tokens)) if len(student.transcript_text(tokens[: place + 1])) > start)
