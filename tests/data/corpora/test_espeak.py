import _ctypes
import ctypes
import hashlib
import subprocess
import sys

import espeakng_loader
import numpy as np
import pytest

from arkasr.data.corpora.espeak import ESPEAK_SAMPLE_RATE, Voice, speak
from arkasr.errors import InputError

SENTENCE = "twenty three people met the doctor"
# Voices with internal state: flutter (m1), breath noise (f2, f5), echo (m2), a Klatt voice, Mandarin.
STATEFUL = [
    Voice("gmw/en-US", "m1"),
    Voice("gmw/en", "f2", rate=190),
    Voice("gmw/en-029", "f5", pitch=60),
    Voice("gmw/en-GB-scotland", "m2"),
    Voice("gmw/en-US", "klatt6"),
    Voice("sit/cmn", "f4", pitch_range=70),
]


def digest(samples: np.ndarray) -> str:
    return hashlib.sha256(samples.tobytes()).hexdigest()


def pitch_in_hertz(samples: np.ndarray) -> float:
    """Median over voiced frames of the autocorrelation's peak between 60 and 400 Hz."""
    found = []
    for start in range(0, len(samples) - 1024, 512):
        frame = samples[start : start + 1024].astype(np.float64) * np.hanning(1024)
        correlation = np.fft.irfft(np.abs(np.fft.rfft(frame, 4096)) ** 2)
        lowest, highest = ESPEAK_SAMPLE_RATE // 400, ESPEAK_SAMPLE_RATE // 60
        lag = lowest + int(np.argmax(correlation[lowest:highest]))
        if correlation[0] > 0 and correlation[lag] > 0.5 * correlation[0]:
            found.append(ESPEAK_SAMPLE_RATE / lag)
    return float(np.median(found))


@pytest.mark.parametrize("voice", STATEFUL, ids=lambda voice: f"{voice.language}+{voice.variant}")
def test_an_utterance_does_not_depend_on_earlier_ones(voice: Voice) -> None:
    first = speak(SENTENCE, voice)
    for times in (1, 3, 7):
        speak("and another thing " * times, Voice("gmw/en-US", "f1", rate=150 + 20 * times))
        np.testing.assert_array_equal(speak(SENTENCE, voice), first)


def test_another_process_gives_the_same_samples() -> None:
    program = (
        "import hashlib, sys\n"
        "from arkasr.data.corpora.espeak import Voice, speak\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    language, variant, rate, pitch, pitch_range = line.split()\n"
        f"    samples = speak({SENTENCE!r}, Voice(language, variant, int(rate), int(pitch), int(pitch_range)))\n"
        "    print(hashlib.sha256(samples.tobytes()).hexdigest())\n"
    )
    voices = STATEFUL[::-1]
    lines = "\n".join(f"{v.language} {v.variant} {v.rate} {v.pitch} {v.pitch_range}" for v in voices)
    spoken = subprocess.run([sys.executable, "-c", program], input=lines, capture_output=True, text=True, check=True)
    assert spoken.stdout.split() == [digest(speak(SENTENCE, voice)) for voice in voices]


def test_voice_settings_change_the_speech() -> None:
    plain = speak(SENTENCE, Voice("gmw/en-US", "m3"))
    assert plain.dtype == np.int16
    assert 1.5 < len(plain) / ESPEAK_SAMPLE_RATE < 2.5
    assert len(speak(SENTENCE, Voice("gmw/en-US", "m3", rate=230))) < 0.85 * len(plain)
    higher = speak(SENTENCE, Voice("gmw/en-US", "m3", pitch=75))
    assert pitch_in_hertz(higher) > 1.15 * pitch_in_hertz(plain)
    accents = ("gmw/en-US", "gmw/en", "gmw/en-GB-scotland", "gmw/en-029", "gmw/en-GB-x-rp", "gmw/en-US-nyc")
    assert len({digest(speak(SENTENCE, Voice(accent, "m3"))) for accent in accents}) == len(accents)


def test_mandarin_has_one_syllable_per_character() -> None:
    voice = Voice("sit/cmn", "m3")
    assert digest(speak("四", voice)) != digest(speak("十", voice))
    assert digest(speak("买", voice)) != digest(speak("卖", voice))
    seconds = len(speak("小王昨天在北京见了老师", voice)) / ESPEAK_SAMPLE_RATE
    assert 0.15 * 11 < seconds < 0.35 * 11


@pytest.mark.parametrize(
    ("voice", "what"),
    [(Voice("gmw/en-XX", "m3"), "language 'en-XX'"), (Voice("gmw/en", "m99"), "variant 'm99'")],
)
def test_an_unknown_voice_is_named(voice: Voice, what: str) -> None:
    with pytest.raises(InputError, match=what):
        speak("hello", voice)


def test_a_library_in_use_elsewhere_is_refused() -> None:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        with pytest.raises(RuntimeError, match="in use elsewhere"):
            speak("hello", Voice("gmw/en", "m3"))
    finally:
        _ctypes.dlclose(library._handle)
    assert len(speak("hello", Voice("gmw/en", "m3"))) > 0
