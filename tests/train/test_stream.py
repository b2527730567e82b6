import json

import numpy as np
import pytest
import soundfile
import torch

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import ExampleDataset, FeatureMemory
from arkasr.data.manifest import read_manifest
from arkasr.errors import InputError
from arkasr.train.stream import BatchStream


@pytest.fixture
def utterances(tmp_path):
    generator = np.random.default_rng(0)
    rows = []
    for place in range(9):
        seconds = 0.3 + 0.1 * place
        soundfile.write(tmp_path / f"{place}.wav", generator.normal(size=int(seconds * 16_000)) * 0.1, 16_000)
        rows.append({"audio": f"{place}.wav", "duration": seconds})
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return read_manifest(tmp_path / "set.jsonl")


def stream(student, utterances, workers=0, memory=None):
    dataset = ExampleDataset(utterances, {student.listener: student.features}, memory)
    durations = [utterance.duration for utterance in utterances]
    return BatchStream(dataset, DurationBatchSampler(durations, max_audio_seconds=2.0, seed=5), workers=workers)


def first(batches, count):
    batches = iter(batches)
    return [next(batches) for _ in range(count)]


def ids(batches):
    return [[example.utterance.id for example in batch] for batch in batches]


@pytest.mark.parametrize("other", ["workers", "memory"])
def test_workers_and_memory_change_nothing_that_is_heard(student, utterances, other):
    plain = first(stream(student, utterances), 12)
    options = {"workers": 2} if other == "workers" else {"memory": FeatureMemory()}
    again = first(stream(student, utterances, **options), 12)
    assert ids(again) == ids(plain)
    for left, right in zip(plain, again, strict=True):
        for a, b in zip(left, right, strict=True):
            assert torch.equal(a.features[student.listener], b.features[student.listener])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_continues_from_what_was_handed_out_not_from_what_was_read_ahead(student, utterances, workers):
    whole = ids(first(stream(student, utterances), 14))
    interrupted = stream(student, utterances, workers)
    assert ids(first(interrupted, 6)) == whole[:6]
    resumed = stream(student, utterances, workers)
    resumed.position = interrupted.position
    assert ids(first(resumed, 8)) == whole[6:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_read_is_named_in_one_line(student, utterances, workers):
    utterances[4].audio.write_text("not audio")
    with pytest.raises(InputError) as caught:
        first(stream(student, utterances, workers), 12)
    assert "4.wav: not audio that can be read" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_memory_hands_out_the_same_features(student, utterances):
    room_for_one = FeatureMemory(limit_bytes=student.features(np.zeros(6_400)).nbytes)
    plain, bounded = first(stream(student, utterances), 12), first(stream(student, utterances, memory=room_for_one), 12)
    for left, right in zip(plain, bounded, strict=True):
        for a, b in zip(left, right, strict=True):
            assert torch.equal(a.features[student.listener], b.features[student.listener])
