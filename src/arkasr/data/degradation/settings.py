"""The keys of a recipe that say how the recording is degraded that a student hears.

docs/recipe.md is generated from the docstrings below the fields.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from arkasr.settings import Settings, first_repeated


def _in_order(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"[{limits[0]:g}, {limits[1]:g}]: give the lower limit first")
    return limits


Factor = Annotated[float, Field(ge=0.5, le=2)]
ReverberationTime = Annotated[float, Field(ge=0.1, le=5)]
Decibels = Annotated[float, Field(ge=-60, le=60)]
LowEdge = Annotated[float, Field(ge=50, le=1000)]
HighEdge = Annotated[float, Field(ge=2000, le=4000)]
Compression = Annotated[float, Field(ge=0, le=0.98)]
InOrder = AfterValidator(_in_order)
Codec = Literal["mp3", "vorbis", "opus"]
Noise = Literal["white", "pink", "brown", "music", "babble", "recorded"]


class EffectSettings(Settings):
    """Keys of every effect."""

    probability: float = Field(ge=0, le=1)
    """Share of the utterances that get this effect. It is drawn anew in every epoch, for each effect by itself."""


class SpeedSettings(EffectSettings):
    """The recording is played faster or slower, and its pitch changes with the speed."""

    factor: Annotated[tuple[Factor, Factor], InOrder] = (0.9, 1.1)
    """Lowest and highest speed of the student's recording, 1 = unchanged. The teacher hears the recording at its own
    speed. A recording is slowed down less if it would become longer than `batch_seconds` or than the student takes
    (30 s, or Whisper's window). Batches hold fewer utterances, so that slow ones fit into `batch_seconds`."""


class ReverberationSettings(EffectSettings):
    """The speaker is in a room. The room is random: early reflections and a decaying tail."""

    rt60_seconds: Annotated[tuple[ReverberationTime, ReverberationTime], InOrder] = (0.2, 0.8)
    """Time in which the reverberation falls by 60 dB, in seconds."""

    direct_to_reverberant_db: Annotated[tuple[Decibels, Decibels], InOrder] = (0.0, 10.0)
    """Energy of the direct sound relative to the reverberation, in dB. Lower: the speaker is farther away."""


class NoiseSettings(EffectSettings):
    """One noise is added. Its kind is drawn from `kinds`."""

    snr_db: Annotated[tuple[Decibels, Decibels], InOrder] = (0.0, 20.0)
    """Level of the speech relative to the noise, in dB. Levels are mean powers over the utterance, pauses included."""

    kinds: list[Noise] = Field(default=["white", "pink", "babble"], min_length=1)
    """`white`, `pink`, `brown`: stationary noise whose power falls by 0, 3 or 6 dB per octave. `music`: random chords.
    `babble`: three other utterances at the same time. `recorded`: a random piece of a recording."""

    voices: str | None = None
    """Set of the voices in `babble`. `null`: the set on which the stage trains. Needed if that set is streamed."""

    recordings: str | None = None
    """Set of noise recordings, of any length, for `recorded`. A text is not needed. Shorter recordings are repeated."""

    @model_validator(mode="after")
    def _kinds_and_sets_agree(self) -> "NoiseSettings":
        if (repeated := first_repeated(self.kinds)) is not None:
            raise ValueError(f"kinds: {repeated!r} occurs twice; remove one")
        if "recorded" in self.kinds and self.recordings is None:
            raise ValueError("recordings: `recorded` noise needs a set of noise recordings; name it")
        if self.recordings is not None and "recorded" not in self.kinds:
            raise ValueError("recordings: is not used; add `recorded` to `kinds`, or remove the key")
        if self.voices is not None and "babble" not in self.kinds:
            raise ValueError("voices: is not used; add `babble` to `kinds`, or remove the key")
        return self


class LevelSettings(EffectSettings):
    """The recording is softer or louder."""

    gain_db: Annotated[tuple[Decibels, Decibels], InOrder] = (-20.0, 6.0)
    """Change of the level, in dB. Samples beyond full scale are clipped, as in a recording that is too loud."""


class TelephoneSettings(EffectSettings):
    """The recording comes through a telephone: a narrow band, sampled at 8 kHz, eight bits of mu-law per sample."""

    low_hertz: Annotated[tuple[LowEdge, LowEdge], InOrder] = (200.0, 400.0)
    """Lower edge of the band, in hertz."""

    high_hertz: Annotated[tuple[HighEdge, HighEdge], InOrder] = (3000.0, 3600.0)
    """Upper edge of the band, in hertz."""


class CodecSettings(EffectSettings):
    """The recording is encoded by a lossy codec and decoded again. The codec is drawn from `kinds`."""

    kinds: list[Codec] = Field(default=["mp3", "vorbis", "opus"], min_length=1)
    """Codecs of libsndfile."""

    compression: Annotated[tuple[Compression, Compression], InOrder] = (0.9, 0.98)
    """libsndfile's compression level, from 0 (most bits) to 0.98 (fewest bits)."""

    @model_validator(mode="after")
    def _kinds_differ(self) -> "CodecSettings":
        if (repeated := first_repeated(self.kinds)) is not None:
            raise ValueError(f"kinds: {repeated!r} occurs twice; remove one")
        return self


class DegradationSettings(Settings):
    """What the student hears. Effects are applied in the order of these keys. A missing effect is not applied.

    The teacher hears the recording as it is. Ranges are `[lowest, highest]`; a value is drawn uniformly from them.
    """

    speed: SpeedSettings | None = None
    """Faster or slower speech."""

    reverberation: ReverberationSettings | None = None
    """A room."""

    noise: NoiseSettings | None = None
    """Noise, music or other voices."""

    level: LevelSettings | None = None
    """Another level, with clipping."""

    telephone: TelephoneSettings | None = None
    """A telephone line."""

    codec: CodecSettings | None = None
    """A lossy codec at a low bit rate."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> "DegradationSettings":
        if all(getattr(self, effect) is None for effect in type(self).model_fields):
            raise ValueError(f"names no effect; give one of {', '.join(type(self).model_fields)}, or remove the key")
        return self

    @property
    def lengthening(self) -> float:
        """Largest factor by which an utterance may become longer, at least 1."""
        return 1 / min(self.speed.factor[0], 1.0) if self.speed is not None else 1.0

    @property
    def sets(self) -> dict[str, str]:
        """The sets whose audio is mixed into the speech, by key."""
        if self.noise is None:
            return {}
        sets = {"noise.voices": self.noise.voices, "noise.recordings": self.noise.recordings}
        return {key: name for key, name in sets.items() if name is not None}

    @property
    def needs_voices_of_training_set(self) -> bool:
        """Whether the training set itself speaks in the background."""
        return self.noise is not None and "babble" in self.noise.kinds and self.noise.voices is None
