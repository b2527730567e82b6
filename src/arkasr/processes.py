"""Collective operations on small values between the processes of one run: gather, broadcast, barrier, flags, errors.

A run has one process, or as many as `torchrun`, `accelerate launch` or SLURM start. Every rank must call each
collective function, in the same order. Accelerate exchanges gradients; this module does not.
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

# One rank may evaluate or label for hours while the others wait for it.
COLLECTIVE_TIMEOUT = timedelta(hours=24)
RENDEZVOUS_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def start() -> None:
    """Join the process group if the launcher has started several processes.

    Raises:
        InputError: `WORLD_SIZE` is set without the variables that say where the other processes are.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return
    if missing := [name for name in RENDEZVOUS_VARIABLES if name not in os.environ]:
        raise InputError(f"WORLD_SIZE={size} without {', '.join(missing)}: start with torchrun, or unset it")
    PartialState(cpu=not torch.accelerator.is_available(), timeout=COLLECTIVE_TIMEOUT)
    barrier()


def finish() -> None:
    """Leave the process group once every rank has reached this point."""
    if dist.is_initialized():
        barrier()
        group_of.cache_clear()
        dist.destroy_process_group()


def rank() -> int:
    """Rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first_rank() -> bool:
    """Whether this process has rank 0, which writes files and prints to the terminal."""
    return rank() == 0


@cache
def group_of(purpose: str) -> Any:
    """A gloo group of all ranks for one purpose; every rank must create its groups in the same order.

    Two threads that communicate at the same time need two groups.
    """
    return dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)


def all_gather(value: Any) -> list[Any]:
    """All-gather: the JSON-able value of every rank, by rank."""
    text = json.dumps(value)
    if world_size() == 1:
        return [json.loads(text)]
    group = group_of("texts")
    payload = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.long) for _ in range(world_size())]
    dist.all_gather(lengths, torch.tensor([len(payload)]), group=group)
    width = max(int(length) for length in lengths)
    rows = [torch.zeros(width, dtype=torch.uint8) for _ in range(world_size())]
    dist.all_gather(rows, torch.nn.functional.pad(payload, (0, width - len(payload))), group=group)
    return [json.loads(row[: int(length)].numpy().tobytes()) for row, length in zip(rows, lengths, strict=True)]


def barrier() -> None:
    """Wait until every rank has called this."""
    all_gather(None)


def set_flag(name: str) -> None:
    """Set a flag that every rank can read with `is_flag_set`; not a collective, returns at once."""
    if world_size() > 1:
        _store().set(name, "-")


def is_flag_set(name: str) -> bool:
    """Whether any rank has set the flag."""
    return world_size() > 1 and _store().check([name])


def _store() -> Any:
    """The key-value store of the rendezvous."""
    return dist.group.WORLD.get_group_store()  # type: ignore[union-attr]


def broadcast_from_first(compute: Callable[[], Any]) -> Any:
    """Call `compute` on rank 0 and return its JSON-able result on every rank.

    Raises:
        InputError: `compute` raised it on rank 0; every other rank raises `ReportedByFirstRank`.
    """
    if not is_first_rank():
        received = all_gather(None)[0]
        if "error" in received:
            raise ReportedByFirstRank(received["error"])
        return received["result"]
    try:
        result = compute()
    except InputError as error:
        all_gather({"error": str(error)})
        raise
    all_gather({"result": result})
    return result


def raise_if_any_fails(work: Callable[[], Result]) -> Result:
    """Call `work` on every rank and return its result once it has succeeded on all of them.

    Raises:
        InputError: `work` raised it on some rank. Rank 0 raises the error of the lowest rank that failed. Every other
            rank raises `ReportedByFirstRank`.
    """
    results: list[Result] = []
    error = ""
    try:
        results.append(work())
    except InputError as failure:
        error = str(failure)
    if errors := [error for error in all_gather(error) if error]:
        with raise_on_first_rank():
            raise InputError(errors[0])
    return results[0]


@contextmanager
def raise_on_first_rank() -> Iterator[None]:
    """Wrap code that fails on every rank alike, so that only rank 0 shows the error.

    Raises:
        InputError: on rank 0; every other rank raises `ReportedByFirstRank`.
    """
    try:
        yield
    except InputError as error:
        if is_first_rank():
            raise
        raise ReportedByFirstRank(str(error)) from error


def run_on_first_rank_first(work: Callable[[], Any]) -> Any:
    """Call `work` on rank 0 first, then on the other ranks, which find the files that rank 0 has written.

    Raises:
        InputError: `work` raised it on rank 0; every other rank then raises `ReportedByFirstRank` and does not call
            `work`. Or `work` raised it on this rank.
    """
    results: list[Any] = []
    broadcast_from_first(lambda: results.append(work()))
    return results[0] if is_first_rank() else work()
