"""On-policy distillation: section 3 of the paper, one file per idea. Tensors in, tensors out, no loop."""

from arkasr.distill.fused import fused_union_topk_kl
from arkasr.distill.objective import union_topk_kl
from arkasr.distill.result import UnionTopkKL

__all__ = ["UnionTopkKL", "fused_union_topk_kl", "union_topk_kl"]
