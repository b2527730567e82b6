"""Servers that fail, and what that costs who asks them."""

import base64
import io
import re
import threading
import time

import numpy as np
import pytest
import torch

from arkasr.errors import InputError
from arkasr.train.stages.opd import DistillationStage
from tests.teacher.asking import OBJECTIVE, answer_of, questions_of, step, trusted
from tests.teacher.scores_server import ScoresServer


def without_scores(answer):
    """What vLLM answers to a request that it drops when it is stopped: success, and nothing in it."""
    return answer | {"prompt_logprobs": None, "prompt_token_id_logprobs": None}


def with_few_places(answer):
    return answer | {"prompt_logprobs": answer["prompt_logprobs"][:-2]}


def with_a_place_too_many(answer):
    return answer | {"prompt_logprobs": [None, *answer["prompt_logprobs"]]}


def with_few_tokens(answer):
    *before, last = answer["prompt_logprobs"]
    return answer | {"prompt_logprobs": [*before, dict(list(last.items())[:3])]}


def with_what_is_no_number(answer):
    *before, last = answer["prompt_logprobs"]
    return answer | {"prompt_logprobs": [*before, {token: {"logprob": float("nan")} for token in last}]}


def with_a_strange_token(answer):
    *before, last = answer["prompt_logprobs"]
    return answer | {"prompt_logprobs": [*before, last | {"99999": {"logprob": -1.0}}]}


def with_an_empty_file(answer):
    return answer | {"prompt_token_id_logprobs": ""}


def with_a_row_too_many(answer):
    named = np.load(io.BytesIO(base64.b64decode(answer["prompt_token_id_logprobs"])))
    file = io.BytesIO()
    np.save(file, np.concatenate((named, named[:1])))
    return answer | {"prompt_token_id_logprobs": base64.b64encode(file.getvalue()).decode()}


def with_a_cut_file(answer):
    named = answer["prompt_token_id_logprobs"]
    return answer | {"prompt_token_id_logprobs": named[: len(named) // 8 * 4]}


def with_nothing(_answer):
    return {}


def with_a_list(_answer):
    return []


UNUSABLE = [
    without_scores,
    with_few_places,
    with_a_place_too_many,
    with_few_tokens,
    with_what_is_no_number,
    with_a_strange_token,
    with_an_empty_file,
    with_a_row_too_many,
    with_a_cut_file,
    with_nothing,
    with_a_list,
]


def test_a_server_that_refuses_errs_hangs_and_drops_costs_time_and_no_answer(student, teacher, hear, server, serve):
    served = serve(server, timeout=1.0)
    examples = hear(student, teacher, served)
    expected, _ = step(DistillationStage(student, served, OBJECTIVE), examples)
    for faults in ([503, "drop", 500], ["hang", 429], ["cut"]):
        server.faults = list(faults)
        found, _ = step(DistillationStage(student, served, OBJECTIVE), examples)
        assert not server.faults
        assert torch.equal(found.total, expected.total)


@pytest.mark.parametrize("fault", [*UNUSABLE, 400, 404])
def test_a_trusted_server_that_is_stopped_and_answers_badly_costs_time_and_no_answer(
    teacher, hear, server, serve, fault
):
    served = serve(server)
    question = questions_of(teacher, hear(served), served)[0]
    trusted(served, teacher, [question])
    expected = answer_of(served, question)
    server.faults = [fault]
    found = answer_of(served, question)
    assert not server.faults
    assert torch.equal(found.log_probs, expected.log_probs)
    assert torch.equal(found.top.ids, expected.top.ids)


@pytest.mark.parametrize("fault", UNUSABLE)
def test_a_server_that_never_gave_scores_is_told_of_at_once(teacher, hear, server, serve, fault):
    served = serve(server)
    question = questions_of(teacher, hear(served), served)[0]
    server.faults = [lambda answer: answer, *[fault] * 20]  # the first one tells how it reads the prompt
    with pytest.raises(InputError, match=f"teacher {server.url} answers without the scores asked for .*vLLM before"):
        trusted(served, teacher, [question])
    assert server.asked == 2


def test_a_server_that_dies_and_returns_costs_time_and_no_answer(student, teacher, hear, server, serve, caplog):
    served = serve(server)
    examples = hear(student, teacher, served)
    stage = DistillationStage(student, served, OBJECTIVE)
    expected, _ = step(stage, examples)
    server.stop()
    back = threading.Timer(1.0, server.start)
    back.start()
    started = time.monotonic()
    found, _ = step(stage, examples)
    assert time.monotonic() - started > 1.0
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, told
    assert "is set aside (ConnectError" in told[0]
    assert "answers again" in told[1]
    assert torch.equal(found.total, expected.total)


def test_a_dead_replica_gets_no_request_until_it_has_returned(teacher, hear, server, second_server, serve):
    served = serve(second_server, server)
    question = questions_of(teacher, hear(served), served)[0]
    trusted(served, teacher, [question])
    second_server.stop()
    before = server.asked
    for _ in range(12):
        answer_of(served, question)
    assert server.asked == before + 12
    second_server.start()
    asked = second_server.asked
    until(lambda: served.replicas.replicas[0].up)
    assert second_server.asked == asked + 1  # the trial
    for _ in range(12):
        answer_of(served, question)
    assert second_server.asked > asked + 1


def test_a_hung_replica_holds_up_one_step_and_no_other(teacher, hear, server, second_server, serve):
    served = serve(server, second_server, timeout=2.0)
    question = questions_of(teacher, hear(served), served)[0]
    trusted(served, teacher, [question])
    second_server.awake.clear()
    seconds = []
    for _ in range(4):
        started = time.monotonic()
        asked(served, [question] * 4)
        seconds.append(time.monotonic() - started)
    second_server.awake.set()
    assert seconds[0] > 2.0
    assert max(seconds[1:]) < 2.0, seconds


def test_a_request_does_not_wait_for_a_server_that_takes_no_more(
    teacher, hear, server, second_server, serve, monkeypatch
):
    monkeypatch.setattr("arkasr.teacher.replicas.WATCH_SECONDS", 0.1)
    served = serve(server, second_server)
    question = questions_of(teacher, hear(served), served)[0]
    expected = asked(served, [question] * 4)
    second_server.awake.clear()
    answer = served.ask([question] * 4, 8, torch.device("cpu"))
    until(lambda: second_server.busy)
    second_server.stop()  # no new connections; those that are there stay, and hang
    started = time.monotonic()
    assert torch.equal(answer(lambda: False).log_probs, expected.log_probs)
    assert time.monotonic() - started < 5.0
    second_server.awake.set()


def test_a_replica_that_returns_with_other_weights_is_not_asked(
    teacher, hear, server, second_server, other_server, serve, caplog
):
    served = serve(server, second_server)
    question = questions_of(teacher, hear(served), served)[0]
    trusted(served, teacher, [question])
    expected = answer_of(served, question)
    second_server.stop()
    while all(replica.up for replica in served.replicas.replicas):  # servers are drawn by lot
        assert torch.equal(answer_of(served, question).log_probs, expected.log_probs)
    second_server.recognizer = other_server.recognizer
    second_server.start()
    until(lambda: "log-probabilities are up to" in caplog.text)
    for _ in range(8):
        assert torch.equal(answer_of(served, question).log_probs, expected.log_probs)
    told = [record.getMessage() for record in caplog.records]
    assert re.search(f"teacher {second_server.url}: .*from the teacher's own", told[-1])
    second_server.recognizer = teacher
    until(lambda: all(replica.up for replica in served.replicas.replicas))


def test_one_of_two_servers_dies_and_the_losses_are_those_of_both(student, teacher, hear, server, second_server, serve):
    served = serve(server, second_server)
    examples = hear(student, teacher, served)
    trusted(served, teacher, questions_of(teacher, examples, served))
    stage = DistillationStage(student, served, OBJECTIVE)
    expected, _ = step(stage, examples)
    second_server.delay = 0.3  # so that it dies with requests in hand
    threading.Timer(0.1, lambda: (setattr(second_server, "delay", 0.0), second_server.stop())).start()
    for _ in range(3):
        found, _ = step(stage, examples)
        assert torch.equal(found.total, expected.total)


def test_no_server_has_more_requests_than_it_may(teacher, hear, server, second_server, serve):
    server.delay = second_server.delay = 0.05
    served = serve(server, second_server, in_flight=2)
    question = questions_of(teacher, hear(served), served)[0]
    assert len(asked(served, [question] * 12).ids) == 12 * len(question.transcript)
    for one in (server, second_server):
        assert one.busiest <= 2
        assert one.answered >= 4


def test_a_run_stops_with_one_line_when_no_server_answers(student, teacher, hear, serve):
    gone = ScoresServer(teacher).start()
    gone.stop()
    served = serve(gone, patience=0.5)
    with pytest.raises(InputError, match=r"no teacher at http.* has answered for .*; start one there") as caught:
        step(DistillationStage(student, served, OBJECTIVE), hear(student, served))
    assert "\n" not in str(caught.value)


def test_a_refused_request_is_not_sent_again_before_the_servers_are_trusted(teacher, hear, server, serve, caplog):
    server.max_logprobs = 5
    served = serve(server)
    with pytest.raises(InputError, match=r"refuses with 400: Requested prompt logprobs of .*see --max-logprobs"):
        answer_of(served, questions_of(teacher, hear(served), served)[0])
    assert server.asked == 1
    assert not caplog.records


def test_a_request_that_a_trusted_server_always_refuses_ends_the_run(teacher, hear, server, second_server, serve):
    served = serve(server, second_server)
    small, large = questions_of(teacher, hear(served), served)[:2]
    trusted(served, teacher, [small])
    server.max_logprobs = second_server.max_logprobs = 30
    with pytest.raises(InputError, match=r"refuses with 400: Requested prompt logprobs of .*see --max-logprobs"):
        answer_of(served, large, top_k=40)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "set VLLM_API_KEY here to the key of the server"),
        (403, "set VLLM_API_KEY here to the key of the server"),
        (404, "start it with --enable-scale-out, and let `served.model` be the name that it serves"),
    ],
)
def test_a_refusal_names_the_server_and_says_what_to_do(teacher, hear, server, second_server, serve, status, remedy):
    served = serve(server, second_server)
    second_server.faults = [status] * 9
    with pytest.raises(InputError, match=f"^teacher {second_server.url} refuses with {status}: .*; {remedy}$"):
        trusted(served, teacher, questions_of(teacher, hear(served), served))


def test_the_key_of_the_servers_is_that_of_the_environment(teacher, hear, server, serve, monkeypatch):
    server.key = "secret"
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    served = serve(server)
    answer_of(served, questions_of(teacher, hear(served), served)[0])
    assert server.answered == 1


def test_who_waits_for_a_teacher_that_does_not_answer_may_stop_at_any_time(teacher, hear, server, serve):
    served = serve(server)
    question = questions_of(teacher, hear(served), served)[0]
    expected = asked(served, [question])
    server.awake.clear()
    answer = served.ask([question], 8, torch.device("cpu"))
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    assert answer(stop.is_set) is None
    assert 0.3 <= time.monotonic() - started < 2.0
    server.awake.set()
    assert torch.equal(asked(served, [question]).log_probs, expected.log_probs)


def test_a_closed_teacher_leaves_nothing_behind_and_waits_for_nobody(teacher, hear, server, serve):
    before = set(threading.enumerate())
    served = serve(server)
    server.awake.clear()
    served.ask(questions_of(teacher, hear(served), served), 8, torch.device("cpu"))
    until(lambda: server.busy)
    started = time.monotonic()
    served.close()
    assert time.monotonic() - started < 1.0
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "teacher"]
    served.close()
    server.awake.set()


def asked(served, questions):
    """The joined answers to some questions at once."""
    return served.ask(questions, 8, torch.device("cpu"))(lambda: False)


def until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
