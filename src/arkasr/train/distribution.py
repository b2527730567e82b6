"""Distribution of a stage's weights over the processes: replicated (DDP) or sharded (FSDP2).

DDP comes from Accelerate, FSDP2 from `torch.distributed.fsdp.fully_shard`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import GradientAccumulationPlugin
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from arkasr import processes
from arkasr.errors import InputError
from arkasr.train.optimizer import build_optimizers
from arkasr.train.parts import freeze_parts
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stage import Stage


def accelerator_for(stage: Stage, settings: OptimizationSettings) -> Accelerator:
    """The Accelerator for the stage's device and the precision of the settings.

    Raises:
        InputError: the device does not support the precision.
    """
    on_cpu = stage.student.device.type == "cpu"
    if on_cpu and settings.mixed_precision == "fp16":
        raise InputError("mixed_precision: fp16 needs a GPU; use bf16 or no on the CPU")
    return Accelerator(
        mixed_precision=settings.mixed_precision,
        cpu=on_cpu,
        # Set explicitly: an environment variable could make Accelerate divide the loss a second time.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
    )


def autocast_for(stage: Stage, mixed_precision: str) -> AbstractContextManager[Any]:
    """The autocast of training, for measuring a stage outside of training."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision)
    return torch.autocast(stage.student.device.type, dtype) if dtype is not None else nullcontext()


def distribute(accelerator: Accelerator, stage: Stage, settings: OptimizationSettings) -> tuple[Any, list[Any]]:
    """Freeze parts of the student, wrap the stage for DDP or FSDP2, and build its optimizers.

    Returns:
        The module to call for the loss, and the optimizers. Every parameter group has its `highest_lr`.

    Raises:
        InputError: `freeze` or `learning_rates` do not fit the model.
    """
    with processes.raise_on_first_rank():
        # Before wrapping: DDP would wait for the gradients of parameters that are frozen later.
        freeze_parts(stage.student, settings)
    if settings.sharding == "full" and processes.world_size() > 1:
        _shard(stage, settings)
        # `prepare` is not used: on the CPU it would wrap the sharded stage in DDP, whatever the plugin.
        module = accelerator.prepare_model(stage, evaluation_mode=True)
        optimizers = [accelerator.prepare_optimizer(optimizer) for optimizer in build_optimizers(stage, settings)]
    else:
        module, *optimizers = accelerator.prepare(stage, *build_optimizers(stage, settings))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["highest_lr"] = group["lr"]
    return module, optimizers


def _shard(stage: Stage, settings: OptimizationSettings) -> None:
    """Shard every layer, and the other weights together. A layer is gathered when it is used."""
    precision = MixedPrecisionPolicy()
    if settings.mixed_precision == "bf16":
        precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    layers = set(stage.model._no_split_modules)
    for module in stage.model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mp_policy=precision)
    fully_shard(stage, mp_policy=precision)


@contextmanager
def unsharded_weights(module: nn.Module) -> Iterator[None]:
    """Gather all weights once, and keep them unsharded inside the block.

    Without this, decoding would gather every layer for every token. It would hang if processes decode different numbers
    of tokens.
    """
    sharded = [part for part in module.modules() if isinstance(part, FSDPModule)]
    # FSDP2 does not reshard the root module after its forward pass.
    layers = [part for part in sharded if part is not module]
    for part in sharded:
        part.unshard()
    for layer in layers:
        layer.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True, recurse=False)
        for part in sharded:
            part.reshard()


def gathered_weights(model: nn.Module) -> dict[str, Any] | None:
    """The full state dict of a sharded model, in the first process only; None if the model is not sharded.

    Every process must call this.
    """
    if not any(isinstance(part, FSDPModule) for part in model.modules()):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    gathered = dict(get_model_state_dict(model, options=options))
    # Gathering copies tied weights. They become one tensor again, so that they are saved once.
    first_name: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in gathered:
            gathered[name] = gathered[first_name.setdefault(id(parameter), name)]
    return gathered
