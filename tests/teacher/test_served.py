import pytest
import torch

from arkasr.errors import InputError
from arkasr.recognizers.load import load_without_weights
from arkasr.recognizers.scoring import forced_logits
from arkasr.teacher.self_test import check_servers
from arkasr.teacher.served import uniform_remainder
from arkasr.train.stages.opd import DistillationStage
from tests.models import TEXTS
from tests.teacher.requests import OBJECTIVE, requests_of, scores_of, step
from tests.teacher.scores_server import ScoresServer
from tests.train.opd import set_rollouts


def assert_same_step(student, teacher, served, settings, examples):
    expected, gradient = step(DistillationStage(student, teacher, settings), examples)
    found, found_gradient = step(DistillationStage(student, served, settings), examples)
    assert found.count == expected.count > 0
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("support", ["union", "teacher", "student", "intersection"])
def test_a_served_teacher_gives_the_loss_and_gradient_of_one_in_process(
    student, teacher, noise_examples, server, serve, divergence, support
):
    # Two untrained models share few of their best tokens.
    top_k = 64 if support == "intersection" else 8
    settings = OBJECTIVE.model_copy(
        update={"divergence": divergence, "support": support, "temperature": 1.5, "top_k": top_k}
    )
    served = serve(server)
    assert_same_step(student, teacher, served, settings, noise_examples(student, teacher, served))


def test_sampled_and_retokenised_transcripts_get_equal_scores(student, teacher, vocabulary, noise_examples, serve):
    from arkasr.recognizers.qwen3_asr import PROMPT_WORDS, QWEN3_ASR_PRESETS, build_qwen3_asr
    from arkasr.recognizers.tokenizer import train_base_vocabulary

    other_vocabulary = train_base_vocabulary(
        ["red green books", "london apples", "北京今天", "票"], 300, list(PROMPT_WORDS)
    )
    torch.manual_seed(2)
    other_teacher = build_qwen3_asr(QWEN3_ASR_PRESETS["qwen3-asr-tiny"], other_vocabulary)
    other_teacher.model.eval()
    server = ScoresServer(other_teacher).start()
    try:
        served = serve(server)
        served.recognizer = other_teacher
        settings = OBJECTIVE.model_copy(update={"rollout_temperature": 1.5, "min_paired_share": 0.0})
        examples = noise_examples(student, other_teacher, served)
        expected, gradient = step(DistillationStage(student, other_teacher, settings), examples)
        found, found_gradient = step(DistillationStage(student, served, settings), examples)
    finally:
        server.stop()
    assert expected.metrics.values()["teacher/retokenised_rate"] > 0
    assert found.count == expected.count > 0
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scores", ["named", "best"])
def test_segments_get_the_loss_and_gradient_of_a_teacher_in_process(student, noise_examples, serve, scores):
    from arkasr.recognizers.qwen3_asr import PROMPT_WORDS, QWEN3_ASR_PRESETS, build_qwen3_asr
    from arkasr.recognizers.tokenizer import train_base_vocabulary

    torch.manual_seed(2)
    words = train_base_vocabulary(["red green books", "london apples", "北京今天", "票"], 300, list(PROMPT_WORDS))
    other = build_qwen3_asr(QWEN3_ASR_PRESETS["qwen3-asr-tiny"], words)
    # A server normalises over all tokens.
    other.allowed_tokens = torch.ones(other.vocab_size, dtype=torch.bool)
    other.model.eval()
    server = ScoresServer(other).start()
    try:
        served = serve(server, best_tokens=None if scores == "named" else other.vocab_size)
        served.recognizer = other
        settings = OBJECTIVE.model_copy(update={"unpaired": "segments"})
        stages = [DistillationStage(student, scorer, settings) for scorer in (other, served)]
        for stage in stages:
            set_rollouts(stage, TEXTS)
        (expected, gradient), (found, found_gradient) = (
            step(stage, noise_examples(student, other, served)) for stage in stages
        )
    finally:
        server.stop()
    assert expected.metrics.values()["support/segments"] > 1
    assert found.count == expected.count
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("best_tokens", [None, 16])
def test_a_served_teacher_rejects_the_same_tokens(student, teacher, noise_examples, server, serve, best_tokens):
    teacher.allowed_tokens = torch.ones(teacher.vocab_size, dtype=torch.bool)  # a server normalises over all tokens
    served = serve(server, best_tokens=best_tokens)
    examples = noise_examples(student, teacher, served)
    settings = OBJECTIVE.model_copy(update={"rejected_below": 1 / teacher.vocab_size})
    stages = [DistillationStage(student, scorer, settings) for scorer in (teacher, served)]
    for stage in stages:
        set_rollouts(stage, TEXTS)
    (expected, _), (found, _) = (step(stage, examples) for stage in stages)
    share = expected.metrics.values()["teacher/rejected_share"]
    assert 0.1 < share < 0.9
    assert found.metrics.values()["teacher/rejected_share"] == share
    assert found.count == expected.count > 0
    if best_tokens is None:
        torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-6)


def test_metrics_equal_those_of_a_teacher_in_process_except_the_entropy(
    student, teacher, noise_examples, server, serve
):
    served = serve(server)
    examples = noise_examples(student, teacher, served)
    expected = step(DistillationStage(student, teacher, OBJECTIVE), examples)[0].metrics.values()
    found = step(DistillationStage(student, served, OBJECTIVE), examples)[0].metrics.values()
    assert expected.keys() - found.keys() == {"support/entropy_teacher", "support/entropy_gap"}
    # A server's masses include special tokens, which are likely in an untrained teacher.
    masses = {"support/overlap_mass_teacher", "support/tail_mass_teacher"}
    assert {name: found[name] for name in found.keys() - masses} == pytest.approx(
        {name: expected[name] for name in found.keys() - masses}, rel=1e-4, abs=1e-6
    )


def test_more_best_tokens_give_a_smaller_error_and_all_of_them_none(student, teacher, noise_examples, server, serve):
    served = {count: serve(server, best_tokens=count) for count in (16, 128, teacher.vocab_size)}
    examples = noise_examples(student, teacher, served[16])
    _, gradient = step(DistillationStage(student, teacher, OBJECTIVE), examples)
    errors = {}
    for count, best in served.items():
        _, found = step(DistillationStage(student, best, OBJECTIVE), examples)
        errors[count] = float((found - gradient).norm() / gradient.norm())
    assert errors[teacher.vocab_size] < 1e-5
    assert errors[teacher.vocab_size] < errors[128] < errors[16]


def test_the_uniform_remainder_does_not_exceed_the_worst_of_the_best_tokens():
    log_probs = torch.tensor([[0.5, 0.3, 0.01], [0.5, 0.2, float("nan")]]).log()
    log_probs[1, 2] = -torch.inf
    shared = uniform_remainder(log_probs, best_tokens=2, vocab_size=13).exp()
    torch.testing.assert_close(shared, torch.tensor([0.019, 0.3 / 11]))
    few = uniform_remainder(torch.tensor([[0.5, 0.01]]).log(), best_tokens=2, vocab_size=4).exp()
    torch.testing.assert_close(few, torch.tensor([0.01]))


def test_forbidden_tokens_do_not_displace_allowed_ones(student, teacher, noise_examples, server, serve):
    settings = OBJECTIVE.model_copy(update={"top_k": 4})
    with torch.no_grad():
        # All forbidden tokens are made the likeliest, so that the first response holds too few allowed ones.
        forbidden = (~teacher.allowed_tokens).nonzero().squeeze(1)
        forbidden = forbidden[forbidden != teacher.processor.audio_token_id]
        teacher.head[forbidden] = teacher.head[teacher.stop_token_id] * 3
    served = serve(server)
    examples = noise_examples(student, teacher, served)
    expected, _ = step(DistillationStage(student, teacher, settings), examples)
    found, _ = step(DistillationStage(student, served, settings), examples)
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", [{"support": "full"}, {"tail": "bucket"}, {"upstream_scores": True}])
def test_an_objective_that_needs_the_full_vocabulary_is_refused(student, server, serve, change):
    with pytest.raises(InputError, match="scores that a served teacher does not give"):
        DistillationStage(student, serve(server), OBJECTIVE.model_copy(update=change))


def test_requested_scores_equal_those_of_the_teacher(teacher, noise_examples, server, serve):
    served = serve(server)
    for request in requests_of(teacher, noise_examples(served), served):
        scores = scores_of(served, request)
        features = teacher.features(request.audio.numpy())
        with torch.no_grad():
            logits = forced_logits(teacher, teacher.prompts([features], [request.language]), [request.transcript])
        expected = logits.log_softmax(-1)
        torch.testing.assert_close(
            scores.log_probs_of(request.requested_ids), expected.gather(1, request.requested_ids)
        )
        allowed = expected.masked_fill(~teacher.allowed_tokens, -torch.inf)
        assert torch.equal(scores.top.ids, allowed.topk(8).indices)
        everywhere = scores.log_probs_of(torch.arange(teacher.vocab_size).expand(len(expected), -1))
        known = ~everywhere.isnan()
        torch.testing.assert_close(everywhere[known], expected[known])


def test_the_self_test_passes_the_right_teacher_with_and_without_local_weights(
    teacher, noise_examples, server, serve, tmp_path
):
    teacher.save(tmp_path)
    served = serve(server, server)
    served.recognizer = load_without_weights(tmp_path)
    requests = requests_of(served.recognizer, noise_examples(served), served)
    assert check_servers(served, teacher, requests, 8, 1e-5) < 1e-5
    assert check_servers(served, None, requests, 8, 1e-5) < 1e-5


def test_the_self_test_fails_for_other_weights_and_for_another_prompt(
    teacher, noise_examples, server, other_server, serve
):
    served = serve(server)
    requests = requests_of(teacher, noise_examples(served), served)
    with pytest.raises(InputError, match=r"up to .* from the teacher's own, more than `served.tolerance`"):
        check_servers(serve(other_server), teacher, requests, 8, 1e-3)
    with pytest.raises(InputError, match=f"teacher {other_server.url}: .* from those of {server.url}"):
        check_servers(serve(server, other_server), None, requests, 8, 1e-3)
    server.faults = [lambda response: response | {"prompt_token_ids": [1, 2, 3]}]
    with pytest.raises(InputError, match="its prompt differs"):
        check_servers(served, teacher, requests, 8, 1e-3)


def test_a_top_k_above_the_number_of_allowed_tokens_gives_all_of_them(student, teacher, noise_examples, server, serve):
    few = torch.zeros_like(teacher.allowed_tokens)
    few[teacher.allowed_tokens.nonzero()[:20]] = True
    teacher.allowed_tokens = few
    served = serve(server)
    settings = OBJECTIVE.model_copy(update={"top_k": 32, "min_paired_share": 0.0})
    assert_same_step(student, teacher, served, settings, noise_examples(student, teacher, served))
