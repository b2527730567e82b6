"""Scores of a system on a test set: errors of every utterance, the pooled rate with its interval, rows of results.json.

Failed utterances are counted separately. They are not counted in any error rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from arkasr.data.manifests.output_fields import TRUNCATED
from arkasr.errors import InputError
from arkasr.evaluate.error_rate import ErrorCount, count_errors
from arkasr.evaluate.normalize import Profile, Unit
from arkasr.evaluate.significance import Comparison, bootstrap_interval

MODEL_SCOPE = "this one model, over {}s"  # what an interval is valid for; {} = the unit that is resampled


@dataclass(frozen=True)
class Prediction:
    """A system's transcript of an utterance.

    Attributes:
        id: of the utterance.
        reference: None = the utterance cannot be scored.
        hypothesis: None = the utterance failed.
        speaker: any label; None = unknown.
        truncated: the hypothesis was cut off at the limit of tokens.
    """

    id: str
    reference: str | None
    hypothesis: str | None
    speaker: str | None = None
    truncated: bool = False


@dataclass(frozen=True)
class Score:
    """A system's score on a test set.

    Attributes:
        counts: one for each scored utterance, in order.
        scored: the scored predictions, in the same order.
        failed: utterances with a reference but no hypothesis.
        truncated: scored utterances whose hypothesis was cut off at the limit of tokens.
        unscored: utterances without a reference.
        unit: what is counted.
        normalizer: label of the profile.
        ci95: interval of the rate of this one model; None if it cannot be computed.
        resampled: the unit that the bootstrap resamples.
    """

    counts: list[ErrorCount]
    scored: list[Prediction]
    failed: int
    truncated: int
    unscored: int
    unit: Unit
    normalizer: str
    ci95: tuple[float, float] | None
    resampled: Literal["utterance", "speaker"] = "utterance"

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
        """Errors per reference token, pooled; None if no reference has a token."""
        return self.errors / self.reference_tokens if self.reference_tokens else None


def score(
    predictions: Sequence[Prediction],
    *,
    profile: Profile,
    unit: Unit,
    by_speaker: bool = False,
    samples: int = 10_000,
) -> Score:
    """Count errors over a test set.

    Args:
        predictions: one for each utterance.
        profile: normalises references and hypotheses.
        unit: words or characters.
        by_speaker: the bootstrap resamples speakers instead of utterances; every utterance then needs a speaker.
        samples: number of bootstrap samples.

    Raises:
        InputError: speakers are resampled, and an utterance has none.
    """
    without_speaker = next((item.id for item in predictions if item.speaker is None), None)
    if by_speaker and without_speaker is not None:
        raise InputError(f"{without_speaker} has no `speaker` to resample by; give it one, or resample utterances")
    with_reference = [item for item in predictions if item.reference is not None]
    scored = [item for item in with_reference if item.hypothesis is not None]
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
        failed=len(with_reference) - len(scored),
        truncated=sum(item.truncated for item in scored),
        unscored=len(predictions) - len(with_reference),
        unit=unit,
        normalizer=profile.label,
        ci95=ci95,
        resampled="speaker" if by_speaker else "utterance",
    )


def prediction_of(row: Mapping[str, Any]) -> Prediction:
    """The prediction in a manifest row that `evaluate` wrote."""
    truncated = TRUNCATED in row.get("pred_flags", ())
    return Prediction(row["id"], row.get("text"), row.get("pred_text"), row.get("speaker"), truncated)


def number_of_speakers(predictions: Sequence[Prediction]) -> int | None:
    """Number of different speakers; None if an utterance has no speaker, or there is no utterance."""
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
        "ci95_of": MODEL_SCOPE.format(score.resampled),
        "utterances": len(score.scored),
        "speakers": number_of_speakers(score.scored),
        "failed": score.failed,
        "truncated": score.truncated,
        "unscored": score.unscored,
        "normalizer": score.normalizer,
    }


def comparison_row(
    a: str, b: str, set_name: str, comparison: Comparison, ran_once: Sequence[str] = ()
) -> dict[str, Any]:
    """A row of `comparisons` in `results.json`; `ran_once` as in `Comparison.speaks_of`."""
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
