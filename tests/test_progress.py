"""Progress in a log file, where no bar can move."""

import io

import pytest
from rich.console import Console

from arkasr import progress
from arkasr.progress import Progress


@pytest.fixture
def log(monkeypatch):
    """A console that is no terminal, and a clock that the test moves."""
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    clock = type("Clock", (), {"now": 1.0})()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return console, clock


def test_a_log_file_gets_a_line_a_minute(log):
    console, clock = log
    with Progress(console).stage("td (seed 0)", 100) as on_step:
        for step in range(1, 7):
            clock.now += 25
            on_step(step, {"loss": 0.5})
    lines = console.file.getvalue().strip().splitlines()
    assert lines[:1] == ["td (seed 0): 4 of 100 loss 0.500"]
    assert len(lines) == 2  # and the bar at its end
