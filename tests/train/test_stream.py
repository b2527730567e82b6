"""The stream of micro-batches, and the quarantine of unreadable utterances."""

import itertools
import json

import numpy as np
import pytest
import soundfile
import torch

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import ExampleDataset, FeatureCache
from arkasr.data.manifests.manifest import read_manifest
from arkasr.errors import InputError
from arkasr.train.quarantine import Quarantine
from arkasr.train.stream import BatchStream, UnreadableUtterance


@pytest.fixture
def utterances(tmp_path):
    generator = np.random.default_rng(0)
    rows = []
    for index in range(9):
        seconds = 0.3 + 0.1 * index
        soundfile.write(tmp_path / f"{index}.wav", generator.normal(size=int(seconds * 16_000)) * 0.1, 16_000)
        rows.append({"audio": f"{index}.wav", "duration": seconds})
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return read_manifest(tmp_path / "set.jsonl")


def stream(student, utterances, workers=0, memory=None, **options):
    dataset = ExampleDataset(utterances, {student.frontend: student.features}, memory)
    durations = [utterance.duration for utterance in utterances]
    return BatchStream(
        dataset, DurationBatchSampler(durations, max_audio_seconds=2.0, seed=5), workers=workers, **options
    )


def first(batches, count):
    batches = iter(batches)
    return [next(batches) for _ in range(count)]


def ids(batches):
    return [[example.utterance.id for example in batch] for batch in batches]


@pytest.mark.parametrize("other", ["workers", "memory"])
def test_workers_and_feature_memory_do_not_change_the_batches(student, utterances, other):
    plain = first(stream(student, utterances), 12)
    options = {"workers": 2} if other == "workers" else {"memory": FeatureCache()}
    again = first(stream(student, utterances, **options), 12)
    assert ids(again) == ids(plain)
    for left, right in zip(plain, again, strict=True):
        for a, b in zip(left, right, strict=True):
            # A worker computes with one thread, which rounds differently on some processors.
            torch.testing.assert_close(a.features[student.frontend], b.features[student.frontend], rtol=0, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_resumes_after_the_yielded_batches_not_after_those_read_ahead(student, utterances, workers):
    expected = ids(first(stream(student, utterances), 14))
    interrupted = stream(student, utterances, workers)
    assert ids(first(interrupted, 6)) == expected[:6]
    resumed = stream(student, utterances, workers)
    resumed.position = interrupted.position
    assert ids(first(resumed, 8)) == expected[6:]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_divide_the_batches_of_every_step(student, utterances, workers, world_size):
    steps = [ids(first(stream(student, utterances), 15))[start : start + 3] for start in range(0, 15, 3)]
    streams = [
        stream(student, utterances, workers, batches_per_step=3, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    rounds = -(-3 // world_size)
    read = [ids(first(of_rank, 5 * rounds)) for of_rank in streams]
    for number, step in enumerate(steps):
        dealt = [read[rank][number * rounds + turn] for turn in range(rounds) for rank in range(world_size)]
        assert dealt == step + [[]] * (len(dealt) - 3)
    assert len({of_rank.position for of_rank in streams}) == 1


def test_a_stream_resumes_on_another_number_of_processes(student, utterances):
    expected = ids(first(stream(student, utterances), 20))
    pair = [stream(student, utterances, batches_per_step=4, rank=rank, world_size=2) for rank in (0, 1)]
    for of_rank in pair:
        first(of_rank, 6)
    resumed = stream(student, utterances, batches_per_step=4)
    resumed.position = pair[0].position
    assert ids(first(resumed, 8)) == expected[12:]


def test_an_incomplete_step_is_repeated(student, utterances):
    expected = ids(first(stream(student, utterances), 12))
    interrupted = stream(student, utterances, batches_per_step=3)
    first(interrupted, 5)
    resumed = stream(student, utterances, batches_per_step=3)
    resumed.position = interrupted.position
    assert ids(first(resumed, 9)) == expected[3:]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_left_out_and_named_in_one_line(student, utterances, workers):
    utterances[4].audio.write_text("not audio")
    batches = stream(student, utterances, workers)
    read = set(itertools.chain(*ids(first(batches, 12))))
    assert len(read) == 8
    assert utterances[4].id not in read
    unreadable = batches.take_unreadable()
    assert {item.id for item in unreadable} == {utterances[4].id}
    assert "4.wav: not audio that can be read" in unreadable[0].reason
    assert "\n" not in unreadable[0].reason
    assert batches.take_unreadable() == []


def test_a_quarantine_appends_new_utterances_and_repairs_a_line_that_a_kill_cut_short(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    items = [UnreadableUtterance(f"{index}\u2028", f"{index}.wav: cut off") for index in range(4)]
    Quarantine(path, 100, 1.0).add(items)
    complete = path.read_bytes()
    path.unlink()

    quarantine = Quarantine(path, 100, 1.0)
    quarantine.add(items[:2])
    before = path.stat()
    quarantine.add(items[1:3])
    assert path.stat().st_ino == before.st_ino  # appended to, not replaced
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    assert len(Quarantine(path, 100, 1.0, writes=False)) == 2  # other processes may read before the first one repairs
    resumed = Quarantine(path, 100, 1.0)
    resumed.add(items)
    assert path.read_bytes() == complete


def test_a_quarantine_counts_across_resumes_and_ends_the_run_above_its_share(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    Quarantine(path, 100, 0.02).add(
        [UnreadableUtterance("a", "a.wav: no such audio file"), UnreadableUtterance("a", "again")]
    )
    resumed = Quarantine(path, 100, 0.02)
    resumed.add([UnreadableUtterance("ö", "ö.wav: cut off")])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"id": "a", "reason": "a.wav: no such audio file"}, {"id": "ö", "reason": "ö.wav: cut off"}]
    with pytest.raises(InputError, match=r"^a.wav: no such audio file \(3 of 100 utterances cannot be read, listed in"):
        resumed.add([UnreadableUtterance("c", "c.wav: silent")])
    assert len(path.read_text().splitlines()) == 3


def test_a_full_feature_memory_gives_the_same_features(student, utterances):
    room_for_one = FeatureCache(limit_bytes=student.features(np.zeros(6_400)).nbytes)
    plain, bounded = first(stream(student, utterances), 12), first(stream(student, utterances, memory=room_for_one), 12)
    for left, right in zip(plain, bounded, strict=True):
        for a, b in zip(left, right, strict=True):
            assert torch.equal(a.features[student.frontend], b.features[student.frontend])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_step_is_read_ahead_and_the_position_is_that_of_the_yielded_batches(student, utterances, rank):
    options = {"batches_per_step": 3, "rank": rank, "world_size": 2}
    rounds, steps = 2, 5
    expected = ids(first(stream(student, utterances, **options), rounds * (steps + 2)))
    read = []
    ahead = stream(student, utterances, **options)
    batches = ahead.read_ahead(2, lambda number, batches: read.append((number, ids(batches))))
    for step in range(steps):
        yielded = ids(first(batches, rounds))
        assert yielded == expected[step * rounds : (step + 1) * rounds]
        assert [number for number, _ in read] == list(range(step + 3))
        assert read[step][1] == yielded
    resumed = stream(student, utterances, **options)
    resumed.position = ahead.position
    assert ids(first(resumed, rounds)) == expected[steps * rounds : (steps + 1) * rounds]


def test_an_unreadable_utterance_is_reported_with_its_step_even_if_it_was_read_ahead(student, utterances):
    utterances[2].audio.write_text("no audio")
    plain, ahead = stream(student, utterances), stream(student, utterances)
    batches, batches_ahead = iter(plain), ahead.read_ahead(1, lambda _number, _batches: None)
    for _ in range(8):
        assert ids([next(batches_ahead)]) == ids([next(batches)])
        assert ahead.take_unreadable() == plain.take_unreadable()
