"""Estimates before training whether OPD will work: the diagnostics of a few batches, without an optimizer step.

The results also fill the support table (paper, table 2), because neither model changes during the measurement.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from arkasr.data.examples import Example
from arkasr.distill.diagnostics import POSITION_METRICS
from arkasr.train.distribution import autocast_for
from arkasr.train.metrics import Metrics
from arkasr.train.stage import Stage

# Beyond these limits, `reasons_against_opd` warns that OPD may not work.
LOWEST_OVERLAP_MASS = 0.6
LOWEST_MAPPED_SHARE = 0.9
LOWEST_PAIRED_SHARE = 0.9
HIGHEST_EMPTY_SHARE = 0.1
HIGHEST_TRUNCATED_SHARE = 0.1
HIGHEST_REJECTED_SHARE = 0.5
NAMED_TOKENS = 8


@dataclass(frozen=True)
class Calibration:
    """The measurements of a few batches.

    Attributes:
        metrics: means over all batches, including the loss, named as in `metrics.jsonl`.
        vuss_of_batches: mean support size of every batch.
        warnings: reasons why OPD may not work.
    """

    metrics: dict[str, float]
    vuss_of_batches: list[float]
    warnings: list[str]

    def support_row(self) -> dict[str, float]:
        """A row of the support table, with extremes over batches as in the paper; empty if no position was valid."""
        if not self.vuss_of_batches:
            return {}
        names = {"loss": "loss", "valid_share": "support/valid_share"}
        names |= {name: f"support/{name}" for name in POSITION_METRICS if name not in ("vuss", "overlap")}
        figures = {name: self.metrics[metric] for name, metric in names.items() if metric in self.metrics}
        vuss = self.vuss_of_batches
        return {"vuss_mean": sum(vuss) / len(vuss), "vuss_min": min(vuss), "vuss_max": max(vuss)} | figures


@torch.no_grad()
def calibrate(stage: Stage, batches: Iterator[list[Example]], count: int, mixed_precision: str = "no") -> Calibration:
    """Run `count` micro-batches through an OPD stage.

    Args:
        stage: the OPD stage; its weights do not change.
        batches: at least `count` micro-batches.
        count: how many to measure.
        mixed_precision: of the forward pass, as in `OptimizationSettings`.
    """
    stage.eval()
    metrics, vuss = Metrics(), []
    for number in range(count):
        batch = next(batches)  # outside of autocast, because reading a batch computes features
        with autocast_for(stage, mixed_precision):
            loss = stage(batch, seed=number)
        loss.metrics.mean("loss", loss.total, loss.count)
        values = loss.metrics.values()
        if "support/vuss_mean" in values:
            vuss.append(values["support/vuss_mean"])
        metrics.merge(loss.metrics)
    stage.clock.reset()
    values = metrics.values()
    return Calibration(values, vuss, reasons_against_opd(values, stage.unpaired_tokens()))


def reasons_against_opd(metrics: dict[str, float], unpaired_tokens: Counter[str]) -> list[str]:
    """Reasons why OPD may not work, one sentence each.

    Args:
        metrics: as in `Calibration`.
        unpaired_tokens: how often each rollout token had no teacher position, by its text.
    """
    if "support/vuss_mean" not in metrics:
        return ["no position of any rollout can be compared: train the student with SFT first"]
    warnings = []
    if (mass := metrics["support/overlap_mass_teacher"]) < LOWEST_OVERLAP_MASS:
        warnings.append(
            f"only {mass:.0%} of the teacher's probability is on tokens that the student also ranks high "
            f"(want {LOWEST_OVERLAP_MASS:.0%}): bring the student closer with SFT or TD first"
        )
    if (share := metrics["teacher/mapped_share"]) < LOWEST_MAPPED_SHARE:
        warnings.append(
            f"only {share:.0%} of the rollout tokens exist in the teacher's vocabulary (want {LOWEST_MAPPED_SHARE:.0%})"
        )
    if (share := metrics["teacher/paired_share"]) < LOWEST_PAIRED_SHARE:
        commonest = ", ".join(f"{text!r} ({count})" for text, count in unpaired_tokens.most_common(NAMED_TOKENS))
        warnings.append(
            f"only {share:.0%} of the rollout tokens have a teacher position (want {LOWEST_PAIRED_SHARE:.0%}). If "
            "the student's tokens are shorter than the teacher's, set objective.unpaired to pieces. Most often without "
            f"one: {commonest}"
        )
    if (share := metrics.get("teacher/rejected_share", 0.0)) > HIGHEST_REJECTED_SHARE:
        warnings.append(
            f"the teacher rejects {share:.0%} of the rollout tokens (want at most {HIGHEST_REJECTED_SHARE:.0%}), and "
            "what follows them does not count: bring the student closer with SFT or TD first, or lower "
            "objective.rejected_below"
        )
    if (share := metrics["rollout/fallback_rate"] + metrics["rollout/skipped_rate"]) > HIGHEST_EMPTY_SHARE:
        warnings.append(f"{share:.0%} of the rollouts are empty (want at most {HIGHEST_EMPTY_SHARE:.0%})")
    if (share := metrics["rollout/truncated"]) > HIGHEST_TRUNCATED_SHARE:
        warnings.append(
            f"{share:.0%} of the rollouts hit the cap on tokens (want at most {HIGHEST_TRUNCATED_SHARE:.0%}): "
            "raise objective.max_new_tokens, or the student loops"
        )
    return warnings
