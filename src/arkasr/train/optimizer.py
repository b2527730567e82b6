"""The optimizers of a stage: AdamW for all parameters, or Muon for weight matrices and AdamW for the rest."""

from typing import cast

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from arkasr.train.settings import OptimizationSettings


def build_optimizers(stage: nn.Module, settings: OptimizationSettings) -> list[Optimizer]:
    """Build optimizers that together hold every trainable parameter once.

    Muon (torch.optim.Muon) takes the weight matrices of linear layers. AdamW takes embeddings, convolutions, norms and
    biases. An embedding matrix is a table of rows, not a linear map, so Muon's orthogonalisation does not suit it.
    """
    matrices = _matrices(stage) if settings.optimizer == "muon" else []
    matrix_ids = set(map(id, matrices))
    others = [item for item in stage.parameters() if item.requires_grad and id(item) not in matrix_ids]
    # AdamW is not fused on the CPU: fusing rounds differently, and the committed results were computed without it.
    on_accelerator = bool(others) and others[0].device.type != "cpu"
    optimizers: list[Optimizer] = [
        AdamW(
            others,
            settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=on_accelerator or None,
        )
    ]
    if matrices:
        optimizers.append(
            Muon(matrices, settings.matrix_learning_rate, weight_decay=settings.weight_decay, momentum=0.95)
        )
    return optimizers


def _matrices(stage: nn.Module) -> list[nn.Parameter]:
    embeddings = {id(module.weight) for module in stage.modules() if isinstance(module, nn.Embedding)}
    linear = [cast(nn.Parameter, module.weight) for module in stage.modules() if isinstance(module, nn.Linear)]
    return [weight for weight in linear if weight.requires_grad and id(weight) not in embeddings]
