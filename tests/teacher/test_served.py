import copy
import itertools
import threading
import time

import pytest
import torch

from arkasr.errors import InputError
from arkasr.model.scoring import forced_logits
from arkasr.teacher.load import load_without_weights
from arkasr.teacher.replicas import Replicas
from arkasr.teacher.self_test import check_servers, trial_question
from arkasr.teacher.served import ServedTeacher, evenly_shared
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stages.opd import DistillationStage
from tests.teacher.scores_server import ScoresServer

OBJECTIVE = ObjectiveSettings(top_k=8, max_new_tokens=6)


@pytest.fixture
def server(teacher):
    teacher.model.eval()
    serving = ScoresServer(teacher).start()
    yield serving
    serving.stop()


@pytest.fixture
def serve(teacher):
    """A served teacher whose processor is the teacher's, at the given servers."""
    made = []

    def build(*servers, in_flight=4, timeout=20.0, patience=20.0, **options):
        urls = [server.url for server in servers]
        replicas = Replicas(urls, in_flight=in_flight, timeout=timeout, patience=patience)
        made.append(replicas)
        return ServedTeacher(teacher, replicas, **options)

    yield build
    for replicas in made:
        replicas.give_up("the test is over")


def step(stage, examples):
    """Loss, count and the gradients of one micro-batch."""
    stage.model.zero_grad()
    loss = stage(examples, seed=0)
    loss.total.backward()
    gradients = [parameter.grad for parameter in stage.model.parameters() if parameter.grad is not None]
    return loss, torch.cat([gradient.flatten() for gradient in gradients])


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
    examples = hear(student, teacher, served)
    expected, gradient = step(DistillationStage(student, teacher, settings), examples)
    found, found_gradient = step(DistillationStage(student, served, settings), examples)
    assert found.count == expected.count > 0
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-4, atol=1e-5)


def test_drawn_and_retokenised_transcripts_are_scored_alike(student, teacher, vocabulary, hear, serve):
    from arkasr.model.tokenizer import train_base_vocabulary
    from arkasr.teacher.build import build_qwen3_asr
    from arkasr.teacher.presets import PROMPT_WORDS, TEACHER_PRESETS

    others = train_base_vocabulary(["red green books", "london apples", "北京今天", "票"], 300, list(PROMPT_WORDS))
    torch.manual_seed(2)
    stranger = build_qwen3_asr(TEACHER_PRESETS["qwen3-asr-tiny"], others)
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


def test_a_server_that_refuses_errs_hangs_and_drops_costs_time_and_no_answer(student, teacher, hear, server, serve):
    served = serve(server, timeout=1.0)
    examples = hear(student, teacher, served)
    expected, _ = step(DistillationStage(student, served, OBJECTIVE), examples)
    for faults in ([503, "drop", 500], ["hang", 429]):
        server.faults = list(faults)
        found, _ = step(DistillationStage(student, served, OBJECTIVE), examples)
        assert not server.faults
        assert torch.equal(found.total, expected.total)
    assert served.replicas.failures == 5


def test_a_server_that_dies_and_returns_costs_time_and_no_answer(student, teacher, hear, serve, caplog):
    teacher.model.eval()
    server = ScoresServer(teacher).start()
    served = serve(server)
    examples = hear(student, teacher, served)
    stage = DistillationStage(student, served, OBJECTIVE)
    expected, _ = step(stage, examples)
    server.stop()
    back = threading.Timer(1.0, server.start)
    back.start()
    started = time.monotonic()
    found, _ = step(stage, examples)
    server.stop()
    assert time.monotonic() - started > 1.0
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, told
    assert "does not answer (ConnectError" in told[0]
    assert "answers again" in told[1]
    assert torch.equal(found.total, expected.total)


def test_a_dead_replica_is_left_to_itself_and_asked_again_when_it_returns(teacher, hear, server, serve):
    dead = ScoresServer(teacher).start()
    dead.stop()
    served = serve(dead, server)
    question = questions_of(teacher, hear(served), served)[0]
    for _ in range(12):
        served.answer(question, 8)
    assert server.answered == 12
    tries = served.replicas.failures
    assert tries < 6
    dead.start()
    try:
        served.replicas.replicas[0].back_at = 0.0
        for _ in range(4):
            served.answer(question, 8)
    finally:
        dead.stop()
    assert dead.answered > 0


def test_no_server_has_more_requests_than_it_may(student, teacher, hear, serve):
    teacher.model.eval()
    servers = [ScoresServer(teacher).start() for _ in range(2)]
    for server in servers:
        server.delay = 0.05
    served = serve(*servers, in_flight=2)
    question = questions_of(teacher, hear(served), served)[0]
    answer = served.ask([question] * 12, 8, torch.device("cpu"))
    assert len(answer().ids) == 12 * len(question.transcript)
    for server in servers:
        server.stop()
        assert server.busiest <= 2
        assert server.answered >= 4


def test_a_run_stops_with_one_line_when_no_server_answers(student, teacher, hear, serve):
    gone = ScoresServer(teacher).start()
    gone.stop()
    served = serve(gone, patience=0.5)
    with pytest.raises(InputError, match=r"no teacher at http.* has answered for .*; start one there") as caught:
        step(DistillationStage(student, served, OBJECTIVE), hear(student, served))
    assert "\n" not in str(caught.value)


def test_a_refused_request_is_not_sent_again(student, teacher, hear, serve, caplog):
    small = ScoresServer(teacher, max_logprobs=5).start()
    try:
        served = serve(small)
        with pytest.raises(InputError, match="refuses with 400: Requested prompt logprobs"):
            served.answer(questions_of(teacher, hear(served), served)[0], 8)
    finally:
        small.stop()
    assert small.asked == 1
    assert not caplog.records


@pytest.mark.parametrize("change", [{"support": "full"}, {"tail": "bucket"}, {"upstream_scores": True}])
def test_an_objective_that_needs_every_score_is_refused(student, server, serve, change):
    with pytest.raises(InputError, match="scores that a served teacher does not give"):
        DistillationStage(student, serve(server), OBJECTIVE.model_copy(update=change))


def test_the_scores_that_are_asked_for_by_name_are_those_of_the_teacher(teacher, hear, server, serve):
    served = serve(server)
    for question in questions_of(teacher, hear(served), served):
        scores = served.answer(question, 8)
        features = teacher.features(question.heard.numpy())
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
    without = load_without_weights(tmp_path)
    served = serve(server)
    served.recognizer = without
    questions = questions_of(without, hear(served), served)
    assert check_servers([served], teacher, questions, 8, 1e-5) < 1e-5
    assert check_servers([served], None, questions, 8, 1e-5) < 1e-5


def test_the_self_test_stops_at_other_weights_and_at_another_prompt(teacher, hear, server, serve):
    served = serve(server)
    questions = questions_of(teacher, hear(served), served)
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other.decoder.layers[0].mlp.down_proj.weight.mul_(1.1)
    other_server = ScoresServer(other).start()
    try:
        with pytest.raises(InputError, match=r"up to .* from the teacher's own, more than `served.tolerance`"):
            check_servers([serve(other_server)], teacher, questions, 8, 1e-3)
        with pytest.raises(InputError, match=f"from those of {server.url}"):
            check_servers([served, serve(other_server)], None, questions, 8, 1e-3)
    finally:
        other_server.stop()
    answer = server.answer
    server.answer = lambda request: (200, answer(request)[1] | {"prompt_token_ids": [1, 2, 3]})
    with pytest.raises(InputError, match="it reads another prompt"):
        check_servers([served], teacher, questions, 8, 1e-3)


def questions_of(recognizer, examples, served):
    return [
        trial_question(
            recognizer,
            example.features[served.listener].numpy(),
            example.utterance.language,
            example.utterance.text,
            named=9,
        )
        for example in itertools.islice(examples, 3)
    ]
