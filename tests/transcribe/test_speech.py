import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import soxr
import torch

from arkasr.data.corpora.espeak import ESPEAK_SAMPLE_RATE, Voice, speak
from arkasr.data.degradation.effects import coloured_noise
from arkasr.transcribe import speech
from arkasr.transcribe.speech import FRAME_SAMPLES, speech_probabilities, speech_ranges

MINUTE = 60 * 16_000


def ranges_of(waveform):
    probabilities = speech_probabilities(lambda first, last: waveform[first:last], len(waveform))
    assert len(probabilities) == -(-len(waveform) // FRAME_SAMPLES)
    return speech_ranges(probabilities, len(waveform))


def minute_of(kind):
    generator = np.random.default_rng(0)
    times = np.arange(MINUTE) / 16_000
    return {
        "silence": np.zeros(MINUTE),
        "white": generator.normal(size=MINUTE) * 0.05,
        "loud white": generator.normal(size=MINUTE).clip(-3, 3) / 3,
        "pink": coloured_noise(MINUTE, generator, 1.0) * 0.1,
        "brown": coloured_noise(MINUTE, generator, 2.0) * 0.1,
        "hum": 0.3 * np.sin(2 * np.pi * 50 * times),
        "tone": 0.3 * np.sin(2 * np.pi * 1_000 * times),
        "clicks": (np.arange(MINUTE) % 8_000 < 20) * 0.8,
    }[kind].astype(np.float32)


@pytest.mark.parametrize("kind", ["silence", "white", "loud white", "pink", "brown", "hum", "tone", "clicks"])
def test_a_minute_without_speech_has_none(kind):
    assert ranges_of(minute_of(kind)) == []


def test_every_sentence_is_found(long_recording, spoken):
    waveform, begins = long_recording
    ranges = ranges_of(waveform)
    assert all(before.end <= after.begin for before, after in pairwise(ranges))
    for number, begin in enumerate(begins):
        middle = begin + len(spoken[number % len(spoken)]) // 2
        assert any(part.begin <= middle < part.end for part in ranges)
    held = sum(part.samples for part in ranges)
    voiced = sum(len(spoken[number % len(spoken)]) for number in range(len(begins)))
    assert held > 0.85 * voiced


@pytest.mark.parametrize(("factor", "offset"), [(0.002, 0.0), (0.0001, 0.0), (1.9, 0.0), (0.5, 0.3)])
def test_speech_is_not_judged_by_its_level_or_offset(long_recording, factor, offset):
    waveform, _ = long_recording
    expected, found = ranges_of(waveform), ranges_of(np.float32(factor) * waveform + np.float32(offset))
    assert len(found) == len(expected)
    for part, same in zip(found, expected, strict=True):
        assert (part.begin, part.end) == pytest.approx((same.begin, same.end), abs=1_600)


def test_a_bang_or_a_changing_offset_does_not_hide_quiet_speech(long_recording):
    waveform, _ = long_recording
    expected = ranges_of(waveform)
    quiet = 0.02 * waveform
    bang = quiet.copy()
    bang[:16_000] += np.random.default_rng(0).normal(size=16_000).astype(np.float32) * 0.3
    step = quiet + np.where(np.arange(len(quiet)) < len(quiet) // 2, 0.3, 0.0).astype(np.float32)
    for changed in (bang, step):
        found = ranges_of(changed)
        held = sum(max(min(a.end, b.end) - max(a.begin, b.begin), 0) for a in expected for b in found)
        assert held > 0.9 * sum(part.samples for part in expected)


def test_processing_in_blocks_hardly_changes_the_probabilities(long_recording, monkeypatch):
    waveform, _ = long_recording
    expected = speech_probabilities(lambda first, last: waveform[first:last], len(waveform))
    monkeypatch.setattr(speech, "BLOCK_FRAMES", 500)
    blocks = speech_probabilities(lambda first, last: waveform[first:last], len(waveform))
    assert len(blocks) == len(expected)
    assert ((blocks > 0.5) == (expected > 0.5)).mean() > 0.995


def test_loading_silero_keeps_the_number_of_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    speech._silero.cache_clear()
    ranges_of(np.zeros(16_000, dtype=np.float32))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_a_single_word_is_found():
    """Without the padding of silence, Silero misses most of these words."""
    voices = [Voice("gmw/en-US", variant, rate=220) for variant in ("m3", "f2", "m1")]
    for voice in voices:
        for word in ("yes", "no", "two", "eight", "stop"):
            spoken = soxr.resample(speak(word, voice).astype(np.float32) / 2**15, ESPEAK_SAMPLE_RATE, 16_000)
            voiced = np.flatnonzero(np.abs(spoken) > 0.01)
            assert ranges_of(spoken[voiced[0] : voiced[-1]]), (word, voice)


def test_the_detector_reports_to_nobody(tmp_path):
    """ONNX Runtime keeps an identifier and reports on the disk before it sends them."""
    code = (
        "import numpy; from arkasr.transcribe.speech import speech_probabilities; "
        "speech_probabilities(lambda first, last: numpy.zeros(last - first, 'f4'), 9_999)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
