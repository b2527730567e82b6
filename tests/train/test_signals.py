"""Stop signals during training, and what is lost: nothing."""

import signal
import time

import pytest

from arkasr.errors import Interrupted
from arkasr.train.loop import train
from arkasr.train.signals import StopSignals
from arkasr.train.stages.sft import SupervisedStage
from tests.train.runs import SETTINGS, KilledError, assert_weights, kill_at, logged, losses, weights_of
from tests.train.stream import Stream


class SignallingStream(Stream):
    """Raises a signal before it yields the batch of the third step."""

    def __init__(self, batches, number):
        super().__init__(batches)
        self.number = number

    def __iter__(self):
        for index, batch in enumerate(super().__iter__()):
            if index == 2:
                signal.raise_signal(self.number)
            yield batch


@pytest.fixture
def interruptible():
    """Python's Ctrl-C handler, which a shell disables for background jobs."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signalled_run_stops_after_a_checkpoint_and_resumes_to_the_same_bits(
    student, noise_examples, tmp_path, number
):
    examples = noise_examples(student)
    batches = [examples[:2], examples[2:], examples[1:4]]
    start = weights_of(student)
    train(SupervisedStage(student, None), Stream(batches), SETTINGS, tmp_path / "undisturbed", seed=3)
    expected = weights_of(student)

    student.model.load_state_dict(start)
    handler = signal.getsignal(number)
    folder = tmp_path / "stopped"
    with pytest.raises(Interrupted, match="stopped after step 3") as caught:
        train(SupervisedStage(student, None), SignallingStream(batches, number), SETTINGS, folder, seed=3)
    assert caught.value.signal == number
    assert signal.getsignal(number) is handler
    assert (folder / "checkpoints" / "step-3").exists()
    train(SupervisedStage(student, None), Stream(batches), SETTINGS, folder, seed=3)
    assert_weights(student, expected)
    assert losses(folder) == losses(tmp_path / "undisturbed")


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_takes_effect_at_once(monkeypatch):
    monkeypatch.setattr("arkasr.train.signals.SECOND_CTRL_C_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second Ctrl-C was only recorded")


@pytest.mark.usefixtures("interruptible")
def test_a_signal_after_the_last_step_is_not_lost(student, noise_examples, tmp_path):
    def signal_after_last(step, _metrics):
        if step == SETTINGS.steps:
            signal.raise_signal(signal.SIGINT)

    stream = Stream([noise_examples(student)])
    with pytest.raises(KeyboardInterrupt):
        train(SupervisedStage(student, None), stream, SETTINGS, tmp_path, seed=0, on_step=signal_after_last)
    assert (tmp_path / "checkpoints" / "step-6").exists()


@pytest.mark.parametrize("when", ["before the evaluation", "during the evaluation"])
def test_a_stopped_run_begins_no_evaluation_and_a_resumed_one_makes_up_for_it(student, noise_examples, tmp_path, when):
    settings = SETTINGS.model_copy(update={"evaluate_every": 3})
    examples = noise_examples(student)
    evaluations = []

    def run(folder, stream, evaluate, on_step=None):
        train(SupervisedStage(student, None), stream, settings, folder, seed=3, evaluate=evaluate, on_step=on_step)

    def evaluate():
        evaluations.append(1)
        return {"dev/error_rate": float(sum(value.sum() for value in student.model.state_dict().values()))}

    def evaluate_and_signal():
        signal.raise_signal(signal.SIGTERM)
        return evaluate()

    start = weights_of(student)
    run(tmp_path / "undisturbed", Stream([examples]), evaluate)

    student.model.load_state_dict(start)
    evaluations.clear()
    folder = tmp_path / "stopped"
    early = when == "before the evaluation"
    stream = SignallingStream([examples], signal.SIGTERM) if early else Stream([examples])
    with pytest.raises(Interrupted, match="stopped after step 3"):
        run(folder, stream, evaluate if early else evaluate_and_signal)
    assert len(evaluations) == (0 if early else 1)
    with pytest.raises(KilledError):  # the resumed run is killed after its first step, and resumed once more
        run(folder, Stream([examples]), evaluate, on_step=kill_at(4))
    run(folder, Stream([examples]), evaluate)
    names = ("step", "loss", "dev/error_rate")
    assert logged(folder, *names) == logged(tmp_path / "undisturbed", *names)
