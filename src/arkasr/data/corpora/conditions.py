"""Recording conditions as data: the degradations, and the ranges from which their parameters are sampled.

Training and test sets share the kinds of degradation, but not the conditions: rooms, levels, bands and codecs differ.
`data/degradation/effects.py` computes the degradations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from arkasr.data.degradation import effects

Range = tuple[float, float]

_BABBLERS = 3
_PEAK_INTO_CODEC_DB = -3


@dataclass(frozen=True, slots=True)
class Condition:
    """Degradations of one recording condition.

    Each parameter is sampled uniformly from its range, once per utterance. None leaves the degradation out.

    Attributes:
        name: written to the manifest.
        babble_snr: speech over three background speakers, in dB.
        rt60: reverberation time of the room, in seconds.
        direct_to_reverberant: direct sound over reverberation, in dB.
        noise_snr: speech over stationary noise, in dB.
        noise_slope: the noise's power falls as `f ** -slope`: 0 is white, 1 pink, 2 brown.
        music_snr: speech over music, in dB.
        level_jumps: depth of sudden drops in level, in dB.
        telephone_low: lower edge of a telephone band, in hertz.
        telephone_high: upper edge of a telephone band, in hertz.
        codec: libsndfile's container and codec; the speech is encoded and decoded once.
        compression: of that codec, from 0 (most bits) to 1 (fewest bits; MP3 takes at most 0.98).
    """

    name: str
    babble_snr: Range | None = None
    rt60: Range | None = None
    direct_to_reverberant: Range = (0, 0)
    noise_snr: Range | None = None
    noise_slope: Range = (1, 1)
    music_snr: Range | None = None
    level_jumps: Range | None = None
    telephone_low: Range | None = None
    telephone_high: Range = (3400, 3400)
    codec: tuple[str, str] | None = None
    compression: Range = (0.9, 0.9)

    def apply(self, speech: np.ndarray, background: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """The degraded speech.

        Args:
            speech: float32 `[samples]` at 16 kHz.
            background: at least three utterances of other speakers; unused if the condition has no babble.
            rng: source of all random choices.

        Returns:
            float32 `[samples]` at 16 kHz, as long as `speech`.
        """
        samples = len(speech)
        if self.babble_snr:
            voices = [background[index] for index in rng.choice(len(background), size=_BABBLERS, replace=False)]
            speech = effects.mix(speech, effects.babble(voices, samples, rng), rng.uniform(*self.babble_snr))
        if self.rt60:
            distance = rng.uniform(*self.direct_to_reverberant)
            speech = effects.reverberate(speech, rng, rng.uniform(*self.rt60), distance)
        if self.noise_snr:
            noise = effects.coloured_noise(samples, rng, rng.uniform(*self.noise_slope))
            speech = effects.mix(speech, noise, rng.uniform(*self.noise_snr))
        if self.music_snr:
            speech = effects.mix(speech, effects.music(samples, rng), rng.uniform(*self.music_snr))
        if self.level_jumps:
            speech = effects.uneven_level(speech, rng, rng.uniform(*self.level_jumps))
        if self.telephone_low:
            low, high = rng.uniform(*self.telephone_low), rng.uniform(*self.telephone_high)
            speech = effects.telephone(speech, low, high)
        if self.codec:
            speech = effects.normalise(speech, _PEAK_INTO_CODEC_DB)
            speech = effects.lossy_codec(speech, *self.codec, compression=rng.uniform(*self.compression))
        return speech


CLEAN = Condition("clean")

TRAIN_CONDITIONS = (
    Condition("noise", noise_snr=(10, 25), noise_slope=(0, 1.6)),
    Condition("room", rt60=(0.15, 0.4), direct_to_reverberant=(2, 9)),
    Condition("babble", babble_snr=(11, 22)),
    Condition("music", music_snr=(11, 22), level_jumps=(2, 5)),
    Condition("telephone", telephone_low=(120, 320), telephone_high=(3000, 3800), level_jumps=(0, 5)),
    Condition("vorbis", codec=("OGG", "VORBIS"), compression=(0.7, 1.0)),
)

OTHER_CONDITIONS = (
    Condition("noise", noise_snr=(12, 18), noise_slope=(0.4, 1.8), rt60=(0.1, 0.15), direct_to_reverberant=(8, 12)),
)

MEETING_CONDITIONS = (
    Condition(
        "room+babble",
        babble_snr=(14, 19),
        rt60=(0.25, 0.4),
        direct_to_reverberant=(2, 7),
        noise_snr=(22, 28),
    ),
)

NET_CONDITIONS = (
    Condition("telephone", telephone_low=(300, 300), level_jumps=(4, 9)),
    Condition("opus", codec=("OGG", "OPUS"), compression=(0.95, 0.99), music_snr=(12, 18)),
    Condition("mp3", codec=("MP3", "MPEG_LAYER_III"), compression=(0.93, 0.98), level_jumps=(3, 6)),
)
