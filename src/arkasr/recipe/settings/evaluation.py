"""The keys of a recipe that say how its variants are scored and compared."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from arkasr.data.languages import canonical_language
from arkasr.evaluate.normalize import get_profile
from arkasr.settings import Settings, first_repeated


class EvaluationSettings(Settings):
    """How the variants are scored and compared (docs/evaluation.md)."""

    sets: list[str] = Field(default=[])
    """Test sets, in the order of the table's columns. All languages of a set must have the same normaliser and the same
    unit (words or characters). Not streamed sets."""

    normalizer: dict[str, str] = Field(default={"default": "basic"})
    """Text normaliser by language. The language is a name or a code. `default` is required and is for the other
    languages. Values: `identity`, `basic`, `whisper-en`, `zh`, `upstream-ark`, each in its newest version. A version
    after `@` names an older one: `basic@1`."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Maximum tokens of a transcript."""

    batch_seconds: float = Field(default=120.0, gt=0)
    """Maximum audio that is decoded at once, in seconds."""

    comparisons: list[tuple[str, str]] = Field(default=[])
    """Pairs of variants to test against each other, on all sets together and on each set."""

    samples: int = Field(default=10_000, ge=100)
    """Number of samples of a bootstrap interval and of a permutation test."""

    resample: Literal["utterance", "speaker"] = "utterance"
    """What is resampled for intervals and tests. `utterance`: utterances, within each set. `speaker`: speakers, over
    all sets; every utterance needs a `speaker`."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "EvaluationSettings":
        if "default" not in self.normalizer:
            raise ValueError("normalizer: needs a profile for `default`, the languages that it does not name")
        for profile in self.normalizer.values():
            get_profile(profile)
        if repeated := first_repeated(self.sets):
            raise ValueError(f"sets: {repeated!r} occurs twice; remove one")
        return self

    @field_validator("normalizer")
    @classmethod
    def _canonical(cls, profiles: dict[str, str]) -> dict[str, str]:
        return {
            language if language == "default" else canonical_language(language): profile
            for language, profile in profiles.items()
        }
