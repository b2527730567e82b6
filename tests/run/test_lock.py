"""Two runs in one folder."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from arkasr.errors import InputError
from arkasr.run.lock import lock_run_folder

# Holds the lock. Its child lives longer than it, as a data worker may.
HOLDER = """
import os, sys, time
from pathlib import Path
from arkasr.run.lock import lock_run_folder
with lock_run_folder(Path(sys.argv[1]), print):
    child = os.fork()
    if child:
        print(os.getpid(), child, flush=True)
    time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_run_is_killed(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    process, child = map(int, holder.stdout.readline().split())
    try:
        with pytest.raises(InputError) as refused, lock_run_folder(folder, pytest.fail):
            pytest.fail("two runs hold the lock")
        message = str(refused.value)
        assert message.startswith(f"{folder}: another run uses this folder (process {process} on ")
        assert message.endswith("; wait for it, stop it, or choose another --output")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.kill(child, 0)  # the child still runs
        with lock_run_folder(folder, pytest.fail):
            assert [path.name for path in folder.iterdir()] == [".lock"]
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    warnings = []
    with lock_run_folder(tmp_path, warnings.append):
        pass
    assert warnings == [f"{tmp_path}: cannot be locked (No locks available); make sure that no other run writes here"]
