"""Two runs in one folder."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from arkasr.errors import InputError
from arkasr.run.lock import sole_use

# Holds the lock, and has a child that outlives it, as a data worker does.
HOLDER = """
import os, sys, time
from pathlib import Path
from arkasr.run.lock import sole_use
with sole_use(Path(sys.argv[1]), print):
    child = os.fork()
    if child:
        print(os.getpid(), child, flush=True)
    time.sleep(60)
"""


def test_a_folder_at_work_is_refused_and_free_as_soon_as_its_run_is_killed(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    process, child = map(int, holder.stdout.readline().split())
    try:
        with pytest.raises(InputError) as refused, sole_use(folder, pytest.fail):
            pytest.fail("taken by two")
        told = str(refused.value)
        assert told.startswith(f"{folder}: another run is at work here (process {process} on ")
        assert told.endswith("; wait for it, end it, or choose another --output")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.kill(child, 0)  # still there
        with sole_use(folder, pytest.fail):
            assert [path.name for path in folder.iterdir()] == [".lock"]
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_file_system_without_locks_is_said_and_worked_on(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    said = []
    with sole_use(tmp_path, said.append):
        pass
    assert said == [f"{tmp_path}: cannot be locked (No locks available); see to it that no other run writes here"]
