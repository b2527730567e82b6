"""The teacher of an OPD stage is built from the recipe."""

import json
import threading

import numpy as np
import pytest
import soundfile
import torch

from arkasr.errors import InputError
from arkasr.recipe.load import parse
from arkasr.recipe.settings import Recipe
from arkasr.run.context import RunContext
from arkasr.run.folder import RunFolder
from arkasr.run.teachers import teacher_of
from arkasr.teacher.in_process import InProcessTeacher
from arkasr.teacher.served import ServedTeacher
from tests.teacher.requests import forced_on, requests_of, scores_of
from tests.teacher.scores_server import serving


@pytest.fixture
def server(teacher):
    yield from serving(teacher)


@pytest.fixture
def context(student, teacher, server, tmp_path):
    """Builds the context and the OPD stage of a recipe with a served teacher; arguments change the recipe."""
    student.save(tmp_path / "base")
    teacher.save(tmp_path / "teacher")
    generator = np.random.default_rng(0)
    rows = [
        {"audio": "broken.wav", "language": "English"},
        {"audio": "short.wav", "language": "English", "duration": 0.1},
    ]
    for row in rows:
        (tmp_path / row["audio"]).write_text("no audio")
    for index, seconds in enumerate((1.2, 0.7, 1.6)):
        soundfile.write(tmp_path / f"{index}.wav", generator.normal(size=int(seconds * 16_000)) * 0.1, 16_000)
        rows.append({"audio": f"{index}.wav", "text": "one two" if index else None, "language": "English"})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "unreadable.jsonl").write_text("\n".join(map(json.dumps, rows[:2])))

    def build(stage=None, *, served=None, train_set=None, in_process=False):
        servers = {} if in_process else {"served": {"urls": [server.url], **(served or {})}}
        document = {
            "name": "teachers",
            "corpus": {"folder": str(tmp_path)},
            "sets": {
                "L": train_set or {"manifest": "train.jsonl"},
                "files": {"manifest": "train.jsonl"},
                "unreadable": {"manifest": "unreadable.jsonl"},
            },
            "models": {
                "base": {"pretrained": str(tmp_path / "base")},
                "teacher": {"pretrained": str(tmp_path / "teacher"), **servers},
            },
            "stages": {
                "opd": {
                    "kind": "opd",
                    "start": "base",
                    "teacher": "teacher",
                    "train": "L",
                    "objective": {"top_k": 8},
                    "optimization": {"steps": 1, "batch_seconds": 3, "learning_rate": 1e-3},
                    **(stage or {}),
                }
            },
        }
        recipe = parse(Recipe, document, "recipe")
        return RunContext(recipe, RunFolder(tmp_path / "run", 0), torch.device("cpu")), recipe.stages["opd"]

    return build


def test_a_teacher_without_servers_is_in_process_and_may_be_offloaded(context):
    teacher = teacher_of(*context({"offload_teacher": True}, in_process=True), seed=0)
    assert isinstance(teacher, InProcessTeacher)
    assert teacher.offload


def test_a_cached_teacher_keeps_its_answers_in_the_folder_of_the_run(context, noise_examples, tmp_path):
    run, stage = context({"teacher_cache": "states", "teacher_cache_gib": 1e-3}, in_process=True)
    cached = []
    for _ in range(2):
        teacher = teacher_of(run, stage, seed=0)
        requests = forced_on(teacher.recognizer, noise_examples(teacher))
        cached.append(teacher.submit(requests, 8, torch.device("cpu"))(lambda: False).cached)
    assert cached == [0, 5]
    assert len(list((tmp_path / "run" / "teacher-cache").rglob("*.safetensors"))) == 10


@pytest.mark.parametrize("served", [{}, {"weights": False}, {"scores": "best", "best_tokens": 64}])
def test_a_served_teacher_is_tested_on_readable_utterances(context, server, noise_examples, served):
    teacher = teacher_of(*context(served=served), seed=0)
    try:
        assert isinstance(teacher, ServedTeacher)
        # Two utterances, each with a request for the prompt and one for the scores. Without local weights, each is
        # scored twice.
        assert server.succeeded == (4 if served.get("weights", True) else 6)
        request = requests_of(teacher.recognizer, noise_examples(teacher), teacher)[0]
        assert scores_of(teacher, request).other_log_prob.isnan().all() == (served.get("scores") != "best")
    finally:
        teacher.close()


def test_servers_are_tested_on_the_dev_set_if_training_is_streamed(context, server):
    streamed = {"dataset": {"path": "nowhere"}}
    with pytest.raises(InputError, match="and 'L' is streamed; give the stage a `dev` set from a manifest"):
        teacher_of(*context(train_set=streamed), seed=0)
    teacher_of(*context({"dev": "files"}, train_set=streamed), seed=0).close()
    assert server.succeeded == 4


def test_servers_cannot_be_tested_without_readable_utterances(context):
    with pytest.raises(InputError, match="none of the first 100 utterances can be read, so the teacher's servers"):
        teacher_of(*context({"train": "unreadable"}), seed=0)


def test_every_request_has_the_name_of_the_model(context, server):
    respond, names = server.respond, []

    def record_name(request):
        names.append(request.get("model"))
        return respond(request)

    server.respond = record_name
    teacher_of(*context(served={"model": "qwen"}), seed=0).close()
    assert names == ["qwen"] * 4


def test_a_failed_self_test_leaves_no_thread(context, server):
    server.faults = [lambda response: response | {"prompt_token_ids": [1]}]
    with pytest.raises(InputError, match="its prompt differs"):
        teacher_of(*context(), seed=0)
    assert "teacher" not in [thread.name for thread in threading.enumerate()]
