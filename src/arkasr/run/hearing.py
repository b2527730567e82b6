"""What the models of a stage hear: the recordings of its training set, degraded for the student if the recipe says so.

In: the stage and its settings. Out: the dataset of its examples. Batches are left to others.
"""

from collections.abc import Sequence

from arkasr.data.degradation.degradation import BABBLERS, Degradation
from arkasr.data.degradation.sounds import Sounds
from arkasr.data.examples import DegradedHearing, ExampleDataset, FeatureCache, IdentityLookup
from arkasr.data.manifests.utterances import Utterances
from arkasr.errors import InputError
from arkasr.recipe.settings import TrainingStageSettings
from arkasr.run.context import RunContext
from arkasr.train.stage import Stage


def examples_of(
    stage: Stage,
    utterances: Utterances | IdentityLookup,
    degradation: Degradation | None,
    feature_cache: FeatureCache | None = None,
) -> ExampleDataset:
    """The examples of a stage. Only its student hears the degradation."""
    student = stage.student
    if degradation is None:
        frontends = {recognizer.frontend: recognizer.features for recognizer in stage.recognizers}
        return ExampleDataset(utterances, frontends, feature_cache)
    others = {other.frontend: other.features for other in stage.recognizers if other is not student}
    hearing = DegradedHearing(student.frontend, student.features, degradation)
    return ExampleDataset(utterances, others, feature_cache, hearing)


def degradation_of(
    context: RunContext,
    stage: Stage,
    settings: TrainingStageSettings,
    seed: int,
    training: tuple[Utterances, Sequence[float]] | None,
) -> Degradation | None:
    """The degradation of a stage; None if it has none.

    Args:
        context: the run.
        stage: its student hears the degraded recordings.
        settings: of the stage.
        seed: of the stage's order.
        training: the training set and its durations in seconds; None = it is streamed.

    Raises:
        InputError: a set of background recordings cannot be read or is too small, or libsndfile lacks a codec.
    """
    degradation = settings.degradation
    if degradation is None:
        return None
    voices = recordings = None
    if degradation.needs_voices_of_training_set:
        assert training is not None, "a rule refuses this for streamed sets"
        voices = _voices(settings.train, *training, is_training_set=True)
    elif degradation.noise is not None and degradation.noise.voices is not None:
        voices = _voices(degradation.noise.voices, *_measured(context, degradation.noise.voices), is_training_set=False)
    if degradation.noise is not None and degradation.noise.recordings is not None:
        recordings = Sounds(*_measured(context, degradation.noise.recordings), is_training_set=False)
    longest = min(stage.student.longest_clip_seconds, settings.optimization.batch_seconds)
    return Degradation(degradation, seed, longest_seconds=longest, voices=voices, recordings=recordings)


def _voices(name: str, utterances: Utterances, seconds: Sequence[float], *, is_training_set: bool) -> Sounds:
    if len(utterances) <= BABBLERS:
        raise InputError(
            f"degradation.noise: set {name} has {len(utterances)} utterances, and `babble` needs at least "
            f"{BABBLERS + 1}; name a larger set as `voices`, or remove `babble` from `kinds`"
        )
    return Sounds(utterances, seconds, is_training_set=is_training_set)


def _measured(context: RunContext, name: str) -> tuple[Utterances, Sequence[float]]:
    """A set of background recordings and their durations in seconds."""
    utterances, seconds, unmeasured = context.set(name).measured()
    if unmeasured:
        raise InputError(f"degradation.noise: set {name}: {unmeasured[0][1]}")
    return utterances, seconds
