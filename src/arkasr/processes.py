"""What the processes of one run tell each other: short texts, decisions, and that all have come to the same place.

A run is one process, or as many as `torchrun`, `accelerate launch` or SLURM start. Knows nothing of gradients, which
Accelerate exchanges, nor of what the texts say.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState

from arkasr.errors import InputError, ReportedByFirstRank

Result = TypeVar("Result")

# Others may evaluate or label for hours before they come to the place where the first one waits.
PATIENCE = timedelta(hours=24)
WHERE_OTHERS_ARE = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def start() -> None:
    """Join the processes that the launcher has started, if it has started several.

    Raises:
        InputError: the environment speaks of several processes and does not say how to find them.
    """
    announced = os.environ.get("WORLD_SIZE", "1")
    if announced == "1":
        return
    if missing := [name for name in WHERE_OTHERS_ARE if name not in os.environ]:
        raise InputError(f"WORLD_SIZE={announced} without {', '.join(missing)}: start with torchrun, or unset it")
    PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
    barrier()


def finish() -> None:
    """Part from the other processes when the work is done."""
    if dist.is_initialized():
        barrier()
        group_of.cache_clear()
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first_rank() -> bool:
    """Whether this is the process that writes files and speaks to the terminal."""
    return rank() == 0


@cache
def group_of(purpose: str) -> Any:
    """A group of all processes on the CPU for one kind of message; every process must ask in the same order.

    Threads that exchange messages at the same time need a group each.
    """
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def all_gather_text(text: str) -> list[str]:
    """The text of every process, by rank; none is empty, and every process must call this."""
    if world_size() == 1:
        return [text]
    group = group_of("texts")
    payload = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.long) for _ in range(world_size())]
    dist.all_gather(lengths, torch.tensor([len(payload)]), group=group)
    width = max(int(length) for length in lengths)
    rows = [torch.zeros(width, dtype=torch.uint8) for _ in range(world_size())]
    dist.all_gather(rows, torch.nn.functional.pad(payload, (0, width - len(payload))), group=group)
    return [row[: int(length)].numpy().tobytes().decode() for row, length in zip(rows, lengths, strict=True)]


def barrier() -> None:
    """Wait until every process has come here."""
    all_gather_text("-")


def set_flag(what: str) -> None:
    """Have something known to every process that looks, whatever the others are doing; nobody waits."""
    if world_size() > 1:
        _store().set(what, "-")


def is_flag_set(what: str) -> bool:
    """Whether a process has announced it."""
    return world_size() > 1 and _store().check([what])


def _store() -> Any:
    """What the processes found each other by."""
    return dist.group.WORLD.get_group_store()  # type: ignore[union-attr]


def broadcast_from_first(decide: Callable[[], Any]) -> Any:
    """What the first process decides or finds out, JSON-able, on every process.

    Raises:
        InputError: the first process did; all others then raise `ReportedByFirstRank`.
    """
    if not is_first_rank():
        told = json.loads(all_gather_text("-")[0])
        if "error" in told:
            raise ReportedByFirstRank(told["error"])
        return told["decision"]
    try:
        decision = decide()
    except InputError as error:
        all_gather_text(json.dumps({"error": str(error)}))
        raise
    all_gather_text(json.dumps({"decision": decision}))
    return decision


def raise_if_any_fails(work: Callable[[], Result]) -> Result:
    """What some work comes to in each process, once it has come to something in all of them.

    Raises:
        InputError: of the first process for which it did; all but the first process raise `ReportedByFirstRank`.
    """
    done: list[Result] = []
    error = ""
    try:
        done.append(work())
    except InputError as failure:
        error = str(failure)
    said = [json.loads(text) for text in all_gather_text(json.dumps(error))]
    if errors := [error for error in said if error]:
        with raise_on_first_rank():
            raise InputError(errors[0])
    return done[0]


@contextmanager
def raise_on_first_rank() -> Iterator[None]:
    """Around what fails on every process alike: all but the first one raise `ReportedByFirstRank` instead.

    Raises:
        InputError: the first process's.
    """
    try:
        yield
    except InputError as error:
        if is_first_rank():
            raise
        raise ReportedByFirstRank(str(error)) from error


def first_rank_first(work: Callable[[], Any]) -> Any:
    """Let the first process do something that leaves files, and only then the others, which find them.

    Raises:
        InputError: as `broadcast_from_first` does.
    """
    done: list[Any] = []
    broadcast_from_first(lambda: done.append(work()))
    return done[0] if is_first_rank() else work()
