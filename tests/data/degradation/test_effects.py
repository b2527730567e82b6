from collections.abc import Callable

import numpy as np
import pytest

from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.degradation import effects

SECONDS = 2


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Speech-like noise: syllables of a quarter second, mostly below 3 kHz."""
    rng = np.random.default_rng(3)
    noise = effects.coloured_noise(SECONDS * SAMPLE_RATE, rng, 1.0)
    time = np.arange(len(noise)) / SAMPLE_RATE
    return effects.normalise((noise * np.sin(np.pi * 4 * time) ** 2).astype(np.float32), -6)


def power(signal: np.ndarray) -> float:
    return float(np.mean(signal.astype(np.float64) ** 2))


def power_between(signal: np.ndarray, low: float, high: float) -> float:
    spectrum = np.abs(np.fft.rfft(signal)) ** 2
    hertz = np.fft.rfftfreq(len(signal), 1 / SAMPLE_RATE)
    return float(spectrum[(hertz >= low) & (hertz < high)].sum())


EVERY_DEGRADATION: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "noise": lambda x, rng: effects.mix(x, effects.coloured_noise(len(x), rng, 1.0), 10),
    "babble": lambda x, rng: effects.mix(x, effects.babble([x[:9000], x[5000:], x], len(x), rng), 10),
    "room": lambda x, rng: effects.reverberate(x, rng, 0.4, 3),
    "telephone": lambda x, rng: effects.telephone(x, 300, 3400),
    "vorbis": lambda x, rng: effects.lossy_codec(x, "OGG", "VORBIS", 1.0),
    "opus": lambda x, rng: effects.lossy_codec(x, "OGG", "OPUS", 0.97),
    "mp3": lambda x, rng: effects.lossy_codec(x, "MP3", "MPEG_LAYER_III", 0.98),
    "levels": lambda x, rng: effects.uneven_level(x, rng, 9),
    "music": lambda x, rng: effects.mix(x, effects.music(len(x), rng), 10),
}


@pytest.mark.parametrize("name", EVERY_DEGRADATION)
def test_degradations_change_the_speech_keep_its_timing_and_are_repeatable(name: str, speech: np.ndarray) -> None:
    worse = EVERY_DEGRADATION[name](speech, np.random.default_rng(1))
    again = EVERY_DEGRADATION[name](speech, np.random.default_rng(1))
    np.testing.assert_array_equal(worse, again)
    assert worse.dtype == np.float32
    assert worse.shape == speech.shape
    assert np.isfinite(worse).all()
    assert not np.allclose(worse, speech, atol=1e-4)
    length = 2 * len(speech)
    correlation = np.fft.irfft(np.fft.rfft(worse, length) * np.conj(np.fft.rfft(speech, length)))
    assert abs((int(np.argmax(correlation)) + len(speech)) % length - len(speech)) <= 2


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 25.0])
def test_mix_has_the_requested_signal_to_noise_ratio(snr_db: float, speech: np.ndarray) -> None:
    noise = effects.coloured_noise(len(speech), np.random.default_rng(0), 0.5)
    mixed = effects.mix(speech, noise, snr_db)
    assert 10 * np.log10(power(speech) / power(mixed - speech)) == pytest.approx(snr_db, abs=0.01)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_power_falls_with_the_slope(slope: float) -> None:
    noise = effects.coloured_noise(20 * SAMPLE_RATE, np.random.default_rng(0), slope)
    octaves = [power_between(noise, low, 2 * low) / low for low in (125, 250, 500, 1000, 2000)]
    per_octave = np.polyfit(np.arange(5), 10 * np.log10(octaves), 1)[0]
    assert per_octave == pytest.approx(-slope * 10 * np.log10(2), abs=0.3)


@pytest.mark.parametrize("rt60", [0.2, 0.5])
def test_a_room_has_the_requested_rt60_and_direct_level(rt60: float) -> None:
    impulse = np.zeros(SAMPLE_RATE, np.float32)
    impulse[0] = 1
    response = effects.reverberate(impulse, np.random.default_rng(5), rt60, 4.0).astype(np.float64)
    assert 10 * np.log10(response[0] ** 2 / (response[1:] ** 2).sum()) == pytest.approx(4.0, abs=0.1)
    tail = response[int(0.04 * SAMPLE_RATE) :]
    schroeder = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1] / (tail**2).sum() + 1e-12)
    measured = 3 * (np.argmax(schroeder < -25) - np.argmax(schroeder < -5)) / SAMPLE_RATE
    assert measured == pytest.approx(rt60, rel=0.2)


def test_a_telephone_passes_only_its_band() -> None:
    white = np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE).astype(np.float32)
    filtered = effects.telephone(white, 300, 3400)
    inside = power_between(filtered, 500, 3000) / power_between(white, 500, 3000)
    assert inside == pytest.approx(1, abs=0.1)
    for low, high in ((0, 200), (4100, 8000)):
        assert power_between(filtered, low, high) < 0.003 * power_between(white, low, high)


def test_levels_jump_by_no_more_than_the_depth(speech: np.ndarray) -> None:
    loud = speech + 2
    gain_db = 20 * np.log10(effects.uneven_level(loud, np.random.default_rng(2), 9) / loud)
    assert gain_db.max() <= 0.001
    assert gain_db.min() >= -9.001
    assert gain_db.max() - gain_db.min() > 3


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.934567, 1.0, 1.1, 2.0])
def test_another_speed_changes_length_and_pitch_alike(factor: float) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    played = effects.change_speed(tone, factor)
    assert played.dtype == np.float32
    assert len(played) == round(len(tone) / factor)
    spectrum = np.abs(np.fft.rfft(played * np.hanning(len(played))))
    assert np.argmax(spectrum) * SAMPLE_RATE / len(played) == pytest.approx(440 * factor, abs=1)


def test_a_gain_changes_the_level_and_clips_at_full_scale(speech: np.ndarray) -> None:
    softer, louder = effects.amplify(speech, -20), effects.amplify(speech, 20)
    np.testing.assert_allclose(softer, speech / 10, rtol=1e-5)
    np.testing.assert_allclose(louder, np.clip(speech * 10, -1, 1), rtol=1e-5)
    assert np.abs(louder).max() == 1


def test_normalise_sets_the_peak(speech: np.ndarray) -> None:
    assert np.abs(effects.normalise(speech, -20)).max() == pytest.approx(0.1, rel=1e-4)
