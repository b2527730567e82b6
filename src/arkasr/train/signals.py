"""Signals that ask a run to stop: noted while a step is computed, so that it stops behind a checkpoint.

SIGINT is Ctrl-C, SIGTERM a scheduler that is about to kill, SIGUSR1 the warning before preemption that SLURM can send.
"""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

from arkasr import processes

# A launcher passes the terminal's Ctrl-C on at once, which is no second one.
SECOND_CTRL_C_SECONDS = 1.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Notes the signals that arrive inside a `with` block instead of obeying them.

    A second Ctrl-C is obeyed at once, with the handler of before.

    Attributes:
        received: the first signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        # Only the main thread may say what a signal does; elsewhere the caller's handlers stay.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOPPING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if kind is None and self.received is not None and self._before:
            # Nobody has asked for it inside the block any more: what comes behind is to stop as well.
            signal.raise_signal(self.received)

    def asked(self) -> bool:
        """Whether a signal has come, here or to another process that has looked, too."""
        if self.received is not None:
            processes.set_flag("stop")
            return True
        return processes.is_flag_set("stop")

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None and time.monotonic() - self._received_at > SECOND_CTRL_C_SECONDS
        if number == signal.SIGINT and again:
            signal.signal(number, self._before[number])  # type: ignore[arg-type]
            signal.raise_signal(number)
        if self.received is None:
            self.received, self._received_at = number, time.monotonic()
