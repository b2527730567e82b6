"""The cache of a teacher gives the same bits whether it is empty, full, damaged or lost."""

import shutil
from dataclasses import replace

import pytest
import torch

from arkasr.recipe.presets import build_preset
from arkasr.teacher.in_process import InProcessTeacher
from arkasr.teacher.teacher_cache import TeacherCache
from arkasr.train.augment import augment_features
from arkasr.train.settings import AugmentationSettings
from tests import models
from tests.teacher.requests import forced_on

CPU = torch.device("cpu")
MIB = 2**20
TOP_K = 8


@pytest.fixture(params=["ark-asr-tiny", "qwen3-asr-tiny"])
def recognizer(request, vocabulary):
    """A teacher of each family. They are large enough that a batch rounds differently from one utterance."""
    torch.manual_seed(0)
    return build_preset(request.param, {}, vocabulary)


@pytest.fixture(params=["audio", "states"])
def keeps_states(request):
    return request.param == "states"


def states_of(recognizer, requests, folder, *, limit=MIB, keeps_states=True, batches=None):
    """States of every batch (default: one batch), and how many requests were answered from disk, with a new cache."""
    cache = TeacherCache(recognizer, folder, limit, keeps_states=keeps_states)
    teacher = InProcessTeacher(recognizer, cache=cache)
    scores = [teacher.submit(batch, TOP_K, CPU)(lambda: False) for batch in batches or [requests]]
    return [score.hidden for score in scores], [score.cached for score in scores]


def bytes_in(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_the_states_have_the_same_bits_with_an_empty_a_full_and_a_damaged_cache(
    recognizer, keeps_states, noise_examples, tmp_path
):
    requests = forced_on(recognizer, noise_examples(recognizer))
    batches = [requests[:2], requests[2:], requests[1:4], requests]

    def states(folder, **options):
        return states_of(recognizer, requests, tmp_path / folder, keeps_states=keeps_states, batches=batches, **options)

    expected, hits = states("cache")
    assert hits == [0, 0, 3, 5]
    full, hits = states("cache")
    assert hits == [2, 3, 3, 5]
    for path in list((tmp_path / "cache").rglob("*.safetensors"))[::2]:
        path.write_bytes(path.read_bytes()[:-9])
    damaged, hits = states("cache")
    assert 0 < sum(hits) < 13
    limit = bytes_in(tmp_path / "cache") // 2
    small, hits = states("small", limit=limit)
    assert 0 < sum(hits) < 8
    assert bytes_in(tmp_path / "small") <= limit
    for found in (full, damaged, small):
        assert_same_bits(found, expected)


def test_states_do_not_depend_on_the_batch_if_they_are_kept(recognizer, noise_examples, tmp_path):
    requests = forced_on(recognizer, noise_examples(recognizer))
    together, _ = states_of(recognizer, requests, tmp_path / "together")
    alone, _ = states_of(recognizer, requests, tmp_path / "alone", batches=[[request] for request in requests])
    assert_same_bits(together, [torch.cat(alone)])


def test_the_cache_changes_states_by_rounding_only(recognizer, keeps_states, noise_examples, tmp_path):
    requests = forced_on(recognizer, noise_examples(recognizer))
    (found,), _ = states_of(recognizer, requests, tmp_path, keeps_states=keeps_states)
    expected = InProcessTeacher(recognizer).submit(requests, TOP_K, CPU)(lambda: False)
    assert expected.cached is None
    torch.testing.assert_close(found, expected.hidden, rtol=1e-4, atol=1e-5)


def test_what_is_kept_is_not_computed_again(recognizer, keeps_states, noise_examples, tmp_path):
    requests = forced_on(recognizer, noise_examples(recognizer))
    states_of(recognizer, requests, tmp_path, keeps_states=keeps_states)
    passes = {"encoder": 0, "decoder": 0}

    def count(name):
        return lambda *_: passes.update({name: passes[name] + 1})

    recognizer.audio_modules[0].register_forward_hook(count("encoder"))
    recognizer.decoder.register_forward_hook(count("decoder"))
    states_of(recognizer, requests, tmp_path, keeps_states=keeps_states)
    assert passes == {"encoder": 0, "decoder": 0 if keeps_states else 1}


def test_another_transcript_of_a_recording_replaces_the_one_before_it(recognizer, noise_examples, tmp_path):
    examples = noise_examples(recognizer)
    first, second = (forced_on(recognizer, examples, texts) for texts in (models.TEXTS, models.TEXTS[::-1]))
    (expected,), _ = states_of(recognizer, second, tmp_path / "new")
    states_of(recognizer, first, tmp_path / "old")
    files = sorted((tmp_path / "old").rglob("*.safetensors"))
    (found,), (hits,) = states_of(recognizer, second, tmp_path / "old")
    assert torch.equal(found, expected)
    assert hits == 1  # the middle one is the same
    assert sorted((tmp_path / "old").rglob("*.safetensors")) == files
    assert states_of(recognizer, second, tmp_path / "old")[1] == [5]


def change_weights(recognizer):
    next(iter(recognizer.model.parameters())).data.flatten()[-1] += 1


def change_config(recognizer):
    recognizer.model.config.rope_theta = 5


@pytest.mark.parametrize("change", [change_weights, change_config])
def test_answers_of_another_teacher_are_removed_and_not_used(teacher, vocabulary, noise_examples, tmp_path, change):
    requests = forced_on(teacher, noise_examples(teacher))
    states_of(teacher, requests, tmp_path)
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    other = models.small_teacher(vocabulary)
    change(other)
    expected, _ = states_of(other, requests, tmp_path / "new")
    shutil.rmtree(tmp_path / "new")
    found, hits = states_of(other, requests, tmp_path)
    assert hits == [0]
    assert_same_bits(found, expected)
    assert not any(path.exists() for path in files)


def test_answers_in_another_precision_are_not_used(teacher, noise_examples, tmp_path):
    requests = forced_on(teacher, noise_examples(teacher))
    states_of(teacher, requests, tmp_path)
    with torch.autocast("cpu", torch.bfloat16):
        assert states_of(teacher, requests, tmp_path)[1] == [0]
        assert states_of(teacher, requests, tmp_path)[1] == [5]


def test_augmented_recordings_and_other_languages_are_not_mistaken(teacher, keeps_states, noise_examples, tmp_path):
    examples = noise_examples(teacher)
    states_of(teacher, forced_on(teacher, examples), tmp_path, keeps_states=keeps_states)
    for seed in range(2):
        requests = forced_on(teacher, augment_features(examples, AugmentationSettings(time_stretch=0.2), seed))
        expected, _ = states_of(teacher, requests, tmp_path / "new", keeps_states=keeps_states)
        shutil.rmtree(tmp_path / "new")
        found, hits = states_of(teacher, requests, tmp_path, keeps_states=keeps_states)
        assert hits == [0]
        assert_same_bits(found, expected)
    german = replace(forced_on(teacher, examples)[0], language="German")
    _, hits = states_of(teacher, [german], tmp_path, keeps_states=keeps_states)
    assert hits == [0 if keeps_states else 1]  # the prompt is not part of the audio


def test_whisper_detects_the_language_of_a_kept_recording(whisper, keeps_states, noise_examples, tmp_path):
    requests = [replace(request, language=None) for request in forced_on(whisper, noise_examples(whisper))]
    empty, none = states_of(whisper, requests, tmp_path, limit=100 * MIB, keeps_states=keeps_states)
    full, all_of_them = states_of(whisper, requests, tmp_path, limit=100 * MIB, keeps_states=keeps_states)
    assert (none, all_of_them) == ([0], [len(requests)])
    assert_same_bits(empty, full)
    [expected] = [InProcessTeacher(whisper).submit(requests, TOP_K, CPU)(lambda: False).hidden]
    torch.testing.assert_close(full[0], expected, rtol=1e-4, atol=1e-4)
