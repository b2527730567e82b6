"""The optimizers of a stage: AdamW for all parameters, or Muon for weight matrices and AdamW for the rest."""

from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from arkasr.train.parts import rates_of_parameters
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stage import Stage


def build_optimizers(stage: Stage, settings: OptimizationSettings) -> list[Optimizer]:
    """Build optimizers that together hold every trainable parameter once, in a group for each learning rate.

    Muon (torch.optim.Muon) takes the weight matrices of linear layers. AdamW takes embeddings, convolutions, norms and
    biases. An embedding matrix is a table of rows, not a linear map, so Muon's orthogonalisation does not suit it.
    """
    matrices = _matrices(stage) if settings.optimizer == "muon" else []
    matrix_ids = set(map(id, matrices))
    others = [item for item in stage.parameters() if item.requires_grad and id(item) not in matrix_ids]
    rates = rates_of_parameters(stage.student, settings)
    optimizers: list[Optimizer] = [
        AdamW(
            [{"params": group, "lr": rate} for rate, group in _by_rate(others, rates, settings.learning_rate).items()],
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            # Not fused on the CPU: fusing rounds differently, and the committed results were computed without it.
            fused=others[0].device.type != "cpu" or None,
        )
    ]
    if matrices:
        groups = [
            {"params": group, "lr": settings.matrix_learning_rate * (rate / settings.learning_rate)}
            for rate, group in _by_rate(matrices, rates, settings.learning_rate).items()
        ]
        optimizers.append(Muon(groups, weight_decay=settings.weight_decay, momentum=0.95))
    return optimizers


def _by_rate(
    parameters: Sequence[nn.Parameter], rates: Mapping[int, float], default: float
) -> dict[float, list[nn.Parameter]]:
    """The parameters by learning rate of AdamW; `rates` has those that differ from the default, by id."""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(rates.get(id(parameter), default), []).append(parameter)
    return groups


def _matrices(stage: nn.Module) -> list[nn.Parameter]:
    embeddings = {id(module.weight) for module in stage.modules() if isinstance(module, nn.Embedding)}
    linear = [cast(nn.Parameter, module.weight) for module in stage.modules() if isinstance(module, nn.Linear)]
    return [weight for weight in linear if weight.requires_grad and id(weight) not in embeddings]
