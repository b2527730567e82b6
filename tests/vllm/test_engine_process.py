"""An engine's processes ignore signals and end with their trainer."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from arkasr.errors import InputError
from arkasr.vllm.engine_process import visible_device

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.mark.parametrize(("index", "listed", "expected"), [(1, None, "1"), (1, "4,6", "6"), (0, "GPU-8f2", "GPU-8f2")])
def test_an_engine_sees_only_the_accelerator_of_its_rank(index, listed, expected):
    assert visible_device(index, listed) == expected


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.vllm
def test_an_engine_ignores_signals_and_ends_with_its_trainer(tmp_path):
    pytest.importorskip("vllm")
    trainer = subprocess.Popen(
        [sys.executable, "-m", "tests.vllm.trainer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        text=True,
    )
    try:
        before = json.loads(trainer.stdout.readline())
        for pid in before["engine"]:
            for number in SIGNALS:
                os.kill(pid, number)
        trainer.stdin.write("write\n")
        trainer.stdin.flush()
        assert json.loads(trainer.stdout.readline()) == before
        assert list(tmp_path.iterdir())
    finally:
        trainer.kill()
        trainer.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, before["engine"])):
        assert time.monotonic() < deadline, "the engine outlived its trainer"
        time.sleep(0.1)
    cleanup = "from arkasr.scratch import scratch_folder; scratch_folder()"
    subprocess.run([sys.executable, "-c", cleanup], env=os.environ | {"TMPDIR": str(tmp_path)}, check=True)
    assert not list(tmp_path.glob("arkasr-*"))


@pytest.mark.vllm
def test_a_killed_engine_is_reported_in_one_line():
    pytest.importorskip("vllm")
    from tests.vllm.trainer import engine_pids, start_engine, write

    student, engine = start_engine()
    expected = write(student, engine)
    os.kill(engine_pids()[0], signal.SIGKILL)
    with pytest.raises(InputError, match="its process has ended"):
        write(student, engine)
    engine.close()
    assert expected
