import pytest
import torch

from arkasr.errors import InputError
from arkasr.recognizers.load import load_without_weights
from arkasr.recognizers.scoring import forced_logits
from arkasr.teacher.self_test import check_servers
from arkasr.teacher.served import evenly_shared
from arkasr.train.stages.opd import DistillationStage
from tests.teacher.asking import OBJECTIVE, answer_of, questions_of, step
from tests.teacher.scores_server import ScoresServer


def assert_same_step(student, teacher, served, settings, examples):
    expected, gradient = step(DistillationStage(student, teacher, settings), examples)
    found, found_gradient = step(DistillationStage(student, served, settings), examples)
    assert found.count == expected.count > 0
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("support", ["union", "teacher", "student", "intersection"])
def test_a_served_teacher_gives_the_loss_and_gradient_of_one_in_process(
    student, teacher, hear, server, serve, divergence, support
):
    # Two models that know nothing share few of their best tokens.
    top_k = 64 if support == "intersection" else 8
    settings = OBJECTIVE.model_copy(
        update={"divergence": divergence, "support": support, "temperature": 1.5, "top_k": top_k}
    )
    served = serve(server)
    assert_same_step(student, teacher, served, settings, hear(student, teacher, served))


def test_drawn_and_retokenised_transcripts_are_scored_alike(student, teacher, vocabulary, hear, serve):
    from arkasr.recognizers.qwen3_asr import PROMPT_WORDS, QWEN3_ASR_PRESETS, build_qwen3_asr
    from arkasr.recognizers.tokenizer import train_base_vocabulary

    others = train_base_vocabulary(["red green books", "london apples", "北京今天", "票"], 300, list(PROMPT_WORDS))
    torch.manual_seed(2)
    stranger = build_qwen3_asr(QWEN3_ASR_PRESETS["qwen3-asr-tiny"], others)
    stranger.model.eval()
    server = ScoresServer(stranger).start()
    try:
        served = serve(server)
        served.recognizer = stranger
        settings = OBJECTIVE.model_copy(update={"rollout_temperature": 1.5, "min_mapped_share": 0.0})
        examples = hear(student, stranger, served)
        expected, gradient = step(DistillationStage(student, stranger, settings), examples)
        found, found_gradient = step(DistillationStage(student, served, settings), examples)
    finally:
        server.stop()
    assert expected.metrics.values()["teacher/retokenised_rate"] > 0
    assert found.count == expected.count > 0
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-4, atol=1e-5)


def test_the_metrics_are_those_in_process_but_for_the_entropy_which_is_left_out(student, teacher, hear, server, serve):
    served = serve(server)
    examples = hear(student, teacher, served)
    expected = step(DistillationStage(student, teacher, OBJECTIVE), examples)[0].metrics.values()
    found = step(DistillationStage(student, served, OBJECTIVE), examples)[0].metrics.values()
    assert expected.keys() - found.keys() == {"support/entropy_teacher", "support/entropy_gap"}
    # Of an untrained teacher special tokens are as likely as any, and a server does not leave them out.
    masses = {"support/overlap_mass_teacher", "support/tail_mass_teacher"}
    assert {name: found[name] for name in found.keys() - masses} == pytest.approx(
        {name: expected[name] for name in found.keys() - masses}, rel=1e-4, abs=1e-6
    )


def test_best_tokens_alone_are_exact_where_they_are_all_and_near_where_they_are_many(
    student, teacher, hear, server, serve
):
    served = {count: serve(server, best_tokens=count) for count in (16, 128, teacher.vocab_size)}
    examples = hear(student, teacher, served[16])
    _, gradient = step(DistillationStage(student, teacher, OBJECTIVE), examples)
    errors = {}
    for count, asked in served.items():
        _, found = step(DistillationStage(student, asked, OBJECTIVE), examples)
        errors[count] = float((found - gradient).norm() / gradient.norm())
    assert errors[teacher.vocab_size] < 1e-5
    assert errors[teacher.vocab_size] < errors[128] < errors[16]


def test_what_the_best_leave_is_shared_evenly_and_none_is_better_than_the_worst_of_them():
    log_probs = torch.tensor([[0.5, 0.3, 0.01], [0.5, 0.2, float("nan")]]).log()
    log_probs[1, 2] = -torch.inf
    shared = evenly_shared(log_probs, best_tokens=2, vocab_size=13).exp()
    torch.testing.assert_close(shared, torch.tensor([0.019, 0.3 / 11]))
    few = evenly_shared(torch.tensor([[0.5, 0.01]]).log(), best_tokens=2, vocab_size=4).exp()
    torch.testing.assert_close(few, torch.tensor([0.01]))


def test_tokens_that_no_transcript_holds_do_not_crowd_out_the_others(student, teacher, hear, server, serve):
    settings = OBJECTIVE.model_copy(update={"top_k": 4})
    with torch.no_grad():
        # All forbidden tokens are made the likeliest, so that the first answer holds too few others.
        forbidden = (~teacher.allowed_tokens).nonzero().squeeze(1)
        forbidden = forbidden[forbidden != teacher.processor.audio_token_id]
        teacher.head[forbidden] = teacher.head[teacher.stop_token_id] * 3
    served = serve(server)
    examples = hear(student, teacher, served)
    expected, _ = step(DistillationStage(student, teacher, settings), examples)
    found, _ = step(DistillationStage(student, served, settings), examples)
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", [{"support": "full"}, {"tail": "bucket"}, {"upstream_scores": True}])
def test_an_objective_that_needs_every_score_is_refused(student, server, serve, change):
    with pytest.raises(InputError, match="scores that a served teacher does not give"):
        DistillationStage(student, serve(server), OBJECTIVE.model_copy(update=change))


def test_the_scores_that_are_asked_for_by_name_are_those_of_the_teacher(teacher, hear, server, serve):
    served = serve(server)
    for question in questions_of(teacher, hear(served), served):
        scores = answer_of(served, question)
        features = teacher.features(question.audio.numpy())
        with torch.no_grad():
            own = forced_logits(teacher, teacher.prompts([features], [question.language]), [question.transcript])
        expected = own.log_softmax(-1)
        torch.testing.assert_close(scores.of(question.named), expected.gather(1, question.named))
        allowed = expected.masked_fill(~teacher.allowed_tokens, -torch.inf)
        assert torch.equal(scores.top.ids, allowed.topk(8).indices)
        somewhere = scores.of(torch.arange(teacher.vocab_size).expand(len(expected), -1))
        known = ~somewhere.isnan()
        torch.testing.assert_close(somewhere[known], expected[known])


def test_the_self_test_passes_the_teacher_itself_with_and_without_its_weights_here(
    teacher, hear, server, serve, tmp_path
):
    teacher.save(tmp_path)
    served = serve(server, server)
    served.recognizer = load_without_weights(tmp_path)
    questions = questions_of(served.recognizer, hear(served), served)
    assert check_servers(served, teacher, questions, 8, 1e-5) < 1e-5
    assert check_servers(served, None, questions, 8, 1e-5) < 1e-5


def test_the_self_test_stops_at_other_weights_and_at_another_prompt(teacher, hear, server, other_server, serve):
    served = serve(server)
    questions = questions_of(teacher, hear(served), served)
    with pytest.raises(InputError, match=r"up to .* from the teacher's own, more than `served.tolerance`"):
        check_servers(serve(other_server), teacher, questions, 8, 1e-3)
    with pytest.raises(InputError, match=f"teacher {other_server.url}: .* from those of {server.url}"):
        check_servers(serve(server, other_server), None, questions, 8, 1e-3)
    server.faults = [lambda answer: answer | {"prompt_token_ids": [1, 2, 3]}]
    with pytest.raises(InputError, match="it reads another prompt"):
        check_servers(served, teacher, questions, 8, 1e-3)


def test_more_best_tokens_than_a_transcript_may_hold_are_those_it_may(student, teacher, hear, server, serve):
    few = torch.zeros_like(teacher.allowed_tokens)
    few[teacher.allowed_tokens.nonzero()[:20]] = True
    teacher.allowed_tokens = few
    served = serve(server)
    settings = OBJECTIVE.model_copy(update={"top_k": 32, "min_mapped_share": 0.0})
    assert_same_step(student, teacher, served, settings, hear(student, teacher, served))
