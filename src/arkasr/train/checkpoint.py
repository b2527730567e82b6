"""Checkpoints of a stage: `step-N/` with every process's share of the tensors as safetensors, and a state file.

Tensors go through torch distributed checkpoint, so that a run may continue on another number of processes. A
checkpoint is written beside its place while training goes on, checksummed, and renamed, so that a folder with that name
was whole once; whether it still is, its `SHA256SUMS` says. Nothing is pickled.
"""

import errno
import hashlib
import json
import os
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
from arkasr.files import write_atomically

CHECKSUMS = "SHA256SUMS"
WRITING = ".writing-"


class Checkpoints:
    """The checkpoints of one stage; every process must call the same methods in the same order.

    Args:
        folder: holds them; what a kill has left unfinished there is removed.
        stage: the stage's module, sharded or not, as the optimizers know it.
        optimizers: its optimizers.
        keep: the newest so many stay.
    """

    def __init__(self, folder: Path, stage: nn.Module, optimizers: Sequence[Optimizer], keep: int) -> None:
        self.folder = folder
        self._stage = stage
        self._optimizers = optimizers
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        if processes.is_first_rank():
            for left in folder.glob(f"{WRITING}*"):
                shutil.rmtree(left)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """As `finish`, whatever ends the block."""
        self.finish()

    def save(self, step: int, state: Mapping[str, Any], memory: Mapping[str, Tensor]) -> None:
        """Copy what this process is to write, and write `step-N` while training goes on.

        Each writes its share of what lies in shares, and of what all hold whole as many bytes as every other.

        Args:
            step: optimizer steps done.
            state: JSON-able: the position in the data and the counters.
            memory: what else the stage must know.
        """
        self.finish()
        tensors = copies_to_write(self._stage, self._optimizers)
        random_states = [json.loads(text) for text in processes.all_gather_text(json.dumps(random_state()))]
        document = {"step": step, "random": random_states, **state}
        group = processes.group_of("checkpoints") if processes.world_size() > 1 else None
        self._writing = self._thread.submit(self._write, step, tensors, document, dict(memory), group)

    def raise_if_failed(self) -> None:
        """Say now if what is being written has failed.

        Raises:
            OSError: it could not be written.
        """
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait until what is being written is whole.

        Raises:
            OSError: it could not be written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def restore(self, on_damage: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Take model, optimizers and random state from the newest whole checkpoint.

        Args:
            on_damage: told in a line of every checkpoint that is damaged, and passed over.

        Returns:
            What `save` was given as state, with `step`, and as memory; None where there is no checkpoint yet.

        Raises:
            InputError: there are checkpoints, and all of them are damaged.
        """
        name = processes.broadcast_from_first(lambda: self._newest_whole(on_damage))
        if name is None:
            return None
        place = self.folder / name
        state: dict[str, Any] = json.loads((place / "state.json").read_text())
        _load(place, self._stage, self._optimizers)
        random_states = state.pop("random")
        if processes.rank() < len(random_states):
            restore_random_state(random_states[processes.rank()])
        memory = place / "memory.safetensors"
        return state, dict(load_file(memory)) if memory.exists() else {}

    def _write(
        self, step: int, tensors: dict[str, Tensor], document: dict[str, Any], memory: dict[str, Tensor], group: Any
    ) -> None:
        writing = self.folder / f"{WRITING}{step}"
        if processes.is_first_rank():
            shutil.rmtree(writing, ignore_errors=True)
            writing.mkdir(parents=True)
            if memory:
                save_file(memory, writing / "memory.safetensors")
            (writing / "state.json").write_text(json.dumps(document))
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
            _add_checksums(writing)
            place = self.folder / f"step-{step}"
            shutil.rmtree(place, ignore_errors=True)
            writing.rename(place)
            _flush(self.folder)
            # Later ones are damaged, or this one would not have been trained anew.
            so_far = [old for old in self._places() if _step_of(old) <= step]
            for old in so_far[: -self._keep]:
                shutil.rmtree(old)
        if group is not None:  # a launcher ends all processes when the first one leaves
            dist.barrier(group)

    def _newest_whole(self, on_damage: Callable[[str], None]) -> str | None:
        places = self._places()
        for place in reversed(places):
            if not (damage := _damage(place)):
                return place.name
            on_damage(f"{place}: {damage}; going back to the checkpoint before it")
        if places:
            raise InputError(f"{self.folder}: every checkpoint is damaged; remove the folder to begin the stage anew")
        return None

    def _places(self) -> list[Path]:
        found = [place for place in self.folder.glob("step-*") if place.name.removeprefix("step-").isdecimal()]
        return sorted(found, key=_step_of)


def _step_of(place: Path) -> int:
    return int(place.name.removeprefix("step-"))


def _add_checksums(folder: Path) -> None:
    """Write `SHA256SUMS`, as `sha256sum --check` reads it, over all files of a folder; see all of it to the disk."""
    paths = sorted(folder.iterdir())
    write_atomically(folder / CHECKSUMS, [f"{_checksum(path)}  {path.name}\n" for path in paths])
    for path in [*paths, folder / CHECKSUMS, folder]:
        _flush(path)


def _flush(path: Path) -> None:
    """Have a file or a folder on the disk, whatever happens to the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint in a few words; None if nothing is."""
    listed = folder / CHECKSUMS
    if not listed.exists():
        return f"has no {CHECKSUMS}"
    lines = [line.partition("  ") for line in listed.read_text().splitlines()]
    checksums = {name: checksum for checksum, _, name in lines}
    there = {path.name for path in folder.iterdir()} - {CHECKSUMS}
    for name in sorted({"state.json", *checksums, *there}):
        if name not in there:
            return f"{name} is missing"
        if name not in checksums:
            return f"{CHECKSUMS} does not list {name}"
        if _checksum(folder / name) != checksums[name]:
            return f"{name} is not what was written"
    return None


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weights(stage: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and the buffers that a model saves."""
    parameters = dict(stage.named_parameters())
    owned = {id(parameter) for parameter in parameters.values()}
    others = {name: value for name, value in stage.state_dict(keep_vars=True).items() if id(value) not in owned}
    return {f"model.{name}": tensor.detach() for name, tensor in (parameters | others).items()}


def copies_to_write(stage: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """Weights and optimizer states on the CPU, of every process what it writes; settings come from the recipe."""
    names = {id(parameter): name for name, parameter in stage.named_parameters()}
    tensors = _weights(stage)
    for place, optimizer in enumerate(optimizers):
        for parameter, values in optimizer.state.items():
            for key, value in values.items():
                name = f"{place}.{key}.{names[id(parameter)]}"
                if value.dim():
                    tensors[f"optimizer.{name}"] = value
                else:  # a format of slices has no place for a tensor without dimensions
                    tensors[f"counter.{name}"] = value[None]
    return {name: tensors[name].detach().to("cpu", copy=True) for name in _written_here(tensors)}


def _written_here(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of this process's shares, and of its part of what all processes hold whole, dealt out by size."""
    dealt = [0] * processes.world_size()
    names = []
    for name in sorted(tensors):
        if isinstance(tensors[name], DTensor):
            names.append(name)
            continue
        writer = dealt.index(min(dealt))
        dealt[writer] += tensors[name].nbytes
        if writer == processes.rank():
            names.append(name)
    return names


def _load(place: Path, stage: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Read weights in place, and the optimizer states that the checkpoint holds."""
    reader = HuggingFaceStorageReader(str(place))
    parameters = dict(stage.named_parameters())
    weights = _weights(stage)
    states: dict[str, Tensor] = {}
    for name in reader.read_metadata().state_dict_metadata:
        if name.startswith("optimizer."):
            states[name] = torch.zeros_like(parameters[name.split(".", 3)[3]])
        if name.startswith("counter."):
            states[name] = torch.zeros(1)
    load(weights | states, storage_reader=reader, no_dist=processes.world_size() == 1)
    for place_of, optimizer in enumerate(optimizers):
        document = optimizer.state_dict()
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        numbers = {id(parameter): number for number, parameter in enumerate(held)}
        for name, value in states.items():
            kind, owner, key, parameter_name = name.split(".", 3)
            if int(owner) == place_of:
                number = numbers[id(parameters[parameter_name])]
                document["state"].setdefault(number, {})[key] = value[0] if kind == "counter" else value
        optimizer.load_state_dict(document)


def random_state() -> dict[str, str]:
    """Where the random generators of this process stand."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return {device: tensor.numpy().tobytes().hex() for device, tensor in state.items()}


def restore_random_state(state: Mapping[str, str]) -> None:
    """Take the generators back to where `random_state` found them."""
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["cpu"]), dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.frombuffer(bytearray.fromhex(state["cuda"]), dtype=torch.uint8))
