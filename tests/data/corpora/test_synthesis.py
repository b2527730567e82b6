from dataclasses import replace

import numpy as np
import pytest

from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.corpora import conditions
from arkasr.data.corpora.specs import TEST_SETS, SetSpec, SyntheticCorpusConfig, corpus_specs
from arkasr.data.corpora.synthesis import synthesise

CONFIG = SyntheticCorpusConfig(train_utterances=48, dev_utterances=2, test_utterances=16)


@pytest.fixture(scope="module")
def specs() -> dict[str, SetSpec]:
    return corpus_specs(CONFIG)


@pytest.fixture(scope="module")
def recordings(specs: dict[str, SetSpec]) -> dict[str, list[np.ndarray]]:
    return {name: [synthesise(utterance, spec.babble) for utterance in spec.utterances] for name, spec in specs.items()}


def test_a_recording_does_not_depend_on_earlier_ones(
    specs: dict[str, SetSpec], recordings: dict[str, list[np.ndarray]]
) -> None:
    for name in ("train", "zh-meeting", "zh-net"):
        for number in (13, 7, 2):
            again = synthesise(specs[name].utterances[number], specs[name].babble)
            np.testing.assert_array_equal(again, recordings[name][number])


def test_levels_and_lengths_are_plausible_for_speech(recordings: dict[str, list[np.ndarray]]) -> None:
    for samples in (samples for each in recordings.values() for samples in each):
        assert samples.dtype == np.int16
        assert 1 < len(samples) / SAMPLE_RATE < 5
        peak_db = 20 * np.log10(np.abs(samples.astype(np.float64)).max() / 32768)
        assert -15.1 < peak_db < -1.9
        frames = samples[: len(samples) // 160 * 160].reshape(-1, 160).astype(np.float64).std(axis=1)
        loud = np.flatnonzero(frames > 0.05 * frames.max())
        assert loud[0] < 45
        assert len(frames) - loud[-1] < 50


def test_speakers_sound_different(specs: dict[str, SetSpec]) -> None:
    english = [utterance for utterance in specs["train"].utterances if utterance.speaker.language == "English"]
    by_speaker = {utterance.speaker.id: utterance for utterance in english}
    utterance = next(iter(by_speaker.values()))
    profiles = []
    for other in by_speaker.values():
        same_words = replace(utterance, speaker=other.speaker, voice=other.voice, condition=conditions.CLEAN, seed=1)
        samples = synthesise(same_words, []).astype(np.float64)
        bands = np.add.reduceat(np.abs(np.fft.rfft(samples, 1 << 17)[: 1 << 15]) ** 2, np.arange(0, 1 << 15, 1 << 11))
        profiles.append(10 * np.log10(bands / bands.sum()))
    apart = [np.abs(a - b).mean() for i, a in enumerate(profiles) for b in profiles[:i]]
    assert len(profiles) == 24
    assert min(apart) > 0.5


def test_the_hard_sets_are_harder(recordings: dict[str, list[np.ndarray]]) -> None:
    """Noise, babble and rooms reduce the dynamic range of frame levels."""

    def dynamic_range(samples: np.ndarray) -> float:
        frames = samples[: len(samples) // 320 * 320].reshape(-1, 320).astype(np.float64).std(axis=1)
        low, high = np.percentile(frames, (10, 95))
        return float(20 * np.log10(high / low))

    ranges = {name: np.median([dynamic_range(x) for x in recordings[name]]) for name in TEST_SETS}
    assert ranges["en-other"] < ranges["en-clean"] - 8
    assert ranges["zh-meeting"] < ranges["zh-read"] - 8


def test_changed_audio_needs_a_new_version(recordings: dict[str, list[np.ndarray]]) -> None:
    """Levels in dB, coarse enough to hold on any machine; see the same test of the specifications."""
    golden = {
        "train": [69.9, 70.1, 61.9, 64.4, 61.8, 64.5, 59.2, 58.8, 62.6, 59.4, 65.0, 64.6],
        "en-clean": [58.5, 62.2, 66.6],
        "en-other": [69.8, 68.8, 64.4],
        "zh-read": [59.4, 68.3, 73.6],
        "zh-meeting": [68.6, 60.6, 65.3],
        "zh-net": [57.5, 70.2, 59.9],
    }
    for name, levels in golden.items():
        measured = [20 * np.log10(samples.astype(np.float64).std()) for samples in recordings[name][: len(levels)]]
        assert measured == pytest.approx(levels, abs=0.2), name
