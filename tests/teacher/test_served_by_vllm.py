"""A small random Qwen3-ASR teacher on a real vLLM server, with real speech and rollouts."""

import copy
import os
import subprocess
import sys
import time

import pytest
import torch
import yaml

from arkasr.data.audio import decode_audio
from arkasr.data.examples import Example
from arkasr.data.manifests.manifest import read_manifest, read_rows, write_manifest
from arkasr.model.processor import INSTRUCTION
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS, build_ark_asr
from arkasr.recognizers.load import load_recognizer, load_without_weights
from arkasr.recognizers.qwen3_asr import PROMPT_WORDS, QWEN3_ASR_PRESETS, build_qwen3_asr
from arkasr.recognizers.tokenizer import train_base_vocabulary
from arkasr.teacher.replicas import Replicas
from arkasr.teacher.self_test import check_servers
from arkasr.teacher.served import ServedTeacher
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stages.opd import DistillationStage
from tests.paths import SHARED_DATA, needs_shared_data
from tests.vllm.server import VllmServer

pytestmark = [pytest.mark.vllm, needs_shared_data]

OBJECTIVE = ObjectiveSettings(top_k=16, max_new_tokens=24)
UTTERANCES = 36


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a manifest of real speech in two languages and an untrained teacher and student."""
    folder = tmp_path_factory.mktemp("served")
    books = read_manifest(SHARED_DATA / "librispeech-train-piece" / "all.jsonl")
    words = read_manifest(SHARED_DATA / "dspspeech20" / "dev.jsonl")
    chosen = [*books[: UTTERANCES // 2], *words[: UTTERANCES // 2]]
    rows = [dict(item.fields) | {"audio": str(item.audio), "language": item.language} for item in chosen]
    write_manifest(folder / "speech.jsonl", rows)
    vocabulary = train_base_vocabulary([item.text for item in chosen], 400, [INSTRUCTION, *PROMPT_WORDS])
    torch.manual_seed(0)
    build_qwen3_asr(QWEN3_ASR_PRESETS["qwen3-asr-tiny"], vocabulary).save(folder / "teacher")
    build_ark_asr(ARK_ASR_PRESETS["ark-asr-tiny"], vocabulary).save(folder / "student")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    options = ["--max-model-len", "1024", "--enforce-eager", "--max-logprobs", "512", "--enable-scale-out"]
    # A small batch, so that the server splits several simultaneous requests.
    options += ["--max-num-batched-tokens", "400"]
    serving = VllmServer(folder / "teacher", folder / "server.log", *options).start().wait()
    yield serving
    serving.kill()


@pytest.fixture
def serve(folder, server):
    made = []

    def build(**options):
        replicas = Replicas([server.url], in_flight=8, timeout=60, patience=120)
        made.append(ServedTeacher(load_without_weights(folder / "teacher"), replicas, **options))
        return made[-1]

    yield build
    for served in made:
        served.close()


def examples_for(folder, *frontends):
    """The examples of the manifest, with the features of all frontends."""
    examples = []
    for utterance in read_manifest(folder / "speech.jsonl"):
        waveform = decode_audio(utterance.audio, utterance.begin_time, utterance.end_time)
        examples.append(Example(utterance, {each.frontend: each.features(waveform) for each in frontends}))
    return examples


def requests_along_rollouts(stage, examples):
    """The stage's requests to its teacher about the student's own rollouts."""
    recorded = []

    def submit(requests, top_k, device):
        recorded.extend(requests)
        return type(stage.teacher).submit(stage.teacher, requests, top_k, device)

    stage.teacher.submit = submit
    with torch.no_grad():
        stage(examples, seed=0)
    del stage.teacher.submit
    return recorded


def test_scores_along_rollouts_equal_those_of_the_teacher_in_process(folder, serve, capsys):
    served, student = serve(), load_recognizer(folder / "student")
    settings = OBJECTIVE.model_copy(update={"rollout_temperature": 1.0})
    stage = DistillationStage(student, served, settings)
    requests = requests_along_rollouts(stage, examples_for(folder, student, served))
    assert len(requests) == UTTERANCES
    teacher = load_recognizer(folder / "teacher")
    teacher.model.eval()
    for name, tested in {"named": served, "best": serve(best_tokens=64)}.items():
        worst = check_servers(tested, teacher, requests, settings.top_k, tolerance=1e-4)
        tokens = sum(len(request.transcript) for request in requests)
        with capsys.disabled():
            print(f"\n{name}: {len(requests)} utterances, {tokens} tokens: largest difference {worst:.1e} nats")


@pytest.mark.parametrize("options", [{}, {"best_tokens": 10_000}], ids=["named", "all as best"])
def test_loss_and_gradient_equal_those_of_the_teacher_in_process(folder, serve, options):
    student, teacher, served = (
        load_recognizer(folder / "student"),
        load_recognizer(folder / "teacher"),
        serve(**options),
    )
    examples = examples_for(folder, student, teacher, served)[::3]
    results = []
    for scorer in (teacher, served):
        student.model.zero_grad()
        loss = DistillationStage(student, scorer, OBJECTIVE)(examples, seed=0)
        loss.total.backward()
        gradient = torch.cat([part.grad.flatten() for part in student.model.parameters() if part.grad is not None])
        results.append((loss, gradient))
    (expected, gradient), (found, found_gradient) = results
    assert found.count == expected.count > 0
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-5)
    assert (found_gradient - gradient).norm() < 1e-4 * gradient.norm()


def test_a_server_restart_during_requests_loses_no_scores(folder, server, serve, caplog, capsys):
    served, teacher = serve(), load_recognizer(folder / "teacher")
    stage = DistillationStage(load_recognizer(folder / "student"), served, OBJECTIVE)
    requests = requests_along_rollouts(stage, examples_for(folder, stage.student, served))
    check_servers(served, teacher, requests[:1], OBJECTIVE.top_k, tolerance=1e-4)
    expected = served.submit(requests * 2, OBJECTIVE.top_k, torch.device("cpu"))(lambda: False)
    wait_for_scores = served.submit(requests * 2, OBJECTIVE.top_k, torch.device("cpu"))
    time.sleep(0.5)
    started = time.monotonic()
    server.stop()
    stopped = time.monotonic()
    server.start()
    found = wait_for_scores(lambda: False)
    logged = [record.getMessage() for record in caplog.records]
    with capsys.disabled():
        print(
            f"\nstopped in {stopped - started:.0f} s, responded {time.monotonic() - stopped:.0f} s later; {logged[0]}"
        )
    assert "is unhealthy" in logged[0]
    assert "is healthy again" in logged[-1]
    assert torch.equal(found.top.ids, expected.top.ids)
    ids = torch.cat([request.requested_ids[request.positions >= 0] for request in requests * 2])
    torch.testing.assert_close(found.log_probs_of(ids), expected.log_probs_of(ids), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def recipe(folder, server):
    """A recipe for on-policy distillation from the server."""
    step = {"steps": 10, "batch_seconds": 60, "learning_rate": 1.0e-3, "checkpoint_every": 4}
    served = {"urls": [server.url], "patience_seconds": 240, "in_flight": 4}
    return {
        "name": "served",
        "corpus": {"folder": str(folder)},
        "sets": {"speech": {"manifest": "speech.jsonl"}},
        "models": {
            "teacher": {"pretrained": str(folder / "teacher"), "served": served},
            "student": {"pretrained": str(folder / "student")},
        },
        "stages": {
            "opd": {
                "kind": "opd",
                "start": "student",
                "teacher": "teacher",
                "train": "speech",
                "objective": {"top_k": 16, "max_new_tokens": 16},
                "calibration_batches": 1,
                "optimization": step,
            }
        },
    }


def test_a_killed_and_restarted_server_does_not_change_the_losses(folder, server, recipe, capsys):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    undisturbed, seconds = metrics_of_a_run(folder, "undisturbed", None)
    disturbed, seconds_disturbed = metrics_of_a_run(folder, "disturbed", server)
    assert [line["step"] for line in disturbed] == [line["step"] for line in undisturbed] == list(range(1, 11))
    # The server's batches are not deterministic, and they change the last bits of its sums.
    drift = max(abs(b["loss"] / a["loss"] - 1) for a, b in zip(undisturbed, disturbed, strict=True))
    with capsys.disabled():
        print(f"\n10 steps in {seconds:.0f} s, with a kill {seconds_disturbed:.0f} s: losses differ by {drift:.1e}")
    assert drift < 1e-4
    for name in ("support/valid_share", "rollout/tokens", "teacher/mapped_share"):
        assert [line[name] for line in disturbed] == [line[name] for line in undisturbed], name


def metrics_of_a_run(folder, name, server):
    """The rows of `metrics.jsonl` of a run. `server`, if given, is killed after three steps and restarted."""
    metrics = folder / name / "stages" / "opd" / "metrics.jsonl"
    command = [sys.executable, "-m", "arkasr", "run", str(folder / "recipe.yaml"), "--output", str(folder / name)]
    started = time.monotonic()
    with (folder / f"{name}.log").open("wb") as log:
        run = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
    if server is not None:
        while run.poll() is None and (not metrics.exists() or len(read_rows(metrics)) < 3):
            time.sleep(0.02)
        assert run.poll() is None, (folder / f"{name}.log").read_text()
        server.kill()
        time.sleep(2)
        assert run.poll() is None
        server.start()
    assert run.wait(timeout=400) == 0, (folder / f"{name}.log").read_text()
    return read_rows(metrics), time.monotonic() - started


def test_a_run_with_a_server_of_other_weights_stops_with_one_line(folder, recipe):
    recipe = copy.deepcopy(recipe)
    recipe["models"]["teacher"]["pretrained"] = str(folder / "other")
    other = load_recognizer(folder / "teacher")
    with torch.no_grad():
        other.decoder.norm.weight.mul_(1.01)
    other.save(folder / "other")
    (folder / "other.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "arkasr", "run", str(folder / "other.yaml"), "--output", str(folder / "stopped")]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert stopped.returncode == 2
    assert "more than `served.tolerance` (0.001); serve the same weights in float32" in stopped.stderr
    assert len(stopped.stderr.strip().splitlines()) == 1, stopped.stderr
