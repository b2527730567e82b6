"""Ark-ASR in vLLM against `decode`. All tests share one engine, since a start takes seconds."""

import copy
import json
import subprocess
import sys

import pytest
import torch

from arkasr.recognizers.ark_asr import build_ark_asr
from arkasr.recognizers.decoding import Sampling, decode
from arkasr.train.loop import train
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.vllm.requests import requests_for
from tests.models import SMALL_STUDENT, TEXTS
from tests.train.runs import SETTINGS
from tests.train.stream import Stream

pytestmark = pytest.mark.vllm
# vLLM's attention on the CPU supports head sizes from 32.
SIZES = SMALL_STUDENT | {"hidden_size": 64}
MAX_NEW_TOKENS = 24


@pytest.fixture(scope="module")
def student(vocabulary):
    torch.manual_seed(0)
    return build_ark_asr(SIZES, vocabulary)


@pytest.fixture(scope="module")
def engine(student):
    pytest.importorskip("vllm")
    from arkasr.vllm.engine import VllmEngine

    engine = VllmEngine(student, max_new_tokens=MAX_NEW_TOKENS, dtype="float32", cache_gib=0.1)
    yield engine
    engine.close()


@pytest.fixture
def prompts(student, noise_examples):
    examples = noise_examples(student)
    return student.prompts([example.features[student.frontend] for example in examples], [None] * len(examples))


def learn(student, examples, folder, steps):
    settings = SETTINGS.model_copy(update={"steps": steps, "schedule": "constant"})
    train(SupervisedStage(student, None), Stream([examples]), settings, folder, seed=0)
    student.model.eval()


def assert_same(found, expected):
    assert [tokens.tolist() for tokens in found.tokens] == [tokens.tolist() for tokens in expected.tokens]
    assert found.stopped.tolist() == expected.stopped.tolist()


def test_forbidden_tokens_are_never_written_even_with_the_highest_scores(engine, student, prompts):
    inputs = {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask, **prompts.audio}
    with torch.no_grad():
        embeddings = student.model.lm_head.weight
        untrained = embeddings.clone()
        favourite = student.model(**inputs).logits[0, -1].argmax()
        embeddings[~student.allowed_tokens] = 3 * embeddings[favourite]
        assert not student.allowed_tokens[student.model(**inputs).logits[:, -1].argmax(-1)].any()
    engine.on_weights_changed()
    found = engine(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
    assert all(student.allowed_tokens[tokens].all() for tokens in found.tokens)
    assert_same(found, decode(student, prompts, max_new_tokens=MAX_NEW_TOKENS))
    with torch.no_grad():
        embeddings.copy_(untrained)
    engine.on_weights_changed()


def test_after_optimizer_steps_rollouts_use_the_new_weights(engine, student, noise_examples, prompts, tmp_path):
    before = engine(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
    learn(student, noise_examples(student), tmp_path, steps=60)
    engine.on_weights_changed()
    found = engine(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
    assert [tokens.tolist() for tokens in found.tokens] != [tokens.tolist() for tokens in before.tokens]
    assert_same(found, decode(student, prompts, max_new_tokens=MAX_NEW_TOKENS))
    assert [student.transcript_text(tokens) for tokens in found.tokens] == TEXTS


@pytest.mark.parametrize("part", ["audio_encoder", "model.embed_tokens", "model.layers", "model.norm"])
def test_a_change_of_any_weights_changes_the_transcripts_of_known_clips(engine, student, prompts, part):
    """Covers the tied head, of which vLLM keeps a packed copy, and cached audio embeddings."""
    before = engine(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
    with torch.no_grad():
        for parameter in student.model.get_submodule(part).parameters():
            parameter.add_(torch.randn_like(parameter))
    engine.on_weights_changed()
    found = engine(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
    assert [tokens.tolist() for tokens in found.tokens] != [tokens.tolist() for tokens in before.tokens]
    assert_same(found, decode(student, prompts, max_new_tokens=MAX_NEW_TOKENS))


def test_a_pending_call_uses_the_weights_of_its_submission(engine, student, prompts):
    pending = engine.submit(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
    expected = decode(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    engine.on_weights_changed()
    pending_later = engine.submit(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
    assert_same(pending(), expected)
    now = decode(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
    assert [tokens.tolist() for tokens in now.tokens] != [tokens.tolist() for tokens in expected.tokens]
    assert_same(pending_later(), now)


def test_vllm_and_its_server_use_the_prompt_of_training(engine, student, prompts):
    from arkasr.vllm.inputs import prompt_token_ids

    requests = requests_for(student, prompts)
    results = engine._vllm.submit(lambda llm: llm.generate(requests, use_tqdm=False))()
    frames = prompts.audio["audios_mask"].sum(1).tolist()
    assert [result.prompt_token_ids for result in results] == [student.prompt_ids(count, None) for count in frames]
    assert [request["prompt_token_ids"] for request in requests] == [prompt_token_ids(student.tokenizer)] * len(
        requests
    )


def test_sampled_tokens_depend_on_the_seed_only(engine, student, prompts):
    def sampled(seed):
        uniforms = torch.rand(
            len(TEXTS), MAX_NEW_TOKENS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        written = engine(student, prompts, max_new_tokens=MAX_NEW_TOKENS, sampling=Sampling(2.0, uniforms))
        assert all(student.allowed_tokens[tokens].all() for tokens in written.tokens)
        return [tokens.tolist() for tokens in written.tokens]

    assert sampled(0) == sampled(0) != sampled(1)


def test_distillation_takes_equal_steps_with_both_engines(engine, student, teacher, noise_examples, tmp_path):
    examples = noise_examples(student, teacher)
    learn(student, examples, tmp_path / "student", steps=60)
    start = copy.deepcopy(student.model.state_dict())
    settings = SETTINGS.model_copy(update={"steps": 5, "schedule": "constant", "learning_rate": 3e-3})
    lines = []
    for name, writer in (("own", None), ("vllm", engine)):
        student.model.load_state_dict(start)
        engine.on_weights_changed()
        stage = DistillationStage(student, teacher, ObjectiveSettings(top_k=8, max_new_tokens=12), engine=writer)
        train(stage, Stream([examples]), settings, tmp_path / name, seed=0)
        lines.append([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()])
    own, vllm = lines
    for ours, theirs in zip(own, vllm, strict=True):
        assert theirs["rollout/tokens"] == ours["rollout/tokens"]
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
    assert own[-1]["loss"] != pytest.approx(own[0]["loss"], rel=1e-2)


def test_every_rank_has_an_engine_with_its_weights():
    """Transformers writes models on rank 0 only; every engine needs a copy."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "tests.vllm.two_ranks"]
    done = subprocess.run(launch, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
