"""Degradations of clean speech: noise, rooms, babble, telephones, lossy codecs, music, speed, level.

Every function takes and returns float32 `[samples]` at 16 kHz. All but `change_speed` keep the length. All random
choices come from the generator that is passed in, so an utterance depends only on its own seed. Sets and speakers are
left to others.
"""

import io
from collections.abc import Sequence

import numpy as np
import soundfile
import soxr

from arkasr.data.audio import SAMPLE_RATE

TELEPHONE_RATE = 8_000  # samples per second
_MU = 255  # ITU-T G.711
_DECAY_60_DB = float(np.log(1000))  # the exponent at which an exponential has fallen by 60 dB
_EARLY_REFLECTIONS = 6
_EARLY_SECONDS = (0.002, 0.03)
_EARLY_OVER_TAIL = 4  # amplitude of an early reflection over that of the tail at the same time
_TAIL_STARTS = SAMPLE_RATE // 200
_LOWEST_NOISE_HERTZ = 50  # below it, the power of coloured noise is constant


def mix(speech: np.ndarray, disturbance: np.ndarray, snr_db: float) -> np.ndarray:
    """`speech` plus `disturbance` at a level `snr_db` below it; levels are RMS over the utterance."""
    scale = _rms(speech) / max(_rms(disturbance), 1e-9) * 10 ** (-snr_db / 20)
    return speech + disturbance * np.float32(scale)


def coloured_noise(samples: int, rng: np.random.Generator, slope: float) -> np.ndarray:
    """Stationary noise whose power falls with frequency as `f ** -slope`: 0 is white, 1 pink, 2 brown."""
    length = _fast_length(samples)
    spectrum = np.fft.rfft(rng.standard_normal(length, dtype=np.float32))
    hertz = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), _LOWEST_NOISE_HERTZ)
    shape = (hertz ** (-slope / 2)).astype(np.float32)
    return np.fft.irfft(spectrum * shape)[:samples].astype(np.float32)


def babble(voices: Sequence[np.ndarray], samples: int, rng: np.random.Generator) -> np.ndarray:
    """The sum of all voices, each repeated from a random start and at a random level."""
    total = np.zeros(samples, np.float32)
    for voice in voices:
        start = rng.integers(len(voice))
        level = np.float32(10 ** (rng.uniform(-6, 0) / 20) / max(_rms(voice), 1e-9))
        total += np.resize(np.roll(voice, -start), samples) * level
    return total


def reverberate(
    speech: np.ndarray, rng: np.random.Generator, rt60: float, direct_to_reverberant_db: float
) -> np.ndarray:
    """Speech in a room: the direct path, a few early reflections and an exponentially decaying tail.

    Args:
        speech: float32 `[samples]`.
        rng: source of the random reflections.
        rt60: seconds in which the reverberation falls by 60 dB.
        direct_to_reverberant_db: energy of the direct path over that of the rest; lower values mean a larger distance.
    """
    time = np.arange(int(rt60 * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    envelope = np.exp(-_DECAY_60_DB * time / rt60).astype(np.float32)
    tail = rng.standard_normal(len(time), dtype=np.float32) * envelope
    tail[:_TAIL_STARTS] = 0
    for delay in rng.uniform(*_EARLY_SECONDS, size=_EARLY_REFLECTIONS):
        sign = rng.choice((-1, 1))
        tail[int(delay * SAMPLE_RATE)] += _EARLY_OVER_TAIL * sign * np.exp(-_DECAY_60_DB * delay / rt60)
    response = tail * np.float32(10 ** (-direct_to_reverberant_db / 20) / np.sqrt((tail**2).sum()))
    response[0] = 1
    return _convolve(speech, response)


def telephone(speech: np.ndarray, low: float, high: float) -> np.ndarray:
    """Speech through a telephone: from `low` to `high` hertz, at 8 kHz, in eight bits of mu-law per sample."""
    narrow = soxr.resample(band_limit(speech, low, high), SAMPLE_RATE, TELEPHONE_RATE)
    peak = max(float(np.abs(narrow).max()), 1e-9)
    compressed = np.sign(narrow) * np.log1p(_MU * np.abs(narrow) / peak) / np.log1p(_MU)
    quantised = np.round(compressed * 127) / 127
    expanded = np.sign(quantised) * np.expm1(np.abs(quantised) * np.log1p(_MU)) / _MU * peak
    return _fit(soxr.resample(expanded.astype(np.float32), TELEPHONE_RATE, SAMPLE_RATE), len(speech))


def band_limit(speech: np.ndarray, low: float, high: float) -> np.ndarray:
    """Speech between `low` and `high` hertz; the gain falls to zero at `0.8 * low` and `1.2 * high`."""
    length = _fast_length(len(speech))
    hertz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    gain = np.clip((hertz / low - 0.8) / 0.2, 0, 1) * np.clip((1.2 - hertz / high) / 0.2, 0, 1)
    filtered = np.fft.irfft(np.fft.rfft(speech, length) * gain.astype(np.float32))
    return filtered[: len(speech)].astype(np.float32)


def lossy_codec(speech: np.ndarray, container: str, codec: str, compression: float) -> np.ndarray:
    """Speech encoded and decoded by a lossy codec of libsndfile.

    Args:
        speech: float32 `[samples]`, within -1 and 1.
        container: libsndfile's major format, `MP3` or `OGG`.
        codec: libsndfile's subtype, `MPEG_LAYER_III`, `VORBIS` or `OPUS`.
        compression: from 0 (most bits) to 1 (fewest bits; MP3 takes at most 0.98).
    """
    file = io.BytesIO()
    soundfile.write(file, speech, SAMPLE_RATE, format=container, subtype=codec, compression_level=compression)
    file.seek(0)
    return _fit(soundfile.read(file, dtype="float32")[0], len(speech))


def change_speed(speech: np.ndarray, factor: float) -> np.ndarray:
    """Speech played `factor` times as fast, as from a tape: pitch changes too (Ko and others, 2015).

    Returns:
        float32 `[round(samples / factor)]`, at least one sample.
    """
    samples = max(round(len(speech) / factor), 1)
    return _fit(soxr.resample(speech, SAMPLE_RATE * factor, SAMPLE_RATE), samples)


def amplify(speech: np.ndarray, gain_db: float) -> np.ndarray:
    """Speech with another gain; what exceeds full scale is clipped, as in a recording that is too loud."""
    return np.clip(speech * np.float32(10 ** (gain_db / 20)), -1, 1)


def uneven_level(speech: np.ndarray, rng: np.random.Generator, depth_db: float) -> np.ndarray:
    """Speech whose level jumps every 0.1 to 0.4 seconds, down to `depth_db` lower, as on a lossy network."""
    gain = np.empty(len(speech), np.float32)
    start = 0
    while start < len(speech):
        end = start + int(rng.uniform(0.1, 0.4) * SAMPLE_RATE)
        gain[start:end] = 10 ** (rng.uniform(-depth_db, 0) / 20)
        start = end
    ramp = np.full(80, 1 / 80, np.float32)
    return speech * np.convolve(np.pad(gain, (40, 39), mode="edge"), ramp, mode="valid")


def music(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Chords of three plucked notes with a few harmonics, a new one every half second or so."""
    total = np.zeros(samples, np.float32)
    start = 0
    while start < samples:
        length = min(int(rng.uniform(0.35, 0.7) * SAMPLE_RATE), samples - start)
        time = np.arange(length, dtype=np.float32) / SAMPLE_RATE
        root = 110 * 2 ** (rng.integers(0, 24) / 12)
        chord = np.zeros(length, np.float32)
        for semitones in (0, rng.choice((3, 4)), 7):
            hertz = root * 2 ** (semitones / 12)
            for harmonic in (1, 2, 3):
                chord += np.sin(np.float32(2 * np.pi * hertz * harmonic) * time) / np.float32(harmonic)
        total[start : start + length] = chord * np.exp(-3 * time)
        start += length
    return total


def normalise(speech: np.ndarray, peak_db: float) -> np.ndarray:
    """Speech scaled to a peak of `peak_db` relative to full scale (`peak_db` is negative)."""
    return speech * np.float32(10 ** (peak_db / 20) / max(float(np.abs(speech).max()), 1e-9))


def _rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(signal), dtype=np.float64)))


def _fast_length(samples: int) -> int:
    """The next multiple of 4096, which an FFT computes fast."""
    step = 4096
    return -(-samples // step) * step


def _convolve(signal: np.ndarray, response: np.ndarray) -> np.ndarray:
    length = _fast_length(len(signal) + len(response))
    product = np.fft.rfft(signal, length) * np.fft.rfft(response, length)
    return np.fft.irfft(product, length)[: len(signal)].astype(np.float32)


def _fit(signal: np.ndarray, samples: int) -> np.ndarray:
    return np.pad(signal, (0, max(0, samples - len(signal))))[:samples]
