"""The cross-entropy of labels beside the divergence of OPD (docs/objective.md, "Labels beside rollouts").

In: the prompts that the rollouts were written from, and a text for each of them. Out: a loss to add. The encoder's
states are those of the prompts, so the labels cost one more pass of the decoder.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from arkasr.recognizers.device import to_device
from arkasr.recognizers.precision import at_least_float32
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.recognizers.scoring import forced_logits
from arkasr.train.stage import StageLoss


def add_labels(
    loss: StageLoss, student: Recognizer, prompts: Prompts, texts: Sequence[str | None], weight: float
) -> StageLoss:
    """The loss with the cross-entropy of the labels, and the metrics `label/loss` and `label/share`.

    Every label token counts as one more position.

    Args:
        loss: of the rollouts; its metrics are extended.
        student: the recogniser that is trained.
        prompts: of B utterances, with gradient.
        texts: B labels; None = the utterance has none.
        weight: of the cross-entropy.
    """
    # Every process runs the same passes, so an utterance without a label is forced on the stop token.
    ids = [student.transcript_ids(text or "") for text in texts]
    counts = torch.cat([torch.full((len(tokens),), text is not None) for tokens, text in zip(ids, texts, strict=True)])
    logits = forced_logits(student, prompts, ids)
    targets, counts = to_device(torch.cat(ids), logits.device), to_device(counts, logits.device)
    cross_entropy: Tensor = F.cross_entropy(at_least_float32(logits), targets, reduction="none")
    total, tokens = cross_entropy.masked_fill(~counts, 0.0).sum(), counts.sum()
    loss.metrics.mean("label/loss", total.detach(), tokens)
    loss.metrics.mean("label/share", sum(text is not None for text in texts), len(texts))
    return StageLoss(loss.total + weight * total, loss.count + tokens, loss.metrics)
