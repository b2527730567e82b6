"""The metrics of one OPD micro-batch (docs/objective.md, "Diagnostics").

In: rollouts, alignments, and the result of the objective. Out: sums and counts in `Metrics`. The definitions per
position and per utterance are in `arkasr.distill.diagnostics`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from arkasr.distill.alignment import Alignment
from arkasr.distill.diagnostics import rollout_statistics, support_diagnostics
from arkasr.distill.kept_rollouts import Rollout, Rollouts
from arkasr.distill.result import UnionTopkKL
from arkasr.distill.vocabularies import map_ids
from arkasr.train.metrics import Metrics


def add_rollouts(metrics: Metrics, rollouts: Rollouts, drafts: Sequence[Sequence[int]], cap: int) -> None:
    """Add the `rollout/` metrics. An empty draft means that the utterance has none; `cap` is `max_new_tokens`."""
    statistics = rollout_statistics(rollouts.transcripts, rollouts.stopped, cap)
    batch = len(rollouts.transcripts)
    for name, values in statistics.items():
        metrics.mean(f"rollout/{name}", values.float().sum(), batch)
    looping = torch.tensor([start is not None for start in rollouts.loop_start_tokens], device=rollouts.stopped.device)
    metrics.mean("rollout/looping", looping.sum(), batch)
    metrics.mean("rollout/runaway", (looping | statistics["truncated"]).sum(), batch)
    metrics.mean("rollout/fallback_rate", rollouts.fallbacks, batch)
    metrics.mean("rollout/skipped_rate", rollouts.skipped, batch)
    metrics.mean("rollout/passes", rollouts.passes, 1)
    metrics.mean("rollout/drafted_share", sum(map(bool, drafts)), batch)


def add_length_ratio(metrics: Metrics, rollouts: Rollouts, draft_text_ids: Sequence[Tensor | None]) -> None:
    """Add the length of the rollouts relative to the texts of `drafts`; None = no text for the utterance."""
    pairs = zip(rollouts.transcripts, draft_text_ids, strict=True)
    lengths = [(len(tokens), len(ids)) for tokens, ids in pairs if ids is not None]
    if lengths:
        generated, expected = map(sum, zip(*lengths, strict=True))
        metrics.mean("rollout/length_ratio", generated, expected)


def add_alignments(
    metrics: Metrics, kept: Sequence[Rollout], alignments: Sequence[Alignment], student_to_teacher: Tensor
) -> None:
    """Add the `teacher/` metrics: how many rollout tokens the teacher can score."""
    tokens = torch.cat([rollout.tokens for rollout in kept])
    paired = torch.cat([alignment.teacher_positions for alignment in alignments]) >= 0
    metrics.mean("teacher/paired_share", paired.sum(), len(tokens))
    metrics.mean("teacher/mapped_share", (map_ids(student_to_teacher, tokens) >= 0).sum(), len(tokens))
    for alignment in alignments:
        metrics.mean("teacher/retokenised_rate", alignment.retokenised, 1)
        if alignment.retokenised:
            unpaired = alignment.teacher_positions < 0
            metrics.mean("teacher/retokenisation_mismatch_rate", unpaired.sum(), len(unpaired))


def add_positions(metrics: Metrics, result: UnionTopkKL, top_k: int) -> None:
    """Add the `support/` metrics: means over the valid positions."""
    valid = result.valid
    count = valid.sum()
    metrics.mean("support/valid_share", count, len(valid))
    diagnostics = support_diagnostics(result, top_k=top_k)
    sizes = diagnostics.pop("vuss")
    metrics.mean("support/vuss_mean", sizes.sum(), count)
    if len(sizes):
        metrics.minimum("support/vuss_min", sizes.masked_fill(~valid, torch.inf).min())
        metrics.maximum("support/vuss_max", sizes.masked_fill(~valid, -torch.inf).max())
    overlapping = valid & (diagnostics.pop("overlap") > 0)
    for name, values in diagnostics.items():
        # The entropy of a served teacher is NaN.
        defined = (overlapping if name == "overlap_advantage" else valid) & ~values.isnan()
        metrics.mean(f"support/{name}", torch.where(defined, values, 0.0).sum(), defined.sum())


def add_segments(metrics: Metrics, alignments: Sequence[Alignment], divergences: Tensor, counted: Tensor) -> None:
    """Add the metrics of segments.

    Args:
        metrics: changed in place.
        alignments: of all rollouts.
        divergences: of the segments, `[G]`; 0 where a segment does not count in the loss.
        counted: which segments count, bool `[G]`.
    """
    for alignment in alignments:
        paired = alignment.teacher_positions >= 0
        in_segments = sum(len(segment.student) for segment in alignment.segments)
        metrics.mean("teacher/compared_share", paired.sum() + in_segments, len(paired))
    metrics.mean("support/segments", counted.sum(), len(alignments))
    metrics.mean("support/segment_loss", divergences.sum(), counted.sum())
