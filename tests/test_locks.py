"""The file lock, between processes and between threads."""

import errno
import multiprocessing
import os
import threading

import pytest

from arkasr import locks
from arkasr.locks import LockHeldError, LocksUnsupportedError, locked

forked = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lock"


def hold(path, is_held, release):
    with locked(path, wait=False):
        is_held.set()
        release.wait()


@pytest.fixture
def holder(path):
    """Another process that holds the lock, and the event that makes the process release it."""
    is_held, release = forked.Event(), forked.Event()
    process = forked.Process(target=hold, args=(path, is_held, release))
    process.start()
    assert is_held.wait(20)
    yield process, release
    process.kill()
    process.join()


def lock_once(path, done):
    with locked(path):
        done.append(path.exists())


def test_a_lock_held_by_another_process_is_refused_or_awaited(path, holder):
    process, release = holder
    with pytest.raises(LockHeldError) as refused, locked(path, wait=False):
        pytest.fail("held twice")
    assert refused.value.holder.startswith(f"process {process.pid} on ")
    done = []
    thread = threading.Thread(target=lock_once, args=(path, done))
    thread.start()
    thread.join(0.2)
    assert not done
    release.set()
    thread.join(20)
    assert done


def test_a_killed_process_releases_its_lock(path, holder):
    holder[0].kill()
    holder[0].join()
    with locked(path, wait=False):
        pass


def test_threads_of_one_process_exclude_each_other(path):
    done = []
    thread = threading.Thread(target=lock_once, args=(path, done))
    with locked(path):
        with pytest.raises(LockHeldError, match=f"process {os.getpid()} on "), locked(path, wait=False):
            pytest.fail("held twice")
        thread.start()
        thread.join(0.2)
        assert not done
        is_held, release = forked.Event(), forked.Event()
        release.set()
        child = forked.Process(target=hold, args=(path, is_held, release))
        child.start()
        child.join()
        assert not is_held.is_set()  # neither the fork nor the thread's attempt has released the lock
    thread.join(20)
    assert done


def test_a_removed_file_cannot_be_locked(path, monkeypatch):
    with pytest.raises(FileNotFoundError), locked(path, create=False):
        pytest.fail("there is no such file")
    monkeypatch.setattr(locks.fcntl, "lockf", lambda file, kind: path.unlink())
    with pytest.raises(FileNotFoundError), locked(path):
        pytest.fail("removed before it was locked")


def test_a_file_system_without_locks_has_its_own_error(path, monkeypatch):
    def fail(number):
        def lockf(file, kind):
            raise OSError(number, os.strerror(number))

        return lockf

    monkeypatch.setattr(locks.fcntl, "lockf", fail(errno.ENOLCK))
    with pytest.raises(LocksUnsupportedError), locked(path):
        pytest.fail("locked")
    monkeypatch.setattr(locks.fcntl, "lockf", fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"), locked(path):
        pytest.fail("locked")
