"""Degrades a recording as the settings say; seed, epoch and utterance id determine everything random.

In: the decoded recording. Out: what the student hears. Features are left to others.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import soundfile

from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.degradation import effects
from arkasr.data.degradation.settings import Codec, CodecSettings, DegradationSettings, EffectSettings, NoiseSettings
from arkasr.data.degradation.sounds import Sounds
from arkasr.data.manifests.manifest import Utterance
from arkasr.data.seeds import stable_seed
from arkasr.errors import InputError

BABBLERS = 3
SLOPES = {"white": 0.0, "pink": 1.0, "brown": 2.0}
CODECS: dict[Codec, tuple[str, str]] = {
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}


class Degradation:
    """Degrades the recordings of a stage's training set.

    Every effect has its own random generator, so that adding an effect does not change the others.

    Args:
        settings: the effects.
        seed: with epoch and utterance id, determines everything random.
        longest_seconds: no recording is slowed down beyond this length.
        voices: other speakers; needed for babble.
        recordings: of noise; needed for recorded noise.

    Raises:
        InputError: this libsndfile cannot write a codec.
    """

    def __init__(
        self,
        settings: DegradationSettings,
        seed: int,
        *,
        longest_seconds: float,
        voices: Sounds | None = None,
        recordings: Sounds | None = None,
    ) -> None:
        self.settings = settings
        self._seed = seed
        self._longest = int(longest_seconds * SAMPLE_RATE)
        self._voices = voices
        self._recordings = recordings
        if settings.codec is not None:
            _check_codecs(settings.codec.kinds)

    def __call__(self, speech: np.ndarray, utterance: Utterance, epoch: int) -> np.ndarray:
        """The degraded recording of an utterance.

        Args:
            speech: the recording, float32 `[samples]` at 16 kHz; not changed.
            utterance: its id determines the random choices.
            epoch: counts from 0.

        Returns:
            float32 at 16 kHz, as long as `speech` unless its speed changes; `speech` itself if it gets no effect.

        Raises:
            UnreadableSoundError: a recording for the background cannot be read.
        """
        settings, generator_of = self.settings, partial(self._generator, utterance, epoch)
        if (speed := settings.speed) and (rng := generator_of("speed", speed)):
            factor = max(rng.uniform(*speed.factor), len(speech) / self._longest)
            speech = effects.change_speed(speech, factor)
        if (room := settings.reverberation) and (rng := generator_of("reverberation", room)):
            rt60, distance = rng.uniform(*room.rt60_seconds), rng.uniform(*room.direct_to_reverberant_db)
            speech = effects.reverberate(speech, rng, rt60, distance)
        if (noise := settings.noise) and (rng := generator_of("noise", noise)):
            snr = rng.uniform(*noise.snr_db)
            speech = effects.mix(speech, self._noise(noise, len(speech), rng, utterance.id), snr)
        if (level := settings.level) and (rng := generator_of("level", level)):
            speech = effects.amplify(speech, rng.uniform(*level.gain_db))
        if (telephone := settings.telephone) and (rng := generator_of("telephone", telephone)):
            low, high = rng.uniform(*telephone.low_hertz), rng.uniform(*telephone.high_hertz)
            speech = effects.telephone(speech, low, high)
        if (codec := settings.codec) and (rng := generator_of("codec", codec)):
            speech = _through_codec(speech, codec, rng)
        return speech

    def _generator(
        self, utterance: Utterance, epoch: int, name: str, effect: EffectSettings
    ) -> np.random.Generator | None:
        """The random generator of an effect; None if the utterance does not get the effect in this epoch."""
        rng = np.random.default_rng(stable_seed(self._seed, epoch, utterance.id, name))
        return rng if rng.random() < effect.probability else None

    def _noise(self, noise: NoiseSettings, samples: int, rng: np.random.Generator, utterance: str) -> np.ndarray:
        """Noise of a random kind, float32 `[samples]`, at any level."""
        kind = noise.kinds[rng.integers(len(noise.kinds))]
        if kind in SLOPES:
            return effects.coloured_noise(samples, rng, SLOPES[kind])
        if kind == "music":
            return effects.music(samples, rng)
        if kind == "babble":
            assert self._voices is not None
            return effects.babble(self._voices.pieces(BABBLERS, samples, rng, without=utterance), samples, rng)
        assert self._recordings is not None
        [piece] = self._recordings.pieces(1, samples, rng, without=utterance)
        return np.resize(piece, samples)


def _through_codec(speech: np.ndarray, codec: CodecSettings, rng: np.random.Generator) -> np.ndarray:
    """The speech after a random codec. Codecs clip beyond full scale, so louder speech is scaled and scaled back."""
    container, name = CODECS[codec.kinds[rng.integers(len(codec.kinds))]]
    scale = np.float32(max(1.0, float(np.abs(speech).max())))
    return effects.lossy_codec(speech / scale, container, name, rng.uniform(*codec.compression)) * scale


def _check_codecs(kinds: Sequence[Codec]) -> None:
    for kind in kinds:
        try:
            effects.lossy_codec(np.zeros(SAMPLE_RATE // 10, np.float32), *CODECS[kind], compression=0.9)
        except (soundfile.LibsndfileError, ValueError) as error:
            raise InputError(
                f"degradation.codec.kinds: libsndfile {soundfile.__libsndfile_version__} has no {kind}; remove it, or "
                "install a newer libsndfile, such as that of soundfile's wheel"
            ) from error
