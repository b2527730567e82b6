"""Checkpoints of a stage: `step-N/` with the model's and the optimizer's tensors as safetensors and a state file.

A checkpoint is written beside its place and renamed, so a folder with that name is whole. Nothing is pickled.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.optim import Optimizer

OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True)


def save_checkpoint(
    folder: Path,
    step: int,
    stage: nn.Module,
    optimizers: Sequence[Optimizer],
    state: dict[str, Any],
    memory: Mapping[str, Tensor],
) -> None:
    """Write `folder/step-N`.

    Args:
        folder: holds the checkpoints of one stage.
        step: optimizer steps done.
        stage: the stage's module, possibly wrapped for distribution; every process must call this.
        optimizers: its optimizers.
        state: JSON-able position in the data and counters.
        memory: what else the stage must know.
    """
    model_state = get_model_state_dict(stage, options=OPTIONS)
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return
    place = folder / f"step-{step}"
    writing = folder / f".writing-{step}"
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    save_file(_unshared(model_state), writing / "model.safetensors")
    save_file(_optimizer_tensors(optimizers), writing / "optimizer.safetensors")
    if memory:
        save_file(dict(memory), writing / "memory.safetensors")
    random_state = {"torch": torch.get_rng_state().numpy().tobytes().hex()}
    document = {"step": step, "random": random_state, **state}
    (writing / "state.json").write_text(json.dumps(document))
    shutil.rmtree(place, ignore_errors=True)
    writing.rename(place)


def load_checkpoint(
    place: Path, stage: nn.Module, optimizers: Sequence[Optimizer]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Restore model, optimizers and random state from `step-N`.

    Returns:
        What `save_checkpoint` was given as state and as memory.
    """
    state: dict[str, Any] = json.loads((place / "state.json").read_text())
    model_state: dict[str, Any] = dict(load_file(place / "model.safetensors"))
    set_model_state_dict(stage, model_state, options=OPTIONS)
    _restore_optimizers(optimizers, load_file(place / "optimizer.safetensors"))
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["random"]["torch"]), dtype=torch.uint8))
    memory = place / "memory.safetensors"
    return state, dict(load_file(memory)) if memory.exists() else {}


def newest_checkpoint(folder: Path) -> Path | None:
    """The `step-N` with the highest N, if there is one."""
    places = [place for place in folder.glob("step-*") if (place / "state.json").exists()]
    return max(places, key=_step_of, default=None)


def drop_old_checkpoints(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for place in sorted(folder.glob("step-*"), key=_step_of)[:-keep]:
        shutil.rmtree(place)


def _step_of(place: Path) -> int:
    return int(place.name.removeprefix("step-"))


def _unshared(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of tensors that share memory (tied embeddings), since safetensors stores each name on its own."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _optimizer_tensors(optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """The state of every parameter as `optimizer.parameter.key`, both counted from 0; settings come from the recipe."""
    return {
        f"{place}.{parameter}.{key}": value.detach().cpu().contiguous()
        for place, optimizer in enumerate(optimizers)
        for parameter, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def _restore_optimizers(optimizers: Sequence[Optimizer], tensors: Mapping[str, Tensor]) -> None:
    for place, optimizer in enumerate(optimizers):
        document = optimizer.state_dict()
        for name, value in tensors.items():
            owner, parameter, key = name.split(".", 2)
            if int(owner) == place:
                document["state"].setdefault(int(parameter), {})[key] = value
        optimizer.load_state_dict(document)
