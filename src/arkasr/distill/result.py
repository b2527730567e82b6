"""What the dense reference and the fast path return for N positions."""

from dataclasses import dataclass

from torch import Tensor

from arkasr.distill.support import Support


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model's distribution at N positions, over all its allowed tokens at temperature 1, without gradient.

    The distribution of a served teacher is over its whole vocabulary, and its entropy is NaN.

    Attributes:
        log_probs: [N, K], of the candidates in `UnionTopkKL.support`; undefined in an empty slot.
        entropy: [N], nats.
        best: LongTensor [N], the most probable token, in the model's own ids.
    """

    log_probs: Tensor
    entropy: Tensor
    best: Tensor


@dataclass(frozen=True, slots=True)
class UnionTopkKL:
    """The divergence at N positions, its support, and both distributions.

    Attributes:
        per_position: [N], τ² times the divergence of p_t and q_t; 0 where not valid.
        valid: BoolTensor [N], step 4.
        teacher_tail_mass: [N], the teacher's probability outside U_t, over A_T at temperature 1; with a served teacher
            over its whole vocabulary. It includes tokens without a counterpart. 0 where not valid.
        student_tail_mass: [N], the same for the student, over A_S; without gradient.
        support: the tokens that were compared.
        teacher: the teacher's distribution.
        student: the student's distribution.
    """

    per_position: Tensor
    valid: Tensor
    teacher_tail_mass: Tensor
    student_tail_mass: Tensor
    support: Support
    teacher: ModelView
    student: ModelView

    @property
    def loss(self) -> Tensor:
        """Scalar, the mean of `per_position` over the valid positions; 0 with a zero gradient if there are none."""
        return self.per_position.sum() / self.valid.sum().clamp_min(1)

    @property
    def support_size(self) -> Tensor:
        """LongTensor [N], |U_t|."""
        return self.support.size

    @property
    def overlap(self) -> Tensor:
        """LongTensor [N], |K^T_t ∩ K^S_t|."""
        return self.support.overlap
