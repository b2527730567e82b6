"""A run that gets a stop signal while it waits for its teacher."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
import torch
import yaml

from arkasr.errors import Interrupted
from arkasr.train.loop import train
from arkasr.train.metrics import read_metrics
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stages.opd import DistillationStage
from tests.models import TEXTS
from tests.teacher.requests import OBJECTIVE
from tests.train.stream import Stream

SETTINGS = OptimizationSettings(steps=5, batch_seconds=10, accumulation=2, learning_rate=1e-2)


def hang_after(server, successes):
    """Make a server stop responding once its count of successful requests reaches `successes`."""
    respond = server.respond

    def respond_until(request):
        if server.succeeded >= successes:
            server.responsive.clear()
            server.responsive.wait()
        return respond(request)

    server.respond = respond_until


@pytest.mark.parametrize("after", [0, 13])
def test_a_stop_signal_without_teacher_responses_acts_at_once_and_resumes_exactly(
    student, teacher, noise_examples, server, serve, tmp_path, after
):
    served = serve(server)
    examples = noise_examples(student, served)
    batches = [examples[:3], examples[3:], examples[1:4]]
    start = copy.deepcopy(student.model.state_dict())

    def run(folder):
        stage = DistillationStage(student, served, OBJECTIVE)
        train(stage, Stream(batches), SETTINGS, folder, seed=3)
        return {name: value.clone() for name, value in student.model.state_dict().items()}, stage.extra_state()

    uninterrupted, memory = run(tmp_path / "uninterrupted")
    finished = after // 5  # five requests a step
    student.model.load_state_dict(start)
    hang_after(server, server.succeeded + after)
    signalled = []

    def stop():
        while server.responsive.is_set():
            time.sleep(0.01)
        signalled.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(Interrupted, match=f"stopped after step {finished}, which is in a checkpoint") as caught:
        run(tmp_path / "stopped")
    assert time.monotonic() - signalled[0] < 3.0
    assert caught.value.signal == signal.SIGTERM
    del server.respond
    server.responsive.set()
    student.model.load_state_dict(start)
    resumed, memory_of_resumed = run(tmp_path / "stopped")
    for name, value in uninterrupted.items():
        assert torch.equal(resumed[name], value), name
    for name in ("names", "tokens"):
        assert torch.equal(memory_of_resumed[name], memory[name])
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("uninterrupted", "stopped")]
    assert [line["step"] for line in lines[1]] == [1, 2, 3, 4, 5]
    assert [line["loss"] for line in lines[1]] == [line["loss"] for line in lines[0]]


def test_a_step_is_interrupted_at_its_first_micro_batch_without_scores(
    student, teacher, noise_examples, server, serve, tmp_path
):
    served = serve(server)
    settings = SETTINGS.model_copy(update={"accumulation": 32})
    before = server.received
    hang_after(server, server.succeeded + 2)
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    stream = Stream([noise_examples(student, served)[:1]])
    with pytest.raises(Interrupted, match="stopped after step 0"):
        train(DistillationStage(student, served, OBJECTIVE), stream, settings, tmp_path, seed=3)
    server.responsive.set()
    assert server.received - before == 3  # of the step's 32 requests


@pytest.fixture
def recipe(student, teacher, server, tmp_path):
    student.save(tmp_path / "base")
    teacher.save(tmp_path / "teacher")
    generator = np.random.default_rng(0)
    rows = []
    for index in range(12):
        seconds = 0.6 + 0.05 * index
        soundfile.write(tmp_path / f"{index}.wav", generator.normal(size=int(seconds * 16_000)) * 0.1, 16_000)
        row = {"audio": f"{index}.wav", "text": TEXTS[index % 2], "language": "English", "duration": seconds}
        rows.append(json.dumps(row))
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    served = {"urls": [server.url], "weights": False}
    step = {"steps": 6, "batch_seconds": 3, "accumulation": 4, "learning_rate": 1e-3}
    opd = {"kind": "opd", "start": "base", "teacher": "teacher", "train": "L", "calibration_batches": 1}
    opd["objective"] = {"top_k": 8, "max_new_tokens": 8, "min_paired_share": 0.0}
    document = {
        "name": "stopped",
        "corpus": {"folder": str(tmp_path)},
        "sets": {"L": {"manifest": "train.jsonl"}},
        "models": {
            "base": {"pretrained": str(tmp_path / "base")},
            "teacher": {"pretrained": str(tmp_path / "teacher"), "served": served},
        },
        "stages": {
            "copies": {**opd, "optimization": step},
            "shares": {**opd, "optimization": {**step, "sharding": "full"}},
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "recipe.yaml"


def launched(recipe, name, *options, count=2):
    """The processes of a run, started as by SLURM: a signal reaches one process only."""
    command = [sys.executable, "-m", "arkasr", "run", str(recipe), "--output", str(recipe.parent / name), *options]
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            command,
            env=os.environ | rendezvous | {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def finished(processes):
    logs = [process.communicate(timeout=120)[1] for process in processes]
    return [process.returncode for process in processes], logs


def test_a_signal_to_one_process_stops_both_while_they_wait_for_the_teacher(recipe, server):
    status, logs = finished(launched(recipe, "uninterrupted", count=1))
    assert status == [0], logs
    for stage, options in (("copies", []), ("shares", ["--resume"])):
        processes = launched(recipe, "stopped", *options)
        log = recipe.parent / "stopped" / "stages" / stage / "metrics.jsonl"
        while not (log.exists() and len(log.read_text().splitlines()) >= 2):
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.01)
        server.responsive.clear()
        time.sleep(1.0)  # both now wait for scores
        processes[1].send_signal(signal.SIGUSR1)
        started = time.monotonic()
        status, logs = finished(processes)
        assert time.monotonic() - started < 20.0
        assert status == [128 + signal.SIGUSR1] * 2, logs
        assert all("which is in a checkpoint; continue with --resume" in log for log in logs)
        server.responsive.set()
    status, logs = finished(launched(recipe, "stopped", "--resume", count=1))
    assert status == [0], logs
    for stage in ("copies", "shares"):
        uninterrupted, stopped = (
            read_metrics(recipe.parent / run / "stages" / stage / "metrics.jsonl")
            for run in ("uninterrupted", "stopped")
        )
        assert [line["step"] for line in stopped] == list(range(1, 7))
        assert [line["loss"] for line in stopped] == pytest.approx([line["loss"] for line in uninterrupted], rel=1e-5)
