"""Progress bars on the terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from arkasr import processes

SECONDS_BETWEEN_LINES = 60.0


class _Bar(Bar):
    """A bar that is a line a minute in a log file, where Rich would show it only at its end."""

    _shown: float | None = None  # when the last line was printed

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As in Rich."""
        super().update(task_id, **changes)
        if self.console.is_terminal:
            return
        now = time.monotonic()
        self._shown = self._shown or now
        if now - self._shown >= SECONDS_BETWEEN_LINES:
            self._shown = now
            task = self.tasks[task_id]
            figures = task.fields["figures"]
            line = f"{task.description}: {task.completed:.0f} of {task.total:.0f}{' ' if figures else ''}{figures}"
            self.console.print(line, highlight=False, soft_wrap=True)


class Progress:
    """Progress bars on standard error, shown by rank 0 only; standard output holds nothing but results."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=not processes.is_first_rank())

    def print(self, message: str) -> None:
        """Print one line above the bar."""
        self.console.print(message, highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, steps: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
        """A bar over optimizer steps with the latest loss and dev error rate; yields `on_step(step, metrics)`."""
        with self._bar() as bar:
            task = bar.add_task(name, total=steps, figures="")
            latest: dict[str, float] = {}

            def on_step(step: int, values: dict[str, float]) -> None:
                latest.update({key: values[key] for key in ("loss", "dev/error_rate") if key in values})
                bar.update(task, completed=step, figures=_figures(latest))

            yield on_step

    @contextmanager
    def count(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over `total` items; yields `advance(items)`."""
        with self._bar() as bar:
            task = bar.add_task(name, total=total, figures="")
            yield lambda done: bar.update(task, advance=done)

    @contextmanager
    def bytes(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over the bytes of a file; yields `advance(bytes)`."""
        with self._bar(counted=DownloadColumn(binary_units=True)) as bar:
            task = bar.add_task(name, total=total, figures="")
            yield lambda done: bar.update(task, advance=done)

    @contextmanager
    def audio(self, name: str, recordings: int) -> Iterator[Callable[[float, float], None]]:
        """A bar over recordings that shows how much faster than real time they are transcribed.

        Yields `on_progress(seconds, recordings)`: seconds of audio and recordings just done, fractions allowed.
        """
        started = time.monotonic()
        audio_seconds = 0.0
        with self._bar(len(name)) as bar:
            task = bar.add_task(name, total=recordings, figures="")

            def on_progress(seconds: float, recordings: float) -> None:
                nonlocal audio_seconds
                audio_seconds += seconds
                speed = audio_seconds / max(time.monotonic() - started, 1e-3)
                bar.update(task, advance=recordings, figures=f"{speed:.1f}x real time")

            yield on_progress

    def _bar(self, name_width: int = 24, counted: ProgressColumn | None = None) -> Bar:
        return _Bar(
            TextColumn(f"{{task.description:<{name_width}}}"),
            BarColumn(bar_width=24),
            counted or MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            refresh_per_second=2,
        )


def _figures(latest: dict[str, float]) -> str:
    parts = []
    if "loss" in latest:
        parts.append(f"loss {latest['loss']:.3f}")
    if "dev/error_rate" in latest:
        parts.append(f"dev {latest['dev/error_rate']:.1%}")
    return " ".join(parts)
