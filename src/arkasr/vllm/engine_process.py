"""What the processes in which vLLM writes for a trainer have in common with it: accelerator, signals, and its end.

The trainer alone answers signals, by a checkpoint, and ends its engine when it is done with it. A trainer that is
killed takes the engine along.
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


def environment(folder: Path) -> dict[str, str]:
    """What the environment must say while vLLM starts its processes.

    Args:
        folder: of the engine; its processes obey no signal as long as it is there.
    """
    # A fork of a process with threads may hang, and does not load plugins anew.
    asked = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", ENGINE_FOLDER: str(folder)}
    if not torch.cuda.is_available():
        return asked
    from vllm.platforms import current_platform

    name = current_platform.device_control_env_var
    return asked | {name: visible_device(torch.cuda.current_device(), os.environ.get(name))}


def visible_device(index: int, listed: str | None) -> str:
    """What names one accelerator alone: the one with this index among those that are listed as visible."""
    return listed.split(",")[index] if listed else str(index)


def follow_trainer() -> None:
    """In a process of a trainer's engine, leave signals to the trainer, and end when the process's parent ends."""
    parent, folder = multiprocessing.parent_process(), os.environ.get(ENGINE_FOLDER)
    if parent is None or folder is None:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        _obey_only_without(Path(folder), number)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if not parent.is_alive():  # it was killed before
        os._exit(1)


def _obey_only_without(folder: Path, number: int) -> None:
    obey = signal.getsignal(number)

    def handle(number: int, frame: FrameType | None) -> None:
        if callable(obey) and not folder.exists():
            obey(number, frame)

    signal.signal(number, handle)
