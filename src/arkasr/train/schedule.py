"""The learning rate as a function of the step, so that a resumed run needs no scheduler state."""

import math

from arkasr.train.settings import OptimizationSettings


def rate_factor(step: int, steps: int, settings: OptimizationSettings) -> float:
    """The share of the highest learning rate at an optimizer step.

    The warm-up reaches the highest rate in its last step. A decay begins there and reaches `final_rate` one step after
    the last, so that no step is taken at a rate of zero.

    Args:
        step: counted from 1.
        steps: of the whole schedule, which stages that continue one another share.
        settings: its shape.
    """
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    highest = max(settings.warmup_steps, 1)
    progress = (step - highest) / (steps - highest + 1)
    decay = 1 - progress if settings.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return settings.final_rate + (1 - settings.final_rate) * decay
