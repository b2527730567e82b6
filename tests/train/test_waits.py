"""How often the host waits for a GPU, counted on a simulated one: docs/performance.md lists what is left."""

import copy
from collections import Counter

import pytest
import torch

from arkasr.recognizers.decoding import Sampling, decode
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stages.ctc import CtcStage
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from tests.simulated_gpu import GpuTensor, move_to_gpu, simulated_gpu

LANGUAGES = ["English"] * 5


def prompts_of(recognizer, examples):
    features = [example.features[recognizer.frontend] for example in examples]
    return recognizer.prompts(features, LANGUAGES).to(recognizer.device)


@pytest.mark.parametrize("drafted", [False, True])
@pytest.mark.parametrize("sampled", [False, True])
def test_a_rollout_waits_once_per_decoder_pass(student, noise_examples, monkeypatch, drafted, sampled):
    examples = noise_examples(student)
    sampling = Sampling(1.0, torch.rand(5, 10, dtype=torch.float64)) if sampled else None
    expected = decode(student, student.embed_audio(prompts_of(student, examples)), max_new_tokens=10, sampling=sampling)
    drafts = [[*tokens.tolist()[:4], 7, *tokens.tolist()[5:]] for tokens in expected.tokens] if drafted else None
    move_to_gpu(student.model)
    with simulated_gpu(monkeypatch) as waits:
        prompts = student.embed_audio(prompts_of(student, examples))
        assert waits.calls == [], waits.lines
        written = decode(student, prompts, max_new_tokens=10, drafts=drafts, sampling=sampling)
    assert all(torch.equal(a, b) for a, b in zip(written.tokens, expected.tokens, strict=True))
    assert isinstance(written.states, GpuTensor)
    assert waits.calls == ["tolist"] * written.passes, waits.lines
    assert waits.mixed == []


def test_a_micro_batch_waits_as_often_as_the_documentation_says(student, teacher, noise_examples, monkeypatch):
    examples = noise_examples(student, teacher)
    ctc = CtcStage(copy.deepcopy(student), None)  # a copy, because CTC freezes the decoder
    sft = SupervisedStage(student, None)
    opd = DistillationStage(student, teacher, ObjectiveSettings(top_k=8, max_new_tokens=6))
    expected = {stage: stage(examples, seed=0).total.item() for stage in (ctc, sft, opd)}
    move_to_gpu(ctc, student.model, teacher.model)
    with simulated_gpu(monkeypatch) as waits:
        loss = sft(examples, seed=0)
        aligned = ctc(examples, seed=0)
        assert waits.calls == [], waits.lines
        opd(examples, seed=0)  # moves the vocabularies, once
        waits.clear()
        distilled = opd(examples, seed=0)
        asked = Counter(waits.calls)
        passes = distilled.metrics.values()["rollout/passes"]
    assert waits.calls[sum(asked.values()) :] == ["tolist"]  # all figures of the micro-batch come in one piece
    in_the_teachers_encoder = {"nonzero": 1}
    assert asked == {"tolist": passes} | in_the_teachers_encoder, "\n".join(waits.lines)
    assert waits.mixed == []
    for stage, found in ((ctc, aligned), (sft, loss), (opd, distilled)):
        assert found.total.item() == pytest.approx(expected[stage], rel=1e-5)
