import itertools

import numpy as np
import pytest

from arkasr.data import batches as batches_module
from arkasr.data.batches import DataPosition, DurationBatchSampler
from arkasr.data.manifests.manifest import read_manifest
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


def test_token_and_size_budgets():
    tokens = [int(3 * seconds) + 1 for seconds in DURATIONS]
    batches = sampler(text_tokens=tokens, max_text_tokens=40, max_utterances=7).batches(0)
    assert all(max(tokens[place] for place in batch) * len(batch) <= 40 or len(batch) == 1 for batch in batches)
    assert max(map(len, batches)) <= 7


def test_seed_and_epoch_decide_the_batches():
    assert sampler().batches(3) == sampler().batches(3)
    assert sampler().batches(3) != sampler().batches(4)
    assert sampler().batches(3) != sampler(seed=2).batches(3)
    shared = {frozenset(batch) for batch in sampler().batches(0)} & {frozenset(b) for b in sampler().batches(1)}
    assert len(shared) < 5


def test_batches_continue_from_any_position_into_the_next_epochs():
    epochs = [sampler().batches(0), sampler().batches(1), sampler().batches(2)]
    produced = list(itertools.islice(sampler().batches_from(DataPosition()), sum(map(len, epochs))))
    assert [batch for batch, _ in produced] == list(itertools.chain(*epochs))
    for place in (0, 4, len(epochs[0]) - 1, len(epochs[0])):
        _, position = produced[place]
        resumed = itertools.islice(sampler().batches_from(position), 5)
        assert list(resumed) == produced[place + 1 : place + 6]


@pytest.fixture
def small_pools(monkeypatch):
    """Pools of three blocks of 16 utterances: 500 utterances are 32 blocks, the last of 4, and 11 pools."""
    monkeypatch.setattr(batches_module, "BLOCK", 16)
    monkeypatch.setattr(batches_module, "POOL", 48)


def pools_of(sampler, epoch):
    """Batches of an epoch, grouped by pool."""
    produced = itertools.takewhile(lambda found: found[1].epoch == epoch, sampler.batches_from(DataPosition(epoch)))
    return [[batch for batch, _ in pool] for _, pool in itertools.groupby(produced, lambda found: found[1].pool)]


def test_pools_hold_every_utterance_once_an_epoch(small_pools):
    pools = pools_of(sampler(), 0)
    assert len(pools) == 11
    assert list(itertools.chain(*pools)) == sampler().batches(0)
    assert sorted(itertools.chain(*itertools.chain(*pools))) == list(range(500))
    for pool in pools:
        held = list(itertools.chain(*pool))
        assert len({place // 16 for place in held}) <= 3
        assert 32 <= len(held) <= 48 or 499 in held
        assert all(max(DURATIONS[place] for place in batch) * len(batch) <= 60 for batch in pool)


def test_pools_differ_from_epoch_to_epoch(small_pools):
    first, second = ({place // 16 for place in itertools.chain(*pools_of(sampler(), epoch)[0])} for epoch in (0, 1))
    assert first != second
    assert sampler().batches(1) == sampler().batches(1)


def test_pools_continue_from_any_batch_of_two_epochs(small_pools):
    count = sum(len(sampler().batches(epoch)) for epoch in (0, 1))
    produced = list(itertools.islice(sampler().batches_from(DataPosition()), count + 3))
    for place in range(count):
        assert list(itertools.islice(sampler().batches_from(produced[place][1]), 3)) == produced[place + 1 : place + 4]


def test_resuming_forms_one_pool_and_counts_its_tokens_only(small_pools):
    class Tokens(list):
        taken = 0

        def __getitem__(self, place):
            found = super().__getitem__(place)
            self.taken += len(found)
            return found

    tokens = Tokens([3] * 500)
    produced = sampler(text_tokens=tokens, max_text_tokens=40).batches_from(DataPosition(5, batch=2, pool=10))
    next(produced)
    assert tokens.taken <= 48
    produced.close()


def test_a_set_of_one_pool_is_batched_as_a_list(monkeypatch):
    whole = sampler().batches(0)
    monkeypatch.setattr(batches_module, "BLOCK", 16)
    monkeypatch.setattr(batches_module, "POOL", 500)
    assert sampler().batches(0) == whole
    monkeypatch.setattr(batches_module, "POOL", 496)
    assert sampler().batches(0) != whole


def test_without_shuffling_the_longest_come_first():
    batches = sampler(shuffle=False).batches(0)
    longest = [max(DURATIONS[place] for place in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_an_utterance_longer_than_the_budget_is_refused():
    with pytest.raises(InputError, match=r"utterance 1 is 70\.0 s long, a batch holds 60 s; raise batch_seconds"):
        DurationBatchSampler([1.0, 70.0], max_audio_seconds=60)


@needs_shared_data
@pytest.mark.parametrize(
    ("manifest", "budget"), [("an4/train.jsonl", 64.0), ("librispeech-train-piece/all.jsonl", 64.0)]
)
def test_padding_is_small_on_real_durations(manifest, budget):
    durations = [utterance.duration for utterance in read_manifest(SHARED_DATA / manifest)]
    batches = DurationBatchSampler(durations, max_audio_seconds=budget).batches(epoch=0)
    padded = sum(max(durations[place] for place in batch) * len(batch) for batch in batches)
    assert 1 - sum(durations) / padded < 0.15


def test_a_checkpoint_of_another_training_set_is_refused():
    state = DurationBatchSampler([1.0, 2.0, 3.0], max_audio_seconds=4).state_dict(DataPosition(batch=1))
    same = DurationBatchSampler([1.0, 2.0, 3.0], max_audio_seconds=4)
    assert same.position_from_state(state) == DataPosition(batch=1)
    with pytest.raises(InputError, match="the training set differs from that of the checkpoint"):
        DurationBatchSampler([1.0, 2.0], max_audio_seconds=4).position_from_state(state)
