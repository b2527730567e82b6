import itertools

import numpy as np
import pytest

from arkasr.data.batches import DataPosition, DurationBatchSampler
from arkasr.data.manifest import read_manifest
from arkasr.errors import InputError
from tests.paths import SHARED_DATA, needs_shared_data

DURATIONS = np.random.default_rng(0).gamma(4, 1.0, 500).clip(0.3, 16).tolist()


def sampler(**changes):
    return DurationBatchSampler(**({"durations": DURATIONS, "max_audio_seconds": 60.0, "seed": 1} | changes))


def test_every_utterance_once_an_epoch_within_the_budget():
    for shuffle in (True, False):
        batches = sampler(shuffle=shuffle).batches(0)
        assert sorted(itertools.chain(*batches)) == list(range(500))
        assert all(max(DURATIONS[place] for place in batch) * len(batch) <= 60 for batch in batches)


def test_other_budgets():
    tokens = [int(3 * seconds) + 1 for seconds in DURATIONS]
    batches = sampler(text_tokens=tokens, max_text_tokens=40, max_utterances=7).batches(0)
    assert all(max(tokens[place] for place in batch) * len(batch) <= 40 or len(batch) == 1 for batch in batches)
    assert max(map(len, batches)) <= 7


def test_batches_are_decided_by_seed_and_epoch_alone():
    assert sampler().batches(3) == sampler().batches(3)
    assert sampler().batches(3) != sampler().batches(4)
    assert sampler().batches(3) != sampler(seed=2).batches(3)
    neighbours = {frozenset(batch) for batch in sampler().batches(0)} & {frozenset(b) for b in sampler().batches(1)}
    assert len(neighbours) < 5


def test_batches_are_followed_from_any_place_into_the_next_epochs():
    epochs = [sampler().batches(0), sampler().batches(1), sampler().batches(2)]
    followed = list(itertools.islice(sampler().follow(DataPosition()), sum(map(len, epochs))))
    assert [batch for batch, _ in followed] == list(itertools.chain(*epochs))
    for place in (0, 4, len(epochs[0]) - 1, len(epochs[0])):
        _, position = followed[place]
        resumed = itertools.islice(sampler().follow(position), 5)
        assert list(resumed) == followed[place + 1 : place + 6]


def test_without_shuffling_the_longest_come_first():
    batches = sampler(shuffle=False).batches(0)
    longest = [max(DURATIONS[place] for place in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_an_utterance_longer_than_the_budget_is_named():
    with pytest.raises(InputError, match=r"utterance 1 is 70\.0 s long, a batch holds 60 s; raise batch_seconds"):
        DurationBatchSampler([1.0, 70.0], max_audio_seconds=60)


@needs_shared_data
@pytest.mark.parametrize(
    ("manifest", "budget"), [("an4/train.jsonl", 64.0), ("librispeech-train-piece/all.jsonl", 64.0)]
)
def test_little_is_padded_on_real_lengths(manifest, budget):
    durations = [utterance.duration for utterance in read_manifest(SHARED_DATA / manifest)]
    batches = DurationBatchSampler(durations, max_audio_seconds=budget).batches(epoch=0)
    padded = sum(max(durations[place] for place in batch) * len(batch) for batch in batches)
    assert 1 - sum(durations) / padded < 0.15
