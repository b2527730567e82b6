"""The cross-entropy of labels beside the divergence of OPD (docs/objective.md, "Labels beside rollouts").

In: the prompts that the rollouts were written from, and a label for each of them. Out: a loss to add. The audio of the
prompts is encoded already, so labels cost one more pass of the decoder and the output head.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from arkasr.recognizers.device import to_device
from arkasr.recognizers.precision import at_least_float32
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.recognizers.scoring import forced_logits
from arkasr.train.stage import StageLoss


def add_labels(
    loss: StageLoss, student: Recognizer, prompts: Prompts, labels: Sequence[Tensor | None], weight: float
) -> StageLoss:
    """The loss with the cross-entropy of the labels, and the metrics `label/loss` and `label/share`.

    Every label token counts as one more position. A label that the student cannot write does not count: two joined
    ones may be too long. After an interruption, no label counts.

    Args:
        loss: of the rollouts; its metrics are extended.
        student: the recogniser that is trained.
        prompts: of B utterances, with gradient.
        labels: B int64 tensors `[n_b]` with the stop token; None = the utterance has none.
        weight: of the cross-entropy.
    """
    stop = torch.tensor([student.stop_token_id])
    learned = [
        ids if ids is not None and student.can_write(len(ids)) and not loss.interrupted else None for ids in labels
    ]
    # Every process runs the same passes, so an utterance without a label is forced on the stop token.
    ids = [stop if label is None else label for label in learned]
    counts = torch.tensor([label is not None for label in learned]).repeat_interleave(torch.tensor([*map(len, ids)]))
    logits = forced_logits(student, prompts, ids)
    targets, counts = to_device(torch.cat(ids), logits.device), to_device(counts, logits.device)
    cross_entropy: Tensor = F.cross_entropy(at_least_float32(logits), targets, reduction="none")
    total, tokens = cross_entropy.masked_fill(~counts, 0.0).sum(), counts.sum()
    loss.metrics.mean("label/loss", total.detach(), tokens)
    loss.metrics.mean("label/share", sum(label is not None for label in learned), len(learned))
    return replace(loss, total=loss.total + weight * total, count=loss.count + tokens)
