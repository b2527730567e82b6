import pytest
import torch

from arkasr.train.augment import augment_features, join_utterances, replace_tokens, stretch_time, warp_frequency
from arkasr.train.settings import AugmentationSettings


def clip(mels=40, frames=200):
    return torch.randn(mels, frames, generator=torch.Generator().manual_seed(0))


def test_a_seed_decides_everything_and_no_settings_change_nothing():
    settings = AugmentationSettings(time_stretch=0.1, frequency_warp=0.1)
    clips = [clip(), clip(frames=90)]
    once, again, other = (augment_features(clips, settings, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0][:, :50], other[0][:, :50])
    assert all(torch.equal(a, b) for a, b in zip(augment_features(clips, None, 1), clips, strict=True))


def test_masks_take_the_mean_of_the_clip_and_leave_the_rest():
    settings = AugmentationSettings(time_masks=30, time_width=10, frequency_masks=2, frequency_width=8)
    before = clip()
    [after] = augment_features([before], settings, 5)
    changed = after != before
    assert 0 < changed.float().mean() < 1
    torch.testing.assert_close(after[changed], before.mean().expand(int(changed.sum())))


@pytest.mark.parametrize(("frames", "factor", "expected"), [(100, 1.1, 110), (100, 0.9, 90), (2_900, 1.2, 3_000)])
def test_a_stretched_clip_has_the_same_course_over_more_or_fewer_frames(frames, factor, expected):
    rising = torch.linspace(0, 1, frames).expand(4, frames)
    stretched = stretch_time(rising, factor)
    assert stretched.shape == (4, expected)
    torch.testing.assert_close(stretched[0], torch.linspace(0, 1, expected), atol=0.01, rtol=0)


def test_warping_moves_a_formant_and_keeps_time():
    formant = torch.zeros(80, 5)
    formant[40] = 1.0
    assert warp_frequency(formant, 1.0).equal(formant)
    longer, shorter = warp_frequency(formant, 1.25), warp_frequency(formant, 0.8)
    assert longer.argmax(0).tolist() == [32] * 5
    assert shorter.argmax(0).tolist() == [50] * 5


def test_noise_replaces_about_its_share_of_tokens_with_tokens_of_the_batch():
    transcripts = [torch.arange(1_000), torch.arange(1_000, 2_000)]
    noisy = replace_tokens(transcripts, AugmentationSettings(token_noise=0.3), 3)
    share = torch.cat([a != b for a, b in zip(noisy, transcripts, strict=True)]).float().mean()
    assert share == pytest.approx(0.3, abs=0.04)
    assert set(torch.cat(noisy).tolist()) <= set(range(2_000))


def test_an_utterance_may_be_followed_by_another_of_its_language():
    clips = [clip(frames=frames) for frames in (50, 60, 70, 80, 2_990)]
    texts = ["yes", "no", "是", "不", "long"]
    languages = ["English", "English", "Chinese", "Chinese", "English"]
    settings = AugmentationSettings(join_share=1.0)
    seen = set()
    for seed in range(20):
        joined, written = join_utterances(clips, texts, languages, settings, seed)
        for place, (features, text) in enumerate(zip(joined, written, strict=True)):
            between = "" if languages[place] == "Chinese" else " "
            partners = [other for other in range(5) if text == between.join((texts[place], texts[other]))]
            if text == texts[place]:
                assert torch.equal(features, clips[place])
                continue
            [partner] = partners
            assert languages[partner] == languages[place]
            assert torch.equal(features, torch.cat((clips[place], clips[partner]), dim=1))
            seen.add((place, partner))
    assert {(0, 1), (1, 0), (2, 3)} <= seen
    assert not any(4 in pair for pair in seen)
    assert join_utterances(clips, texts, languages, AugmentationSettings(), 0)[1] == texts
