"""The parts of a model that a stage trains, and the learning rate of each.

In: names of parts in a recipe. Out: frozen parameters and rates. A recogniser knows which modules a part has.
"""

from collections.abc import Collection

from torch import nn

from arkasr.errors import InputError, nearest_of
from arkasr.recognizers.recognizer import Recognizer
from arkasr.train.settings import OptimizationSettings


def trainable_parts(kind: str, parts: Collection[str]) -> list[str]:
    """The parts that a stage of a kind (`ctc`, `sft`, `opd`) trains if none is frozen; CTC does not use the decoder."""
    return [part for part in parts if kind != "ctc" or part != "decoder"]


def check_parts(
    settings: OptimizationSettings, parts: Collection[str], trainable: Collection[str], key: str = "optimization"
) -> None:
    """Check that `freeze` and `learning_rates` name parts of the model, and that a part is left to train.

    Args:
        settings: of the stage.
        parts: names of all parts of the model.
        trainable: names of the parts that the stage trains if none is frozen.
        key: where the settings are in the recipe, for messages.

    Raises:
        InputError: they do not.
    """
    for name, named in (("freeze", settings.freeze), ("learning_rates", settings.learning_rates)):
        for part in named:
            if part not in parts:
                raise InputError(f"{key}.{name}: the model has no part {part!r}; {nearest_of(part, parts)}")
    for part in settings.learning_rates:
        if part not in trainable:
            raise InputError(f"{key}.learning_rates.{part}: this stage does not train the part; remove the key")
    if not set(trainable) - set(settings.freeze):
        raise InputError(f"{key}.freeze: nothing is left to train; remove a part, one of {', '.join(trainable)}")


def freeze_parts(student: Recognizer, settings: OptimizationSettings) -> None:
    """Exclude the frozen parts from the backward pass. DDP, FSDP2 and optimizers must be built afterwards.

    Raises:
        InputError: as `check_parts`.
    """
    trainable = [
        part for part in student.parts if any(parameter.requires_grad for parameter in student.parameters_of(part))
    ]
    check_parts(settings, student.parts, trainable)
    for part in settings.freeze:
        for parameter in student.parameters_of(part):
            parameter.requires_grad_(False)


def rates_of_parameters(student: Recognizer, settings: OptimizationSettings) -> dict[int, float]:
    """The highest learning rate of every parameter of the parts in `learning_rates`, by id of the parameter."""
    return {
        id(parameter): rate
        for part, rate in settings.learning_rates.items()
        for parameter in student.parameters_of(part)
    }


def trained_parameters(module: nn.Module) -> int:
    """Number of parameters that are trained; tied and sharded ones count once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
