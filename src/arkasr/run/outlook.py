"""How far a run is and about how long the rest takes: a line before each part of its work.

A part is a stage or the evaluation of a variant, for one seed. Its time is estimated from the parts that this session
has finished, those of the same kind first.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from arkasr.recipe.settings import LabelStageSettings, Recipe, TrainingStageSettings

# Work for an utterance or a training step of one utterance, where decoding it once is 1. It only matters for a kind of
# part of which this session has not finished any.
WORK = {"ctc": 1.0, "sft": 1.5, "opd": 3.0, "label": 1.0, "evaluate": 1.0}


@dataclass(frozen=True)
class Part:
    """A part of a run.

    Attributes:
        name: for the line, such as `td (seed 0)`.
        kind: of stage, or `evaluate`.
        work: relative to other parts, before any is measured.
    """

    name: str
    kind: str
    work: float


class Outlook:
    """Counts and times the parts of a run.

    Args:
        parts: all parts, in order.
        show: prints a line.
        clock: returns seconds.
    """

    def __init__(
        self, parts: Sequence[Part], show: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._parts, self._show, self._clock = list(parts), show, clock
        self._begun = 0
        self._measured: list[tuple[Part, float]] = []

    @contextmanager
    def next_part(self, *, is_finished: bool) -> Iterator[None]:
        """The next part, in the block. Nothing is shown or measured if it was finished before this session."""
        part = self._parts[self._begun]
        self._begun += 1
        if is_finished:
            yield
            return
        remaining = self.remaining_seconds()
        left = "" if remaining is None else f", about {_in_words(remaining)} left"
        self._show(f"{self._begun} of {len(self._parts)}: {part.name}{left}")
        started = self._clock()
        yield
        self._measured.append((part, self._clock() - started))

    def remaining_seconds(self) -> float | None:
        """Estimate for the part that has begun and all later ones; None if no part was measured yet."""
        if not self._measured:
            return None
        return sum(part.work * self._seconds_per_work(part.kind) for part in self._parts[self._begun - 1 :])

    def _seconds_per_work(self, kind: str) -> float:
        same_kind = [(part, seconds) for part, seconds in self._measured if part.kind == kind]
        measured = same_kind or self._measured
        return sum(seconds for _, seconds in measured) / sum(part.work for part, _ in measured)


def parts_of(
    recipe: Recipe, utterances_in: Callable[[str], int], utterance_seconds: Callable[[str], float]
) -> list[Part]:
    """The parts of a run in order.

    Args:
        recipe: of the run.
        utterances_in: number of utterances of a set.
        utterance_seconds: seconds for which an utterance counts in a batch, on average; by the name of the stage.
    """

    def size(name: str, stage: LabelStageSettings | TrainingStageSettings) -> float:
        if isinstance(stage, LabelStageSettings):
            return utterances_in(stage.audio)
        settings = stage.optimization
        return settings.steps * settings.accumulation * max(settings.batch_seconds / utterance_seconds(name), 1.0)

    work = {name: WORK[stage.kind] * size(name, stage) for name, stage in recipe.stages.items()}
    parts = []
    for seed in recipe.seeds:
        for name, stage in recipe.stages.items():
            if seed == recipe.seeds[0] or not stage.once:
                parts.append(Part(f"{name} (seed {seed})", stage.kind, work[name]))
        for variant, name in recipe.variants.items():
            once = name not in recipe.stages or recipe.stages[name].once
            if recipe.evaluation.sets and (seed == recipe.seeds[0] or not once):
                utterances = sum(map(utterances_in, recipe.evaluation.sets))
                parts.append(Part(f"evaluate {variant} (seed {seed})", "evaluate", WORK["evaluate"] * utterances))
    return parts


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds / 10), 1) * 10} s"
    return f"{round(seconds / 60)} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
