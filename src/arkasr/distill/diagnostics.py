"""Diagnostics of on-policy distillation (docs/objective.md, "Diagnostics"; paper, section 4.3).

In: the result of a micro-batch, or its rollouts. Out: values per position or utterance. Means over a step and over
processes are left to `arkasr.train.metrics`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from arkasr.distill.result import UnionTopkKL
from arkasr.distill.support import NO_PROBABILITY, log_probabilities

POSITION_METRICS = (
    "vuss",
    "overlap",
    "overlap_ratio",
    "overlap_mass_teacher",
    "overlap_mass_student",
    "overlap_advantage",
    "entropy_teacher",
    "entropy_student",
    "entropy_gap",
    "tail_mass_teacher",
    "tail_mass_student",
    "argmax_agreement",
)
REPETITION_NGRAM = 4  # tokens


@torch.no_grad()
def support_diagnostics(result: UnionTopkKL, *, top_k: int) -> dict[str, Tensor]:
    """Describe every position. Distributions are at temperature 1, over all of A_T or A_S.

    Args:
        result: of `union_topk_kl` or its fast path.
        top_k: its k.

    Returns:
        The values [N] of `POSITION_METRICS`, 0 where not valid:

        - vuss: |U_t|, tokens. overlap: |K^T ∩ K^S|, tokens. overlap_ratio: |K^T ∩ K^S| / k.
        - overlap_mass_teacher, overlap_mass_student: probability on K^T ∩ K^S, not renormalised.
        - overlap_advantage: mean over v in K^T ∩ K^S of p̄(v) · (log q̄(v) − log p̄(v)), nats. The teacher's p̄ and
          the student's q̄ are renormalised on K^T ∩ K^S. It equals −KL(p̄ ‖ q̄) / |K^T ∩ K^S|, is never above 0,
          and is 0 if no token is shared.
        - entropy_teacher, entropy_student: nats. entropy_gap: their absolute difference.
        - tail_mass_teacher, tail_mass_student: probability outside U_t.
        - argmax_agreement: 1 where the same token is the most probable one in both models, else 0.
    """
    u, teacher, student = result.support, result.teacher, result.student
    shared = u.in_teacher & u.in_student
    log_p_shared = teacher.log_probs.masked_fill(~shared, NO_PROBABILITY)
    log_q_shared = student.log_probs.masked_fill(~shared, NO_PROBABILITY)
    log_p_bar = log_probabilities(log_p_shared)
    log_q_bar = log_probabilities(log_q_shared)
    advantages = torch.where(shared, log_p_bar.exp() * (log_q_bar - log_p_bar), 0.0)
    is_teacher_argmax = u.in_teacher & (u.teacher_ids == teacher.best[:, None])
    is_student_argmax = u.student_ids == student.best[:, None]

    values = {
        "vuss": result.support_size,
        "overlap": result.overlap,
        "overlap_ratio": result.overlap / top_k,
        "overlap_mass_teacher": log_p_shared.exp().sum(dim=1),
        "overlap_mass_student": log_q_shared.exp().sum(dim=1),
        "overlap_advantage": advantages.sum(dim=1) / result.overlap.clamp_min(1),
        "entropy_teacher": teacher.entropy,
        "entropy_student": student.entropy,
        "entropy_gap": (teacher.entropy - student.entropy).abs(),
        "tail_mass_teacher": result.teacher_tail_mass,
        "tail_mass_student": result.student_tail_mass,
        "argmax_agreement": (is_teacher_argmax & is_student_argmax).any(dim=1),
    }
    return {name: torch.where(result.valid, value.to(teacher.entropy.dtype), 0.0) for name, value in values.items()}


def rollout_statistics(token_ids: Sequence[Tensor], stopped: Tensor, cap: int) -> dict[str, Tensor]:
    """Describe B rollouts as token sequences.

    Args:
        token_ids: B LongTensors, the ids generated for each utterance, with the stop token if emitted.
        stopped: BoolTensor [B], the utterances that ended in the stop token.
        cap: the number of tokens at which generation was cut off.

    Returns:
        The values [B]:

        - tokens: without the stop token. empty: whether there are none. stopped: as given.
        - truncated: whether the cap was reached without a stop.
        - repetition: the share of an utterance's token 4-grams that occurred earlier in it; 0 if it has fewer than two.
    """
    without_stop = [ids[: len(ids) - int(end)] for ids, end in zip(token_ids, stopped.tolist(), strict=True)]
    tokens = torch.tensor([len(ids) for ids in without_stop], dtype=torch.long, device=stopped.device)
    return {
        "tokens": tokens,
        "empty": tokens == 0,
        "stopped": stopped,
        "truncated": ~stopped & (tokens >= cap),
        "repetition": torch.tensor([_repeated_share(ids) for ids in without_stop], device=stopped.device),
    }


def _repeated_share(ids: Tensor) -> float:
    if len(ids) <= REPETITION_NGRAM:
        return 0.0
    ngrams = ids.unfold(0, REPETITION_NGRAM, 1)
    return 1 - len(ngrams.unique(dim=0)) / len(ngrams)
