import numpy as np
import pytest

from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.corpora.plan import TEST_SETS, SetPlan, SyntheticCorpusConfig, plan_corpus
from arkasr.data.corpora.record import record

CONFIG = SyntheticCorpusConfig(train_utterances=48, dev_utterances=2, test_utterances=16)


@pytest.fixture(scope="module")
def plans() -> dict[str, SetPlan]:
    return plan_corpus(CONFIG)


@pytest.fixture(scope="module")
def recordings(plans: dict[str, SetPlan]) -> dict[str, list[np.ndarray]]:
    return {name: [record(line, plan.babble) for line in plan.lines] for name, plan in plans.items()}


def test_a_recording_does_not_depend_on_the_ones_before_it(
    plans: dict[str, SetPlan], recordings: dict[str, list[np.ndarray]]
) -> None:
    for name in ("train", "zh-meeting", "zh-net"):
        for number in (13, 7, 2):
            again = record(plans[name].lines[number], plans[name].babble)
            np.testing.assert_array_equal(again, recordings[name][number])


def test_levels_and_lengths_are_those_of_speech(recordings: dict[str, list[np.ndarray]]) -> None:
    for samples in (samples for each in recordings.values() for samples in each):
        assert samples.dtype == np.int16
        assert 1 < len(samples) / SAMPLE_RATE < 5
        peak_db = 20 * np.log10(np.abs(samples.astype(np.float64)).max() / 32768)
        assert -15.1 < peak_db < -1.9
        frames = samples[: len(samples) // 160 * 160].reshape(-1, 160).astype(np.float64).std(axis=1)
        loud = np.flatnonzero(frames > 0.05 * frames.max())
        assert loud[0] < 45
        assert len(frames) - loud[-1] < 50


def test_speakers_sound_different(plans: dict[str, SetPlan]) -> None:
    by_speaker = {line.speaker.id: line for line in plans["train"].lines if line.speaker.language == "English"}
    line = next(iter(by_speaker.values()))
    profiles = []
    for other in by_speaker.values():
        same_words = type(line)(line.id, line.text, other.speaker, other.voice, plans["zh-read"].lines[0].condition, 1)
        samples = record(same_words, []).astype(np.float64)
        bands = np.add.reduceat(np.abs(np.fft.rfft(samples, 1 << 17)[: 1 << 15]) ** 2, np.arange(0, 1 << 15, 1 << 11))
        profiles.append(10 * np.log10(bands / bands.sum()))
    apart = [np.abs(a - b).mean() for i, a in enumerate(profiles) for b in profiles[:i]]
    assert len(profiles) == 24
    assert min(apart) > 0.5


def test_the_hard_sets_are_harder(recordings: dict[str, list[np.ndarray]]) -> None:
    """The quietest tenth of the frames lies closer to the loudest where there is noise, babble or a room."""

    def dynamic_range(samples: np.ndarray) -> float:
        frames = samples[: len(samples) // 320 * 320].reshape(-1, 320).astype(np.float64).std(axis=1)
        low, high = np.percentile(frames, (10, 95))
        return float(20 * np.log10(high / low))

    ranges = {name: np.median([dynamic_range(x) for x in recordings[name]]) for name in TEST_SETS}
    assert ranges["en-other"] < ranges["en-clean"] - 8
    assert ranges["zh-meeting"] < ranges["zh-read"] - 8


def test_whoever_changes_the_sound_raises_the_version(recordings: dict[str, list[np.ndarray]]) -> None:
    """Levels in dB, coarse enough to hold on any machine; see the same test of the plan."""
    golden = {
        "train": [69.9, 70.1, 61.9, 64.4, 61.8, 64.5, 59.2, 58.8, 62.6, 59.4, 65.0, 64.6],
        "en-clean": [58.5, 62.2, 66.6],
        "en-other": [69.8, 68.8, 64.4],
        "zh-read": [59.4, 68.3, 73.6],
        "zh-meeting": [68.6, 60.6, 65.3],
        "zh-net": [57.5, 70.2, 59.9],
    }
    for name, levels in golden.items():
        heard = [20 * np.log10(samples.astype(np.float64).std()) for samples in recordings[name][: len(levels)]]
        assert heard == pytest.approx(levels, abs=0.2), name
