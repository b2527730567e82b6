"""The learning rate as a function of the step, so that a resumed run needs no scheduler state."""

import math

from arkasr.train.settings import OptimizationSettings


def rate_factor(step: int, settings: OptimizationSettings) -> float:
    """The share of the highest learning rate at optimizer step `step`, counted from 1."""
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    progress = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    decay = 1 - progress if settings.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return settings.final_rate + (1 - settings.final_rate) * decay
