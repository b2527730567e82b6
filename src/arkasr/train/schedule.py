"""The learning rate as a function of the step, so that a resumed run needs no scheduler state."""

import math

from arkasr.train.settings import OptimizationSettings


def rate_factor(step: int, steps: int, settings: OptimizationSettings) -> float:
    """The learning rate at an optimizer step, as a share of the highest one.

    The last step of the warm-up has the highest rate. The decay starts there and reaches `final_rate` one step after
    the last step, so that no step has a rate of zero.

    Args:
        step: counted from 1.
        steps: length of the whole schedule; stages that continue one another share a schedule.
        settings: warm-up and decay.
    """
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    highest = max(settings.warmup_steps, 1)
    progress = (step - highest) / (steps - highest + 1)
    decay = 1 - progress if settings.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return settings.final_rate + (1 - settings.final_rate) * decay
