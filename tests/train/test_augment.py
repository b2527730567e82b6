"""Augmentation of features, joined utterances and token noise."""

from pathlib import Path

import pytest
import torch

from arkasr.data.examples import Example
from arkasr.data.manifests.manifest import Utterance
from arkasr.train.augment import augment_features, join_utterances, replace_tokens, stretch_time, warp_frequency
from arkasr.train.settings import AugmentationSettings


def clip(mels=40, frames=200):
    return torch.randn(mels, frames, generator=torch.Generator().manual_seed(0))


def spoken(features, text="yes", language="English", name="a"):
    """An utterance for two frontends, the second one at half the volume."""
    utterance = Utterance(Path(f"{name}.wav"), text, None, None, language, name, None, None, {})
    return Example(utterance, {"student": features, "teacher": features / 2})


def of_student(examples):
    return [example.features["student"] for example in examples]


def test_changes_are_a_function_of_the_seed_and_no_settings_mean_no_change():
    settings = AugmentationSettings(time_stretch=0.1, frequency_warp=0.1)
    clips = [clip(), clip(frames=90)]
    examples = [spoken(features) for features in clips]
    once, again, other = (of_student(augment_features(examples, settings, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0][:, :50], other[0][:, :50])
    assert all(torch.equal(a, b) for a, b in zip(of_student(augment_features(examples, None, 1)), clips, strict=True))


def test_all_frontends_get_the_same_change():
    settings = AugmentationSettings(time_stretch=0.2, frequency_warp=0.1, time_masks=5, join_share=0.5)
    examples = [spoken(clip(frames=frames)) for frames in (200, 90, 1_500)]
    for seed in range(5):
        for changed in augment_features(join_utterances(examples, settings, seed), settings, seed):
            torch.testing.assert_close(changed.features["student"], 2 * changed.features["teacher"])


def test_joining_stretching_and_noise_are_independent():
    """When they shared a generator, no joined clip out of 400 was slowed down."""
    settings = AugmentationSettings(time_stretch=0.1, time_masks=0, frequency_masks=0, join_share=0.5, token_noise=0.5)
    outcomes = []
    for seed in range(400):
        examples = [spoken(clip(frames=100), name="a"), spoken(clip(frames=100), name="b")]
        [joined, _] = join_utterances(examples, settings, seed)
        [changed] = augment_features([joined], settings, seed)
        noisy = replace_tokens([torch.arange(2)], settings, seed)
        slower = changed.features["student"].shape[1] > joined.features["student"].shape[1]
        outcomes.append([float(len(joined.joined_from) > 0), float(slower), float(noisy[0][0] != 0)])
    correlations = torch.tensor(outcomes).T.corrcoef()
    assert (correlations - torch.eye(3)).abs().max() < 0.15


def test_masks_have_the_mean_of_the_clip_and_leave_the_rest_unchanged():
    settings = AugmentationSettings(time_masks=30, time_width=10, frequency_masks=2, frequency_width=8)
    before = clip()
    [after] = of_student(augment_features([spoken(before)], settings, 5))
    changed = after != before
    assert 0 < changed.float().mean() < 1
    torch.testing.assert_close(after[changed], before.mean().expand(int(changed.sum())))


@pytest.mark.parametrize(("frames", "factor", "expected"), [(100, 1.1, 110), (100, 0.9, 90), (2_900, 1.2, 3_000)])
def test_a_stretched_clip_has_the_same_content_over_more_or_fewer_frames(frames, factor, expected):
    rising = torch.linspace(0, 1, frames).expand(4, frames)
    stretched = stretch_time(rising, factor)
    assert stretched.shape == (4, expected)
    torch.testing.assert_close(stretched[0], torch.linspace(0, 1, expected), atol=0.01, rtol=0)


def test_warping_moves_a_formant_and_keeps_its_time():
    formant = torch.zeros(80, 5)
    formant[40] = 1.0
    assert warp_frequency(formant, 1.0).equal(formant)
    longer, shorter = warp_frequency(formant, 1.25), warp_frequency(formant, 0.8)
    assert longer.argmax(0).tolist() == [32] * 5
    assert shorter.argmax(0).tolist() == [50] * 5


def test_token_noise_replaces_its_share_of_the_tokens_with_tokens_of_the_batch():
    transcripts = [torch.arange(1_000), torch.arange(1_000, 2_000)]
    noisy = replace_tokens(transcripts, AugmentationSettings(token_noise=0.3), 3)
    share = torch.cat([a != b for a, b in zip(noisy, transcripts, strict=True)]).float().mean()
    assert share == pytest.approx(0.3, abs=0.04)
    assert set(torch.cat(noisy).tolist()) <= set(range(2_000))


def test_an_utterance_is_joined_with_another_one_of_its_language_up_to_thirty_seconds():
    clips = [clip(frames=frames) for frames in (50, 60, 70, 80, 2_990)]
    texts = ["yes", "no", "是", "不", "long"]
    languages = ["English", "English", "Chinese", "Chinese", "English"]
    settings = AugmentationSettings(join_share=1.0)
    examples = [spoken(*item) for item in zip(clips, texts, languages, "abcde", strict=True)]
    pairs = set()
    for seed in range(20):
        joined = join_utterances(examples, settings, seed)
        for index, example in enumerate(joined):
            features, text = example.features["student"], example.utterance.text
            separator = "" if languages[index] == "Chinese" else " "
            partners = [other for other in range(5) if text == separator.join((texts[index], texts[other]))]
            assert index not in partners
            if text == texts[index]:
                assert torch.equal(features, clips[index])
                continue
            [partner] = partners
            assert [part.text for part in example.joined_from] == [texts[index], texts[partner]]
            assert languages[partner] == languages[index]
            assert torch.equal(features, torch.cat((clips[index], clips[partner]), dim=1))
            pairs.add((index, partner))
    assert {(0, 1), (1, 0), (2, 3)} <= pairs
    assert not any(4 in pair for pair in pairs)
    assert join_utterances(examples, AugmentationSettings(), 0) == examples
    assert join_utterances(examples[:1], settings, 0) == examples[:1]


def test_an_utterance_joined_with_an_unlabelled_one_has_no_text():
    examples = [spoken(clip(), text=None, name="a"), spoken(clip(), name="b")]
    settings = AugmentationSettings(join_share=1.0)
    joined = [join_utterances(examples, settings, seed)[0] for seed in range(10)]
    assert any(example.joined_from for example in joined)
    assert all(example.utterance.text is None for example in joined)
