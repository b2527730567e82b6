"""Transcripts against references: errors of every utterance, the pooled rate with its interval, rows of results.json.

An utterance that failed is counted apart: it is neither scored as silence nor dropped unseen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from arkasr.errors import InputError
from arkasr.evaluate.error_rate import ErrorCount, count_errors
from arkasr.evaluate.normalize import Profile, Unit
from arkasr.evaluate.significance import Comparison, bootstrap_interval

OF_ONE_MODEL = "this one model, over {}s"  # what an interval speaks of, by what was drawn


@dataclass(frozen=True)
class Prediction:
    """What a system wrote for an utterance.

    Attributes:
        id: of the utterance.
        reference: None = there is none to score against.
        hypothesis: None = the utterance failed.
        speaker: any label.
    """

    id: str
    reference: str | None
    hypothesis: str | None
    speaker: str | None = None


@dataclass(frozen=True)
class Score:
    """A system on a set.

    Attributes:
        counts: one for each scored utterance, in order.
        scored: the scored predictions, in the same order.
        failed: utterances without a hypothesis.
        unscored: utterances without a reference.
        unit: what is counted.
        normalizer: label of the profile.
        ci95: of the rate, for this one model; None where there is nothing to divide by, or to draw from.
        drawn: what the interval draws.
    """

    counts: list[ErrorCount]
    scored: list[Prediction]
    failed: int
    unscored: int
    unit: Unit
    normalizer: str
    ci95: tuple[float, float] | None
    drawn: Literal["utterance", "speaker"] = "utterance"

    @property
    def errors(self) -> int:
        """Edits over the set."""
        return sum(count.errors for count in self.counts)

    @property
    def reference_tokens(self) -> int:
        """Words or characters of all references."""
        return sum(count.reference_tokens for count in self.counts)

    @property
    def rate(self) -> float | None:
        """Errors per reference token, pooled; None when no reference has a token."""
        return self.errors / self.reference_tokens if self.reference_tokens else None


def score(
    predictions: Sequence[Prediction],
    *,
    profile: Profile,
    unit: Unit,
    by_speaker: bool = False,
    samples: int = 10_000,
) -> Score:
    """Count errors over a set.

    Args:
        predictions: one for each utterance.
        profile: applied to both sides.
        unit: words or characters.
        by_speaker: the interval draws speakers instead of utterances; every utterance then needs a speaker.
        samples: bootstrap samples.

    Raises:
        InputError: speakers are to be drawn and one is not known.
    """
    nameless = next((item.id for item in predictions if item.speaker is None), None)
    if by_speaker and nameless is not None:
        raise InputError(f"{nameless} has no `speaker` to resample by; give it one, or resample utterances")
    judged = [item for item in predictions if item.reference is not None]
    scored = [item for item in judged if item.hypothesis is not None]
    counts = [count_errors(profile(item.reference or ""), profile(item.hypothesis or ""), unit) for item in scored]
    ci95 = bootstrap_interval(
        [count.errors for count in counts],
        [count.reference_tokens for count in counts],
        groups=[item.speaker for item in scored] if by_speaker else None,
        samples=samples,
    )
    return Score(
        counts=counts,
        scored=scored,
        failed=len(judged) - len(scored),
        unscored=len(predictions) - len(judged),
        unit=unit,
        normalizer=profile.label,
        ci95=ci95,
        drawn="speaker" if by_speaker else "utterance",
    )


def number_of_speakers(predictions: Sequence[Prediction]) -> int | None:
    """How many voices; None where an utterance does not name its speaker, or there is no utterance."""
    speakers = {item.speaker for item in predictions}
    return len(speakers) if speakers and None not in speakers else None


def metric_name(unit: Unit) -> str:
    """`wer` for words, `cer` for characters."""
    return "wer" if unit == "word" else "cer"


def results_row(variant: str, seed: int, set_name: str, score: Score) -> dict[str, Any]:
    """A row of `results.json`."""
    return {
        "variant": variant,
        "seed": seed,
        "set": set_name,
        "metric": metric_name(score.unit),
        "errors": score.errors,
        "reference_tokens": score.reference_tokens,
        "rate": score.rate,
        "ci95": list(score.ci95) if score.ci95 else None,
        "ci95_of": OF_ONE_MODEL.format(score.drawn),
        "utterances": len(score.scored),
        "speakers": number_of_speakers(score.scored),
        "failed": score.failed,
        "unscored": score.unscored,
        "normalizer": score.normalizer,
    }


def comparison_row(
    a: str, b: str, set_name: str, comparison: Comparison, ran_once: Sequence[str] = ()
) -> dict[str, Any]:
    """A comparison in `results.json`; `ran_once` as for `Comparison.speaks_of`."""
    return {
        "a": a,
        "b": b,
        "set": set_name,
        "difference": comparison.difference,
        "ci95": list(comparison.ci95) if comparison.ci95 else None,
        "p": comparison.p,
        "test": comparison.test,
        "degrees_of_freedom": comparison.df,
        "speaks_of": comparison.speaks_of(a, b, ran_once),
    }
