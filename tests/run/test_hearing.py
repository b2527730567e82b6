"""Stages whose student hears degraded recordings, from a recipe to the losses."""

import itertools
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

from arkasr.data.audio import decode_audio
from arkasr.data.manifests.manifest import read_manifest
from arkasr.errors import InputError
from arkasr.recipe.load import parse
from arkasr.recipe.settings import Recipe
from arkasr.recipe.settings.continuation import seed_of_order
from arkasr.run.batches import build_stream
from arkasr.run.context import RunContext
from arkasr.run.folder import RunFolder
from arkasr.run.hearing import examples_of
from arkasr.run.inputs import Inputs
from arkasr.run.stages import build_stage, run_calibration
from arkasr.teacher.served import ServedTeacher
from arkasr.train.loop import train
from arkasr.train.stages.opd import DistillationStage
from tests.models import TEXTS, small_student, small_teacher, small_vocabulary
from tests.train.copy_engine import CopyEngine
from tests.train.runs import assert_weights, kill_at, killed, losses, weights_of

UTTERANCES = 9
STEP = {"steps": 5, "batch_seconds": 2.5, "accumulation": 2, "learning_rate": 1e-3, "checkpoint_every": 2}
OBJECTIVE = {"top_k": 8, "max_new_tokens": 6}
EVERYTHING = {
    effect: {"probability": 0.7} for effect in ("speed", "reverberation", "noise", "level", "telephone", "codec")
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine utterances of noise, and the models."""
    folder = tmp_path_factory.mktemp("hearing")
    vocabulary = small_vocabulary()
    small_student(vocabulary).save(folder / "base")
    small_teacher(vocabulary).save(folder / "teacher")
    generator = np.random.default_rng(0)
    rows = []
    for index in range(UTTERANCES):
        seconds = 0.5 + 0.1 * index
        soundfile.write(folder / f"{index}.wav", generator.normal(size=int(seconds * 16_000)) * 0.1, 16_000)
        rows.append({"audio": f"{index}.wav", "text": TEXTS[index % 2], "language": "en", "duration": seconds})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    """Data workers compute with one thread, and other numbers of threads may round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Session:
    """One process of a run, with a stage of its own."""

    def __init__(self, folder, output, *, stage="opd", degradation=EVERYTHING, teacher="teacher", sets=None, **step):
        kinds = {
            "ctc": {"kind": "ctc", "train": "L"},
            "sft": {"kind": "sft", "train": "L"},
            "opd": {"kind": "opd", "train": "L", "teacher": teacher, "objective": OBJECTIVE, "calibration_batches": 2},
        }
        common = {"start": "base", "optimization": STEP | step, "degradation": degradation}
        document = {
            "name": "hearing",
            "corpus": {"folder": str(folder)},
            "sets": {"L": {"manifest": "train.jsonl"}, "few": {"manifest": "few.jsonl"}} | (sets or {}),
            "models": {name: {"pretrained": str(folder / name)} for name in ("base", "teacher")},
            "stages": {name: kind | common for name, kind in kinds.items()},
        }
        recipe = parse(Recipe, document, "test")
        self.name, self.settings, self.folder = stage, recipe.stages[stage], output / stage
        self.context = RunContext(recipe, RunFolder(output, 0), torch.device("cpu"))
        self.student = self.context.recognizer("base", 0)
        self.stage = build_stage(self.context, self.student, self.settings, 0)
        self.seed = seed_of_order(recipe, stage, 0)

    def stream(self, rank=0, world_size=1):
        return build_stream(self.context, self.stage, self.name, 0, rank=rank, world_size=world_size)

    def train(self, killed_at=None):
        with killed():
            train(
                self.stage, self.stream(), self.settings.optimization, self.folder, seed=self.seed,
                on_step=kill_at(killed_at),
            )  # fmt: skip
        return losses(self.folder)


def read(stream, batches):
    """The examples of the first batches, by utterance and epoch."""
    examples, epochs = {}, {}
    for example in itertools.chain(*itertools.islice(stream, batches)):
        epoch = epochs[example.utterance.id] = epochs.get(example.utterance.id, -1) + 1
        examples[example.utterance.id, epoch] = example
    return examples


def assert_equal_batches(found, expected):
    for batch, other in zip(found, expected, strict=True):
        assert [example.utterance.id for example in batch] == [example.utterance.id for example in other]
        for one, two in zip(batch, other, strict=True):
            assert all(torch.equal(features, two.features[name]) for name, features in one.features.items())


@pytest.mark.parametrize("teacher", ["teacher", "base"])
def test_the_teacher_hears_the_recordings_and_the_student_other_noise_in_every_epoch(folder, tmp_path, teacher):
    """The teacher `base` has the student's frontend."""
    session = Session(folder, tmp_path, teacher=teacher)
    student, teacher = session.student, session.stage.teacher
    assert (student.frontend == teacher.frontend) == (session.settings.teacher == "base")
    epochs = {}
    for (name, epoch), example in read(session.stream(), 30).items():
        waveform = decode_audio(example.utterance.audio)
        assert torch.equal(example.features[teacher.frontend], teacher.features(waveform))
        clean, heard = student.features(waveform), example.heard_by_student(student.frontend)
        epochs.setdefault(name, []).append(heard)
        if epoch == 0:
            assert not torch.equal(heard, clean)
    assert len(epochs) == UTTERANCES
    assert all(not torch.equal(*heard[:2]) for heard in epochs.values())
    assert session.context.feature_cache.get(teacher.frontend, example.utterance, pytest.fail) is not None


def test_a_recording_without_an_effect_is_heard_as_it_is_and_its_features_are_computed_once(folder, tmp_path):
    never = {"noise": {"probability": 0}}
    for teacher in ("teacher", "base"):
        session = Session(folder, tmp_path, teacher=teacher, degradation=never)
        calls, features = [], session.student.features
        session.student.features = lambda waveform, features=features, calls=calls: (
            calls.append(1) or features(waveform)
        )
        student = session.student.frontend
        examples = read(session.stream(), 30)
        assert len({epoch for _, epoch in examples}) > 1
        for example in examples.values():
            assert torch.equal(
                example.heard_by_student(student), session.student.features(decode_audio(example.utterance.audio))
            )
        # Once by each frontend in the first epoch; the check above makes one more call per example.
        assert len(calls) - len(examples) == (0 if teacher == "base" else UTTERANCES)


@pytest.mark.parametrize("stage", ["sft", "opd"])
def test_degraded_features_are_never_cached(folder, tmp_path, stage):
    session = Session(folder, tmp_path, stage=stage, teacher="base")
    read(session.stream(), 30)
    clean = examples_of(session.stage, read_manifest(folder / "train.jsonl"), None, session.context.feature_cache)
    for index in range(UTTERANCES):
        waveform = decode_audio(folder / f"{index}.wav")
        assert torch.equal(clean[index].features[session.student.frontend], session.student.features(waveform))


def test_a_served_teacher_receives_the_recording_and_not_what_the_student_hears(folder, tmp_path):
    session = Session(folder, tmp_path)
    served = ServedTeacher(session.stage.teacher.recognizer, replicas=None)
    session.stage = DistillationStage(session.student, served, session.stage.settings)
    for example in read(session.stream(), 10).values():
        recording = decode_audio(example.utterance.audio)
        np.testing.assert_array_equal(example.features[served.frontend].numpy(), recording)
        heard, clean = example.heard_by_student(session.student.frontend), session.student.features(recording)
        assert not torch.equal(heard, clean)


@pytest.mark.parametrize("teacher", ["teacher", "base"])
def test_the_loss_compares_a_student_of_degraded_with_a_teacher_of_clean_recordings(folder, tmp_path, teacher):
    session = Session(folder, tmp_path, teacher=teacher)
    stage, student = session.stage, session.student
    batch = next(iter(session.stream()))
    requests, prompts = [], []
    submit, rollouts = stage.teacher.submit, stage.rollouts.write
    stage.teacher.submit = lambda some, *more: requests.extend(some) or submit(some, *more)
    stage.rollouts.write = lambda *arguments: prompts.append(arguments[0]) or rollouts(*arguments)
    assert stage(batch, seed=0).count > 0
    for request, example in zip(requests, batch, strict=True):
        assert torch.equal(request.audio, example.features[stage.teacher.frontend])
    heard = [example.heard_by_student(student.frontend) for example in batch]
    expected = student.prompts(heard, [example.utterance.language for example in batch])
    assert prompts[0].audio_lengths == expected.audio_lengths
    for name, tensor in expected.audio.items():
        assert torch.equal(prompts[0].audio[name], tensor)


@pytest.mark.parametrize("stage", ["ctc", "sft", "opd"])
def test_a_killed_and_resumed_run_ends_with_the_bits_of_an_undisturbed_one(folder, tmp_path, stage):
    undisturbed = Session(folder, tmp_path / "undisturbed", stage=stage)
    expected = undisturbed.train()
    Session(folder, tmp_path / "killed", stage=stage).train(killed_at=3)
    resumed = Session(folder, tmp_path / "killed", stage=stage)
    assert resumed.train() == expected
    assert_weights(resumed.student, weights_of(undisturbed.student))
    clean = Session(folder, tmp_path / "clean", stage=stage, degradation=None)
    assert clean.train() != expected


def test_data_workers_do_not_change_the_losses(folder, tmp_path):
    expected = Session(folder, tmp_path / "0").train()
    assert Session(folder, tmp_path / "2", data_workers=2).train() == expected


def test_the_number_of_processes_does_not_change_what_is_heard(folder, tmp_path):
    session = Session(folder, tmp_path)
    expected = list(itertools.islice(session.stream(), 24))
    for rank in range(2):
        assert_equal_batches(itertools.islice(session.stream(rank, 2), 12), expected[rank::2])


def test_a_resumed_stream_hears_the_epoch_in_which_it_was_stopped(folder, tmp_path):
    session = Session(folder, tmp_path)
    expected = list(itertools.islice(session.stream(), 26))
    interrupted, resumed = session.stream(), session.stream()
    list(itertools.islice(interrupted, 16))
    resumed.restore(json.loads(json.dumps(interrupted.state())))
    assert_equal_batches(itertools.islice(resumed, 10), expected[16:])


def test_calibration_hears_the_degradation(folder, tmp_path):
    losses_of = {}
    for name, degradation in (("degraded", EVERYTHING), ("again", EVERYTHING), ("clean", None)):
        session = Session(folder, tmp_path, degradation=degradation)
        losses_of[name] = run_calibration(session.context, session.stage, "opd", 0).metrics["loss"]
    assert losses_of["degraded"] == losses_of["again"] != losses_of["clean"]


def test_rollouts_that_were_pending_at_a_kill_are_those_of_the_same_noise(folder, tmp_path):
    """With staleness, a checkpoint holds rollouts of coming steps. They stay right only for the same recording."""

    def run(output, killed_at=None):
        session = Session(folder, output)
        session.stage.rollouts.engine = CopyEngine(session.student)
        rollouts = session.stage.settings.rollouts.model_copy(update={"engine": "vllm", "staleness": 1})
        session.stage.rollouts.settings = session.stage.settings.model_copy(update={"rollouts": rollouts})
        found = session.train(killed_at)
        session.stage.close()
        return found

    expected = run(tmp_path / "undisturbed")
    run(tmp_path / "killed", killed_at=3)
    assert run(tmp_path / "killed") == expected


def test_slow_utterances_keep_the_budget_of_a_batch(folder, tmp_path):
    slow = {"speed": {"probability": 1, "factor": [0.5, 0.5]}}
    session = Session(folder, tmp_path, degradation=slow)
    batches = list(itertools.islice(session.stream(), 20))
    frames = [[e.heard_by_student(session.student.frontend).shape[1] for e in batch] for batch in batches]
    assert max(max(batch) * len(batch) for batch in frames) <= 2.5 * 100
    teacher = session.stage.teacher.frontend
    for example, heard in zip(itertools.chain(*batches), itertools.chain(*frames), strict=True):
        assert heard == pytest.approx(min(2 * example.utterance.duration, 2.5) * 100, abs=1)
        assert example.features[teacher].shape[1] == pytest.approx(example.utterance.duration * 100, abs=1)
    faster = Session(folder, tmp_path, degradation={"speed": {"probability": 1, "factor": [1.0, 1.5]}}).stream()
    plain = Session(folder, tmp_path, degradation=None).stream()
    for batch, other in itertools.islice(zip(faster, plain, strict=False), 20):
        assert [e.utterance.id for e in batch] == [e.utterance.id for e in other]


def test_slow_utterances_fit_into_the_window_of_whisper(folder, tmp_path, short_whisper):
    data = tmp_path / "data"
    shutil.copytree(folder, data, ignore=shutil.ignore_patterns("base"))
    short_whisper.save(data / "base")
    slow = {"speed": {"probability": 1, "factor": [0.5, 0.5]}}
    session = Session(data, tmp_path / "run", degradation=slow)
    stream = session.stream()
    for example in itertools.chain(*itertools.islice(stream, 20)):
        frames = example.heard_by_student(session.student.frontend).shape[1]
        assert frames == pytest.approx(min(2 * example.utterance.duration, 2.0) * 100, abs=3)
    assert stream.take_unreadable() == []


def test_voices_and_noise_come_from_the_given_sets(folder, tmp_path):
    noise = {"probability": 1, "kinds": ["babble", "recorded"], "voices": "V", "recordings": "N"}
    for name, subset in (("voices", range(4)), ("noise", (8,))):
        rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        rows = [rows[index] | {"audio": str(folder / rows[index]["audio"])} for index in subset]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = {"V": {"manifest": "voices.jsonl"}, "N": {"manifest": "noise.jsonl"}}
    session = Session(folder, tmp_path, degradation={"noise": noise}, sets=sets)
    session.train()
    inputs = Inputs(session.context)
    inputs.check_stage("opd")
    inputs.record()
    assert json.loads(inputs.path.read_text())["sets"].keys() == {"L", "V", "N"}


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"voices": "few"}, "set few has 3 utterances, and `babble` needs at least 4; name a larger set as `voices`"),
        (
            {"kinds": ["recorded"], "recordings": "broken"},
            r"set broken: \S*text.wav: not audio that can be read .*; convert the file or leave it out",
        ),
    ],
)
def test_a_set_of_sounds_that_cannot_be_used_is_refused_at_the_start(folder, tmp_path, noise, message):
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "broken.jsonl").write_text('{"audio": "text.wav"}\n')
    sets = {"broken": {"manifest": str(tmp_path / "broken.jsonl")}}
    session = Session(folder, tmp_path, degradation={"noise": {"probability": 1} | noise}, sets=sets)
    with pytest.raises(InputError, match=f"^degradation.noise: {message}"):
        session.stream()


def test_a_noise_recording_that_breaks_later_ends_the_run_and_no_utterance_is_quarantined(folder, tmp_path):
    """Its manifest gives a duration, so that its file is first read when it is used."""
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "broken.jsonl").write_text('{"audio": "text.wav", "duration": 3}\n')
    noise = {"probability": 1, "kinds": ["recorded"], "recordings": "broken"}
    sets = {"broken": {"manifest": str(tmp_path / "broken.jsonl")}}
    for workers in (0, 1):
        session = Session(folder, tmp_path, degradation={"noise": noise}, sets=sets, data_workers=workers)
        stream = session.stream()
        with pytest.raises(InputError, match=r"^degradation.noise: \S*text.wav: not audio that can be read [^\n]*$"):
            next(iter(stream))
        assert stream.take_unreadable() == []
