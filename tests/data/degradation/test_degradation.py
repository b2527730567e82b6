"""What a student hears: its random choices, and what each effect is asked for."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.degradation import effects
from arkasr.data.degradation.degradation import Degradation
from arkasr.data.degradation.settings import DegradationSettings
from arkasr.data.degradation.sounds import Sounds, UnreadableSoundError
from arkasr.data.manifests.manifest import Utterance, read_manifest
from arkasr.errors import InputError

ALWAYS = {"probability": 1}
EFFECTS = {
    "speed": ALWAYS,
    "reverberation": ALWAYS,
    "noise": ALWAYS,
    "level": {**ALWAYS, "gain_db": [-20, -3]},
    "telephone": ALWAYS,
    "codec": ALWAYS,
}


def speech(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """Noise with syllables."""
    samples = int(seconds * SAMPLE_RATE)
    noise = effects.coloured_noise(samples, np.random.default_rng(seed), 1.0)
    return effects.normalise(noise * np.sin(np.arange(samples) / 1_000).astype(np.float32), -6)


def utterance(name: str = "a") -> Utterance:
    return Utterance(Path(f"{name}.wav"), None, None, None, "English", name, None, None, {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A manifest of six tones of 2 s, each of its own frequency, the last two as pieces of a file of 9 s."""
    folder = tmp_path_factory.mktemp("voices")
    rows = []
    for number in range(4):
        soundfile.write(folder / f"{number}.wav", tone(2, hertz_of(number)), SAMPLE_RATE, subtype="FLOAT")
        rows.append({"audio": f"{number}.wav", "id": str(number)})
    parts = [tone(3, 100), tone(2, hertz_of(4)), tone(2, hertz_of(5)), tone(2, 100)]
    soundfile.write(folder / "long.wav", np.concatenate(parts), SAMPLE_RATE, subtype="FLOAT")
    rows += [{"audio": "long.wav", "id": str(n), "begin_time": b, "end_time": b + 2} for n, b in ((4, 3.0), (5, 5.0))]
    (folder / "voices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def tone(seconds: float, hertz: float) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE).astype(np.float32)


def hertz_of(number: int) -> int:
    return 1_000 * (number + 1)


def tones_in(signal: np.ndarray) -> set[int]:
    """The numbers of the tones in a signal; −1 = the rest of the long file."""
    spectrum = np.abs(np.fft.rfft(signal)) ** 2
    hertz = np.fft.rfftfreq(len(signal), 1 / SAMPLE_RATE)
    candidates = {-1: 100} | {number: hertz_of(number) for number in range(6)}
    return {n for n, f in candidates.items() if spectrum[abs(hertz - f) < 20].sum() > 0.02 * spectrum.sum()}


def sounds_of(folder: Path, *, is_training_set: bool = True) -> Sounds:
    utterances = read_manifest(folder / "voices.jsonl")
    return Sounds(utterances, [2.0] * len(utterances), is_training_set=is_training_set)


def degradation(folder: Path, seed: int = 3, longest_seconds: float = 30.0, **keys) -> Degradation:
    settings = DegradationSettings.model_validate(keys)
    return Degradation(settings, seed, longest_seconds=longest_seconds, voices=sounds_of(folder))


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_effect_depends_on_seed_epoch_and_utterance_only(folder, effect):
    clip = speech()
    before = clip.copy()
    keys = {effect: EFFECTS[effect]}
    first = degradation(folder, **keys)
    expected = first(clip, utterance(), 2)
    assert expected.dtype == np.float32
    assert np.isfinite(expected).all()
    other_seed = degradation(folder, 4, **keys)(clip, utterance(), 2)
    for other in (clip, first(clip, utterance(), 1), first(clip, utterance("b"), 2), other_seed):
        assert not np.array_equal(other, expected)
    np.testing.assert_array_equal(degradation(folder, **keys)(clip, utterance(), 2), expected)
    np.testing.assert_array_equal(clip, before)


def test_adding_an_effect_does_not_change_the_others(folder):
    clip = speech()
    noisy = degradation(folder, noise=ALWAYS)(clip, utterance(), 0)
    both = degradation(folder, noise=ALWAYS, level={**ALWAYS, "gain_db": [-6, -6]})(clip, utterance(), 0)
    np.testing.assert_array_equal(both, effects.amplify(noisy, -6))


def test_every_effect_gets_its_share_of_the_utterances_independently(folder):
    clip = speech(0.05)
    ids = [str(number) for number in range(1_000)]
    changed = []
    for effect, probability in (("level", 0.3), ("telephone", 0.5)):
        effect_alone = degradation(folder, **{effect: {"probability": probability}})
        # An utterance without an effect is the same array, so that its features are not computed twice.
        changed.append(np.array([effect_alone(clip, utterance(name), 0) is not clip for name in ids]))
        assert changed[-1].mean() == pytest.approx(probability, abs=0.05)
    assert np.corrcoef(*changed)[0, 1] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("kind", ["white", "pink", "brown", "music", "babble", "recorded"])
@pytest.mark.parametrize("snr_db", [-5.0, 12.0])
def test_the_mixture_has_the_requested_signal_to_noise_ratio(folder, kind, snr_db):
    clip = speech(3)
    keys = {**ALWAYS, "snr_db": [snr_db, snr_db], "kinds": [kind]}
    settings = DegradationSettings.model_validate({"noise": keys | ({"recordings": "N"} if kind == "recorded" else {})})
    sounds = sounds_of(folder)
    noisy = Degradation(settings, 0, longest_seconds=30, voices=sounds, recordings=sounds)(clip, utterance(), 0)
    power, noise_power = (np.mean(signal.astype(np.float64) ** 2) for signal in (clip, noisy - clip))
    assert 10 * np.log10(power / noise_power) == pytest.approx(snr_db, abs=0.02)


def test_ranges_are_used_from_end_to_end(folder):
    clip = speech(0.2)
    soften = degradation(folder, level={**ALWAYS, "gain_db": [-20, -10]})
    peaks = [np.abs(soften(clip, utterance(), epoch)).max() for epoch in range(200)]
    levels = 20 * np.log10(np.array(peaks) / np.abs(clip).max())
    assert -20 <= min(levels) < -19
    assert -11 < max(levels) <= -10


@pytest.mark.parametrize(("seconds", "longest", "slowest"), [(1.0, 30.0, 1 / 0.5), (1.0, 1.5, 1.5), (2.0, 2.0, 1.0)])
def test_no_clip_is_slowed_beyond_its_limit(folder, seconds, longest, slowest):
    clip = speech(seconds)
    slower = degradation(folder, longest_seconds=longest, speed={**ALWAYS, "factor": [0.5, 0.6]})
    lengths = [len(slower(clip, utterance(), epoch)) for epoch in range(50)]
    assert max(lengths) <= longest * SAMPLE_RATE
    assert max(lengths) == pytest.approx(slowest * len(clip), rel=0.03)


@pytest.mark.parametrize("samples", [1, 10, 400, 4_001])
@pytest.mark.parametrize("effect", ["reverberation", "noise", "level", "telephone", "codec"])
def test_every_effect_but_speed_keeps_the_length_of_any_clip(folder, effect, samples):
    clip = speech()[5_000 : 5_000 + samples]
    change = degradation(folder, **{effect: EFFECTS[effect]})
    for epoch in range(4):
        degraded = change(clip, utterance(), epoch)
        assert degraded.shape == clip.shape
        assert np.isfinite(degraded).all()


def test_silence_stays_silent(folder):
    silence = np.zeros(8_000, np.float32)
    assert np.abs(degradation(folder, **EFFECTS)(silence, utterance(), 0)).max() < 1e-6


@pytest.mark.parametrize("kind", ["mp3", "vorbis", "opus"])
def test_a_codec_neither_moves_nor_clips_speech_beyond_full_scale(folder, kind):
    clip = speech(2) * 4
    coded = degradation(folder, codec={**ALWAYS, "kinds": [kind]})(clip, utterance(), 0)
    assert np.abs(coded).max() > 1.2
    assert np.corrcoef(coded, clip)[0, 1] > 0.8


def test_babble_is_three_other_voices_and_a_piece_stays_in_its_utterance(folder):
    voices = {"noise": {**ALWAYS, "kinds": ["babble"], "snr_db": [0, 0]}}
    clip = speech(1.0) * 0 + 1  # its spectrum is at 0 Hz
    heard = [tones_in(degradation(folder, **voices)(clip, utterance("2"), epoch) - clip) for epoch in range(40)]
    assert all(1 <= len(tones) <= 3 for tones in heard)
    assert set().union(*heard) == {0, 1, 3, 4, 5}, "never the utterance itself, nor what is around a piece"


def test_a_short_noise_recording_is_repeated(folder):
    settings = DegradationSettings.model_validate(
        {"noise": {**ALWAYS, "kinds": ["recorded"], "recordings": "N", "snr_db": [0, 0]}}
    )
    clip = speech(5)
    noise = Degradation(settings, 0, longest_seconds=30, recordings=sounds_of(folder))(clip, utterance(), 0) - clip
    quarters = [float(np.mean(part**2)) for part in np.array_split(noise, 4)]
    assert quarters == pytest.approx([quarters[0]] * 4, rel=0.01)


def test_an_unreadable_voice_of_the_training_set_is_replaced_and_one_of_another_set_is_an_error(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "1.wav").write_text("no audio")
    settings = DegradationSettings.model_validate({"noise": {**ALWAYS, "kinds": ["babble"]}})
    clip = speech(0.5)

    def heard(epoch, *, is_training_set):
        voices = sounds_of(tmp_path, is_training_set=is_training_set)
        return Degradation(settings, 3, longest_seconds=30, voices=voices)(clip, utterance(), epoch)

    for epoch in range(20):
        assert len(heard(epoch, is_training_set=True)) == len(clip)
    with pytest.raises(
        UnreadableSoundError, match=r"^degradation.noise: \S*1.wav: not audio that can be read"
    ) as refused:
        [heard(epoch, is_training_set=False) for epoch in range(20)]
    assert "\n" not in str(refused.value)
    for number in (0, 2, 3):
        (tmp_path / f"{number}.wav").write_text("no audio")
    with pytest.raises(UnreadableSoundError, match="fewer than 3 of 6 background recordings can be read"):
        heard(0, is_training_set=True)


def test_a_codec_that_libsndfile_lacks_is_named(folder, monkeypatch):
    def write(*_, **__):
        raise soundfile.LibsndfileError(1)

    monkeypatch.setattr(soundfile, "write", write)
    with pytest.raises(InputError, match=r"degradation.codec.kinds: libsndfile \S+ has no opus; remove it, or install"):
        degradation(folder, codec={**ALWAYS, "kinds": ["opus"]})
