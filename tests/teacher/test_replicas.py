"""Failing servers: what their failures cost, and which requests are retried."""

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
from tests.teacher.requests import OBJECTIVE, requests_of, scores_of, self_tested, step
from tests.teacher.scores_server import ScoresServer


def without_scores(response):
    """How vLLM responds to a pending request when it is stopped: with success and without scores."""
    return response | {"prompt_logprobs": None, "prompt_token_id_logprobs": None}


def with_two_positions_missing(response):
    return response | {"prompt_logprobs": response["prompt_logprobs"][:-2]}


def with_an_extra_position(response):
    return response | {"prompt_logprobs": [None, *response["prompt_logprobs"]]}


def with_three_tokens(response):
    *before, last = response["prompt_logprobs"]
    return response | {"prompt_logprobs": [*before, dict(list(last.items())[:3])]}


def with_nan_scores(response):
    *before, last = response["prompt_logprobs"]
    return response | {"prompt_logprobs": [*before, {token: {"logprob": float("nan")} for token in last}]}


def with_a_token_outside_the_vocabulary(response):
    *before, last = response["prompt_logprobs"]
    return response | {"prompt_logprobs": [*before, last | {"99999": {"logprob": -1.0}}]}


def with_an_empty_array(response):
    return response | {"prompt_token_id_logprobs": ""}


def with_an_extra_row(response):
    named = np.load(io.BytesIO(base64.b64decode(response["prompt_token_id_logprobs"])))
    file = io.BytesIO()
    np.save(file, np.concatenate((named, named[:1])))
    return response | {"prompt_token_id_logprobs": base64.b64encode(file.getvalue()).decode()}


def with_a_truncated_array(response):
    named = response["prompt_token_id_logprobs"]
    return response | {"prompt_token_id_logprobs": named[: len(named) // 8 * 4]}


def with_an_empty_object(_response):
    return {}


def with_a_list(_response):
    return []


INVALID = [
    without_scores,
    with_two_positions_missing,
    with_an_extra_position,
    with_three_tokens,
    with_nan_scores,
    with_a_token_outside_the_vocabulary,
    with_an_empty_array,
    with_an_extra_row,
    with_a_truncated_array,
    with_an_empty_object,
    with_a_list,
]


def test_errors_timeouts_and_dropped_connections_lose_no_scores(student, teacher, noise_examples, server, serve):
    served = serve(server, timeout=1.0)
    examples = noise_examples(student, teacher, served)
    expected, _ = step(DistillationStage(student, served, OBJECTIVE), examples)
    for faults in ([503, "drop", 500], ["hang", 429], ["cut"]):
        server.faults = list(faults)
        found, _ = step(DistillationStage(student, served, OBJECTIVE), examples)
        assert not server.faults
        assert torch.equal(found.total, expected.total)


@pytest.mark.parametrize("fault", [*INVALID, 400, 404])
def test_after_the_self_test_invalid_responses_and_rejections_are_retried(
    teacher, noise_examples, server, serve, fault
):
    served = serve(server)
    request = requests_of(teacher, noise_examples(served), served)[0]
    self_tested(served, teacher, [request])
    expected = scores_of(served, request)
    server.faults = [fault]
    found = scores_of(served, request)
    assert not server.faults
    assert torch.equal(found.log_probs, expected.log_probs)
    assert torch.equal(found.top.ids, expected.top.ids)


@pytest.mark.parametrize("fault", INVALID)
def test_an_invalid_response_in_the_self_test_ends_the_run_at_once(teacher, noise_examples, server, serve, fault):
    served = serve(server)
    request = requests_of(teacher, noise_examples(served), served)[0]
    server.faults = [lambda response: response, *[fault] * 20]  # the first request checks the prompt
    with pytest.raises(
        InputError, match=f"teacher {server.url} sends a response without the requested scores .*vLLM before"
    ):
        self_tested(served, teacher, [request])
    assert server.received == 2


def test_a_server_that_stops_and_restarts_loses_no_scores(student, teacher, noise_examples, server, serve, caplog):
    served = serve(server)
    examples = noise_examples(student, teacher, served)
    stage = DistillationStage(student, served, OBJECTIVE)
    expected, _ = step(stage, examples)
    server.stop()
    back = threading.Timer(1.0, server.start)
    back.start()
    started = time.monotonic()
    found, _ = step(stage, examples)
    assert time.monotonic() - started > 1.0
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == 2, logged
    assert "is unhealthy (ConnectError" in logged[0]
    assert "is healthy again" in logged[1]
    assert torch.equal(found.total, expected.total)


def test_a_stopped_replica_gets_no_requests_until_it_passes_the_probe(
    teacher, noise_examples, server, second_server, serve
):
    served = serve(second_server, server)
    request = requests_of(teacher, noise_examples(served), served)[0]
    self_tested(served, teacher, [request])
    second_server.stop()
    before = server.received
    for _ in range(12):
        scores_of(served, request)
    assert server.received == before + 12
    second_server.start()
    before_probe = second_server.received
    wait_until(lambda: served.replicas.replicas[0].healthy)
    assert second_server.received == before_probe + 1  # the probe
    for _ in range(12):
        scores_of(served, request)
    assert second_server.received > before_probe + 1


def test_a_hung_replica_delays_one_step_only(teacher, noise_examples, server, second_server, serve):
    served = serve(server, second_server, timeout=2.0)
    request = requests_of(teacher, noise_examples(served), served)[0]
    self_tested(served, teacher, [request])
    second_server.responsive.clear()
    seconds = []
    for _ in range(4):
        started = time.monotonic()
        all_scores(served, [request] * 4)
        seconds.append(time.monotonic() - started)
    second_server.responsive.set()
    assert seconds[0] > 2.0
    assert max(seconds[1:]) < 2.0, seconds


def test_a_pending_request_moves_on_when_its_server_fails_the_health_check(
    teacher, noise_examples, server, second_server, serve, monkeypatch
):
    monkeypatch.setattr("arkasr.teacher.replicas.HEALTH_CHECK_SECONDS", 0.1)
    served = serve(server, second_server)
    request = requests_of(teacher, noise_examples(served), served)[0]
    expected = all_scores(served, [request] * 4)
    second_server.responsive.clear()
    wait_for_scores = served.submit([request] * 4, 8, torch.device("cpu"))
    wait_until(lambda: second_server.active)
    second_server.stop()  # refuses new connections; open ones hang
    started = time.monotonic()
    assert torch.equal(wait_for_scores(lambda: False).log_probs, expected.log_probs)
    assert time.monotonic() - started < 5.0
    second_server.responsive.set()


def test_a_replica_that_restarts_with_other_weights_gets_no_requests(
    teacher, noise_examples, server, second_server, other_server, serve, caplog
):
    served = serve(server, second_server)
    request = requests_of(teacher, noise_examples(served), served)[0]
    self_tested(served, teacher, [request])
    expected = scores_of(served, request)
    second_server.stop()
    while all(replica.healthy for replica in served.replicas.replicas):  # until it gets a request
        assert torch.equal(scores_of(served, request).log_probs, expected.log_probs)
    second_server.recognizer = other_server.recognizer
    second_server.start()
    wait_until(lambda: "log-probabilities are up to" in caplog.text)
    for _ in range(8):
        assert torch.equal(scores_of(served, request).log_probs, expected.log_probs)
    logged = [record.getMessage() for record in caplog.records]
    assert re.search(f"teacher {second_server.url}: .*from the teacher's own", logged[-1])
    second_server.recognizer = teacher
    wait_until(lambda: all(replica.healthy for replica in served.replicas.replicas))


def test_losses_stay_equal_when_one_of_two_servers_stops(
    student, teacher, noise_examples, server, second_server, serve
):
    served = serve(server, second_server)
    examples = noise_examples(student, teacher, served)
    self_tested(served, teacher, requests_of(teacher, examples, served))
    stage = DistillationStage(student, served, OBJECTIVE)
    expected, _ = step(stage, examples)
    second_server.delay = 0.3  # it stops with pending requests
    threading.Timer(0.1, lambda: (setattr(second_server, "delay", 0.0), second_server.stop())).start()
    for _ in range(3):
        found, _ = step(stage, examples)
        assert torch.equal(found.total, expected.total)


def test_no_server_has_more_than_in_flight_requests(teacher, noise_examples, server, second_server, serve):
    server.delay = second_server.delay = 0.05
    served = serve(server, second_server, in_flight=2)
    request = requests_of(teacher, noise_examples(served), served)[0]
    assert len(all_scores(served, [request] * 12).ids) == 12 * len(request.transcript)
    for one in (server, second_server):
        assert one.max_active <= 2
        assert one.succeeded >= 4


def test_a_run_stops_with_one_line_when_no_server_responds(student, teacher, noise_examples, serve):
    gone = ScoresServer(teacher).start()
    gone.stop()
    served = serve(gone, patience=0.5)
    with pytest.raises(InputError, match=r"no teacher at http.* has answered for .*; start one there") as caught:
        step(DistillationStage(student, served, OBJECTIVE), noise_examples(student, served))
    assert "\n" not in str(caught.value)


def test_before_the_self_test_a_rejected_request_is_not_retried(teacher, noise_examples, server, serve, caplog):
    server.max_logprobs = 5
    served = serve(server)
    with pytest.raises(InputError, match=r"refuses with 400: Requested prompt logprobs of .*see --max-logprobs"):
        scores_of(served, requests_of(teacher, noise_examples(served), served)[0])
    assert server.received == 1
    assert not caplog.records


def test_a_request_that_is_always_rejected_ends_the_run(teacher, noise_examples, server, second_server, serve):
    served = serve(server, second_server)
    small, large = requests_of(teacher, noise_examples(served), served)[:2]
    self_tested(served, teacher, [small])
    server.max_logprobs = second_server.max_logprobs = 30
    with pytest.raises(InputError, match=r"refuses with 400: Requested prompt logprobs of .*see --max-logprobs"):
        scores_of(served, large, top_k=40)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "set VLLM_API_KEY here to the key of the server"),
        (403, "set VLLM_API_KEY here to the key of the server"),
        (404, "start it with --enable-scale-out, and set `served.model` to the name under which it serves the model"),
    ],
)
def test_a_rejection_names_the_server_and_the_remedy(
    teacher, noise_examples, server, second_server, serve, status, remedy
):
    served = serve(server, second_server)
    second_server.faults = [status] * 9
    with pytest.raises(InputError, match=f"^teacher {second_server.url} refuses with {status}: .*; {remedy}$"):
        self_tested(served, teacher, requests_of(teacher, noise_examples(served), served))


def test_the_api_key_comes_from_the_environment(teacher, noise_examples, server, serve, monkeypatch):
    server.key = "secret"
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    served = serve(server)
    scores_of(served, requests_of(teacher, noise_examples(served), served)[0])
    assert server.succeeded == 1


def test_a_stop_request_ends_the_wait_for_scores(teacher, noise_examples, server, serve):
    served = serve(server)
    request = requests_of(teacher, noise_examples(served), served)[0]
    expected = all_scores(served, [request])
    server.responsive.clear()
    wait_for_scores = served.submit([request], 8, torch.device("cpu"))
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    assert wait_for_scores(stop.is_set) is None
    assert 0.3 <= time.monotonic() - started < 2.0
    server.responsive.set()
    assert torch.equal(all_scores(served, [request]).log_probs, expected.log_probs)


def test_closing_ends_the_thread_without_waiting_for_responses(teacher, noise_examples, server, serve):
    before = set(threading.enumerate())
    served = serve(server)
    server.responsive.clear()
    served.submit(requests_of(teacher, noise_examples(served), served), 8, torch.device("cpu"))
    wait_until(lambda: server.active)
    started = time.monotonic()
    served.close()
    assert time.monotonic() - started < 1.0
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "teacher"]
    served.close()
    server.responsive.set()


def all_scores(served, requests):
    """The concatenated scores of simultaneous requests."""
    return served.submit(requests, 8, torch.device("cpu"))(lambda: False)


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
