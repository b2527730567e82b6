"""Checkpoints of a stage: folders `step-N` with tensors as safetensors and a `state.json`. Nothing is pickled.

Tensors go through torch distributed checkpoint, so that a run can be resumed on another number of processes. A
checkpoint is written in the background under a temporary name, checksummed, and renamed once it is complete.
"""

import errno
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from arkasr import processes
from arkasr.errors import InputError
from arkasr.train.integrity import add_checksums, damage_of, flush
from arkasr.train.training_state import TrainingState

STATE = "state.json"
# The name is from a time when the extra state was called memory. It must stay, so that old checkpoints can be resumed.
EXTRA_STATE = "memory.safetensors"
WRITING = ".writing-"


class Checkpoints:
    """The checkpoints of one stage. Every process must call the same methods in the same order.

    Args:
        folder: the folder of the checkpoints; incomplete ones that a killed run left there are removed.
        stage: the module, sharded or not, whose parameters the optimizers hold.
        optimizers: the stage's optimizers.
        keep: number of checkpoints to keep; older ones are removed.
    """

    def __init__(self, folder: Path, stage: nn.Module, optimizers: Sequence[Optimizer], keep: int) -> None:
        self.folder = folder
        self._stage = stage
        self._optimizers = optimizers
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        if processes.is_first_rank():
            for incomplete in folder.glob(f"{WRITING}*"):
                shutil.rmtree(incomplete)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Call `finish`, also after an error."""
        self.finish()

    def save(self, state: TrainingState, extra_state: Mapping[str, Tensor]) -> None:
        """Copy this process's tensors to the CPU, and write `step-N` in the background.

        Every process writes its shards. Replicated tensors are divided among the processes by size.

        Args:
            state: the stage's progress.
            extra_state: what `Stage.extra_state` returned.
        """
        self.finish()
        tensors = tensors_to_write(self._stage, self._optimizers)
        document = {**state.to_json(), "random": processes.all_gather(random_state())}
        group = processes.group_of("checkpoints") if processes.world_size() > 1 else None
        self._writing = self._thread.submit(self._write, state.step, tensors, document, dict(extra_state), group)

    def raise_if_failed(self) -> None:
        """Raise the error of a finished background write, without waiting for one that still runs.

        Raises:
            OSError: the checkpoint could not be written.
        """
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint is written.

        Raises:
            OSError: it could not be written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def restore(self, on_damage: Callable[[str], None]) -> tuple[TrainingState, dict[str, Tensor]] | None:
        """Load model, optimizers and random state from the newest intact checkpoint.

        Args:
            on_damage: called with one line for every damaged checkpoint that is passed over.

        Returns:
            What `save` was given; None if there is no checkpoint.

        Raises:
            InputError: there are checkpoints, and all of them are damaged.
        """
        name = processes.broadcast_from_first(lambda: self._newest_intact(on_damage))
        if name is None:
            return None
        checkpoint = self.folder / name
        document: dict[str, Any] = json.loads((checkpoint / STATE).read_text())
        _load(checkpoint, self._stage, self._optimizers)
        if processes.rank() < len(document["random"]):
            restore_random_state(document["random"][processes.rank()])
        extra_state = checkpoint / EXTRA_STATE
        return TrainingState.from_json(document), dict(load_file(extra_state)) if extra_state.exists() else {}

    def _write(
        self, step: int, tensors: dict[str, Tensor], document: dict[str, Any], extra: dict[str, Tensor], group: Any
    ) -> None:
        writing = self.folder / f"{WRITING}{step}"
        if processes.is_first_rank():
            shutil.rmtree(writing, ignore_errors=True)
            writing.mkdir(parents=True)
            if extra:
                save_file(extra, writing / EXTRA_STATE)
            (writing / STATE).write_text(json.dumps(document))
        if group is not None:
            dist.barrier(group)
        try:
            writer = HuggingFaceStorageWriter(str(writing), save_distributed=True)
            save(tensors, storage_writer=writer, process_group=group, no_dist=group is None)
        except CheckpointException as failure:
            cause, _ = next(iter(failure.failures.values()))
            raise OSError(getattr(cause, "errno", None) or errno.EIO, str(cause), str(writing)) from failure
        if group is not None:
            dist.barrier(group)
        if processes.is_first_rank():
            self._publish(writing, step)
        if group is not None:  # a launcher ends all processes when the first one exits
            dist.barrier(group)

    def _publish(self, writing: Path, step: int) -> None:
        """Checksum and rename a complete checkpoint, and remove old ones."""
        add_checksums(writing)
        checkpoint = self.folder / f"step-{step}"
        shutil.rmtree(checkpoint, ignore_errors=True)
        writing.rename(checkpoint)
        flush(self.folder)
        # A later step's checkpoint is damaged, or the run would have resumed from it. It does not count.
        up_to_step = [old for old in self._sorted_by_step() if _step_of(old) <= step]
        for old in up_to_step[: -self._keep]:
            shutil.rmtree(old)

    def _newest_intact(self, on_damage: Callable[[str], None]) -> str | None:
        checkpoints = self._sorted_by_step()
        for checkpoint in reversed(checkpoints):
            if not (damage := damage_of(checkpoint, required=STATE)):
                return checkpoint.name
            on_damage(f"{checkpoint}: {damage}; this checkpoint is not used")
        if checkpoints:
            raise InputError(f"{self.folder}: every checkpoint is damaged; remove the folder to train the stage again")
        return None

    def _sorted_by_step(self) -> list[Path]:
        found = [path for path in self.folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
        return sorted(found, key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _weights(stage: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and the buffers in the state dict."""
    parameters = dict(stage.named_parameters())
    parameter_ids = {id(parameter) for parameter in parameters.values()}
    buffers = {
        name: value for name, value in stage.state_dict(keep_vars=True).items() if id(value) not in parameter_ids
    }
    return {f"model.{name}": tensor.detach() for name, tensor in (parameters | buffers).items()}


def tensors_to_write(stage: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """CPU copies of the weights and optimizer states that this process writes.

    Learning rates and other settings are not saved: they come from the recipe.
    """
    names = {id(parameter): name for name, parameter in stage.named_parameters()}
    tensors = _weights(stage)
    for number, optimizer in enumerate(optimizers):
        for parameter, values in optimizer.state.items():
            for key, value in values.items():
                name = f"{number}.{key}.{names[id(parameter)]}"
                if value.dim():
                    tensors[f"optimizer.{name}"] = value
                else:  # the sharded format cannot hold a tensor without dimensions
                    tensors[f"counter.{name}"] = value[None]
    return {name: tensors[name].detach().to("cpu", copy=True) for name in _names_to_write(tensors)}


def _names_to_write(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the sharded tensors, and of this process's part of the replicated ones, balanced by size."""
    bytes_of_rank = [0] * processes.world_size()
    names = []
    for name in sorted(tensors):
        if isinstance(tensors[name], DTensor):
            names.append(name)
            continue
        writer = bytes_of_rank.index(min(bytes_of_rank))
        bytes_of_rank[writer] += tensors[name].nbytes
        if writer == processes.rank():
            names.append(name)
    return names


def _load(checkpoint: Path, stage: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Load the weights in place, and the optimizer states that the checkpoint holds."""
    reader = HuggingFaceStorageReader(str(checkpoint))
    parameters = dict(stage.named_parameters())
    states: dict[str, Tensor] = {}
    for name in reader.read_metadata().state_dict_metadata:
        if name.startswith("optimizer."):
            states[name] = torch.zeros_like(parameters[name.split(".", 3)[3]])
        if name.startswith("counter."):
            states[name] = torch.zeros(1)
    load(_weights(stage) | states, storage_reader=reader, no_dist=processes.world_size() == 1)
    for number, optimizer in enumerate(optimizers):
        document = optimizer.state_dict()
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        indices = {id(parameter): index for index, parameter in enumerate(held)}
        for name, value in states.items():
            kind, owner, key, parameter_name = name.split(".", 3)
            if int(owner) == number:
                index = indices[id(parameters[parameter_name])]
                document["state"].setdefault(index, {})[key] = value[0] if kind == "counter" else value
        optimizer.load_state_dict(document)


def random_state() -> dict[str, str]:
    """The states of this process's random generators, in hexadecimal, by device."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return {device: tensor.numpy().tobytes().hex() for device, tensor in state.items()}


def restore_random_state(state: Mapping[str, str]) -> None:
    """Set the random generators to what `random_state` returned."""
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["cpu"]), dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.frombuffer(bytearray.fromhex(state["cuda"]), dtype=torch.uint8))
