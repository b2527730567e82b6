"""Stop signals: recorded during a step, so that the run stops after a checkpoint.

SIGINT is Ctrl-C. Schedulers send SIGTERM before they kill a job. SLURM can send SIGUSR1 before it preempts one.
"""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

from arkasr import processes

# One Ctrl-C arrives twice at almost the same time: from the terminal, and from a launcher that forwards it.
SECOND_CTRL_C_SECONDS = 1.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Records the stop signals that arrive inside a `with` block.

    A second Ctrl-C calls the previous handler at once.

    Attributes:
        received: number of the first signal; None = none arrived.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        # Python installs signal handlers in the main thread only. Elsewhere the caller's handlers stay.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._record) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if kind is None and self.received is not None and self._previous:
            # The signal arrived too late for the block to react, so the previous handler gets it.
            signal.raise_signal(self.received)

    def stop_requested(self) -> bool:
        """Whether this process received a stop signal, or another process that has called this method too."""
        if self.received is not None:
            processes.set_flag("stop")
            return True
        return processes.is_flag_set("stop")

    def _record(self, number: int, frame: FrameType | None) -> None:
        repeated = self.received is not None and time.monotonic() - self._received_at > SECOND_CTRL_C_SECONDS
        if number == signal.SIGINT and repeated:
            signal.signal(number, self._previous[number])  # type: ignore[arg-type]
            signal.raise_signal(number)
        if self.received is None:
            self.received, self._received_at = number, time.monotonic()
