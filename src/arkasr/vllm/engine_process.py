"""How the vLLM processes of a trainer share its accelerator, leave signals to it, and end with it.

Only the trainer handles signals: it writes a checkpoint and ends its engine. If the trainer is killed, the engine's
processes are killed, too.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import torch

ENGINE_FOLDER = "ARKASR_ENGINE_FOLDER"
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def engine_environment(folder: Path) -> dict[str, str]:
    """Environment variables that must be set while vLLM starts its processes.

    Args:
        folder: the engine's folder; while it exists, vLLM's processes ignore SIGINT and SIGTERM.
    """
    # Forking a process with threads may hang, and does not load plugins again.
    variables = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", ENGINE_FOLDER: str(folder)}
    if not torch.cuda.is_available():
        return variables
    from vllm.platforms import current_platform

    name = current_platform.device_control_env_var
    return variables | {name: visible_device(torch.cuda.current_device(), os.environ.get(name))}


def visible_device(index: int, listed: str | None) -> str:
    """The accelerator at `index` in the comma-separated ids of `listed`; None = all are visible."""
    return listed.split(",")[index] if listed else str(index)


def follow_trainer() -> None:
    """In a process of a trainer's engine: ignore signals and end with the parent process. Elsewhere do nothing."""
    parent, folder = multiprocessing.parent_process(), os.environ.get(ENGINE_FOLDER)
    if parent is None or folder is None:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        _ignore_while_exists(Path(folder), number)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if not parent.is_alive():  # it was killed before `prctl`
        os._exit(1)


def _ignore_while_exists(folder: Path, number: int) -> None:
    original = signal.getsignal(number)

    def handle(number: int, frame: FrameType | None) -> None:
        if callable(original) and not folder.exists():
            original(number, frame)

    signal.signal(number, handle)
