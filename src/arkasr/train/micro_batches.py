"""A process's micro-batches, and the rollouts that are prefetched for them.

Pending rollouts are stored by micro-batch seed, so that a run can be resumed on another number of processes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from arkasr import processes
from arkasr.data.examples import Example
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stage import Stage
from arkasr.train.step import micro_batch_seed
from arkasr.train.stream import BatchStream


def micro_batches(
    stage: Stage, stream: BatchStream, settings: OptimizationSettings, steps: range, seed: int
) -> Iterator[list[Example]]:
    """This process's micro-batches. A stage with `prefetch_steps` above 0 prefetches their rollouts.

    Args:
        stage: prefetches rollouts `stage.prefetch_steps` steps ahead.
        stream: the micro-batches.
        settings: the number of micro-batches in a step.
        steps: `start` = completed steps since the schedule began, `stop` = steps at the end of the stage.
        seed: of the stage.
    """
    if not stage.prefetch_steps:
        return iter(stream)

    def prefetch(number: int, batches: list[list[Example]]) -> None:
        step = steps.start + 1 + number
        if step <= steps.stop:
            stage.prefetch_rollouts(list(zip(batches, _seeds(seed, step, settings), strict=True)))

    return stream.read_ahead(stage.prefetch_steps, prefetch)


def pending_rollouts_of_all_ranks(stage: Stage) -> dict[str, Any]:
    """The pending rollouts of every process, by micro-batch seed; every process must call this."""
    merged: dict[str, Any] = {}
    for pending in processes.all_gather(stage.pending_rollouts()):
        merged |= pending
    return merged


def pending_rollouts_of_this_rank(
    pending: Mapping[str, Any], done: int, stage: Stage, settings: OptimizationSettings, seed: int
) -> dict[str, Any]:
    """The pending rollouts of this process's micro-batches in the steps after `done`."""
    steps = range(done + 1, done + 1 + stage.prefetch_steps)
    seeds = {str(number) for step in steps for number in _seeds(seed, step, settings)}
    return {number: rollouts for number, rollouts in pending.items() if number in seeds}


def _seeds(seed: int, step: int, settings: OptimizationSettings) -> list[int]:
    """The seeds of this process's micro-batches in a step."""
    indices = range(processes.rank(), processes.rank() + settings.accumulation, processes.world_size())
    return [micro_batch_seed(seed, step, index) for index in indices]
