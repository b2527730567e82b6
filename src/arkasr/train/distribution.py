"""How the weights of a stage lie on the processes: a copy each (DDP), or a share each (FSDP2).

Sources: Accelerate for copies; `torch.distributed.fsdp.fully_shard` for shares.
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
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stage import Stage


def accelerator_for(stage: Stage, settings: OptimizationSettings) -> Accelerator:
    """The Accelerator of the devices and the precision that a stage trains on.

    Raises:
        InputError: the precision is not for these devices.
    """
    on_cpu = stage.student.device.type == "cpu"
    if on_cpu and settings.mixed_precision == "fp16":
        raise InputError("mixed_precision: fp16 is for GPUs; take bf16 or no on the CPU")
    return Accelerator(
        mixed_precision=settings.mixed_precision,
        cpu=on_cpu,
        # Given here so that no environment variable divides the loss once more.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
    )


def computing_in(stage: Stage, settings: OptimizationSettings) -> AbstractContextManager[Any]:
    """Autocast as training has it, for what measures a stage outside of training."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.mixed_precision)
    return torch.autocast(stage.student.device.type, dtype) if dtype is not None else nullcontext()


def spread(accelerator: Accelerator, stage: Stage, settings: OptimizationSettings) -> tuple[Any, list[Any]]:
    """Lay the weights of a stage out on the processes.

    Returns:
        What to call for the loss, and the optimizers; every one of their groups knows its `highest_lr`.
    """
    if settings.sharding == "full" and processes.world_size() > 1:
        _shard(stage, settings)
        # Not `prepare`: on the CPU it would wrap the shares for DDP, whatever plugin it is given.
        module = accelerator.prepare_model(stage, evaluation_mode=True)
        optimizers = [accelerator.prepare_optimizer(optimizer) for optimizer in build_optimizers(stage, settings)]
    else:
        module, *optimizers = accelerator.prepare(stage, *build_optimizers(stage, settings))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["highest_lr"] = group["lr"]
    return module, optimizers


def _shard(stage: Stage, settings: OptimizationSettings) -> None:
    """Give every process a share of each layer, gathered when the layer is used, and of all that is no layer."""
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
    """Inside the block every process holds all weights, gathered once, however often and unevenly they are used.

    Without it a process would gather every layer at every token that it writes, and wait for others that write fewer.
    """
    shares = [part for part in module.modules() if isinstance(part, FSDPModule)]
    # The outermost share is one that stays whole behind its forward pass anyway.
    layers = [part for part in shares if part is not module]
    for part in shares:
        part.unshard()
    for layer in layers:
        layer.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True, recurse=False)
        for part in shares:
            part.reshard()


def gathered_weights(model: nn.Module) -> dict[str, Any] | None:
    """The state dict of a model whose shares are spread over processes, on the first of them; None if it is whole.

    Every process must call this.
    """
    if not any(isinstance(part, FSDPModule) for part in model.modules()):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    gathered = dict(get_model_state_dict(model, options=options))
    # Tied weights are one tensor again, which is saved once.
    first_name: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in gathered:
            gathered[name] = gathered[first_name.setdefault(id(parameter), name)]
    return gathered
