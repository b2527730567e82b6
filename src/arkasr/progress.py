"""Progress of a run on a terminal: one bar for the stage at work, one line for each that is done."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from arkasr import processes


class Progress:
    """Bars on standard error, so that standard output holds results only; of several processes the first one speaks."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=not processes.is_first_rank())

    def say(self, message: str) -> None:
        """One line about what is at work."""
        self.console.print(message, highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, steps: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
        """A bar over optimizer steps that shows the loss and the development error rate last seen."""
        with self._bar() as bar:
            task = bar.add_task(name, total=steps, figures="")
            seen: dict[str, float] = {}

            def on_step(step: int, values: dict[str, float]) -> None:
                seen.update({key: values[key] for key in ("loss", "dev/error_rate") if key in values})
                bar.update(task, completed=step, figures=_figures(seen))

            yield on_step

    @contextmanager
    def count(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over things."""
        with self._bar() as bar:
            task = bar.add_task(name, total=total, figures="")
            yield lambda done: bar.update(task, advance=done)

    @contextmanager
    def bytes(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over the bytes of a file."""
        with self._bar(counted=DownloadColumn(binary_units=True)) as bar:
            task = bar.add_task(name, total=total, figures="")
            yield lambda done: bar.update(task, advance=done)

    @contextmanager
    def audio(self, name: str, recordings: int) -> Iterator[Callable[[float, float], None]]:
        """A bar over recordings that shows how much faster than speech they are transcribed.

        What is handed out is told the seconds of audio, and the (shares of) recordings, just done.
        """
        started = time.monotonic()
        heard = 0.0
        with self._bar(len(name)) as bar:
            task = bar.add_task(name, total=recordings, figures="")

            def on_progress(seconds: float, done: float) -> None:
                nonlocal heard
                heard += seconds
                speed = heard / max(time.monotonic() - started, 1e-3)
                bar.update(task, advance=done, figures=f"{speed:.1f}x real time")

            yield on_progress

    def _bar(self, name_width: int = 24, counted: ProgressColumn | None = None) -> Bar:
        return Bar(
            TextColumn(f"{{task.description:<{name_width}}}"),
            BarColumn(bar_width=24),
            counted or MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            refresh_per_second=2,
        )


def _figures(seen: dict[str, float]) -> str:
    parts = []
    if "loss" in seen:
        parts.append(f"loss {seen['loss']:.3f}")
    if "dev/error_rate" in seen:
        parts.append(f"dev {seen['dev/error_rate']:.1%}")
    return " ".join(parts)
