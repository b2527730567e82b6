"""The optimizers of a stage: AdamW for everything, or Muon for weight matrices beside AdamW for the rest."""

from typing import cast

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from arkasr.train.settings import OptimizationSettings


def build_optimizers(stage: nn.Module, settings: OptimizationSettings) -> list[Optimizer]:
    """Optimizers that between them hold every trainable parameter of a stage once.

    Muon (torch.optim.Muon) takes the matrices of linear layers; embeddings, which are rows looked up and not a map,
    convolutions, norms and biases stay with AdamW.
    """
    matrices: list[nn.Parameter] = []
    if settings.optimizer == "muon":
        matrices = _matrices(stage)
    taken = set(map(id, matrices))
    others = [parameter for parameter in stage.parameters() if parameter.requires_grad and id(parameter) not in taken]
    # On the CPU the fused update rounds in another way than the one the committed results were made with.
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
    embedded = {id(module.weight) for module in stage.modules() if isinstance(module, nn.Embedding)}
    linear = [cast(nn.Parameter, module.weight) for module in stage.modules() if isinstance(module, nn.Linear)]
    return [weight for weight in linear if weight.requires_grad and id(weight) not in embedded]
