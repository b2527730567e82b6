"""What can be known of a recipe's sets before anything is computed on them: length, labels, languages, speakers."""

from collections.abc import Callable, Sequence

from arkasr.data.audio import LONGEST_CLIP_SECONDS
from arkasr.data.batches import places_longer_than
from arkasr.data.manifests.manifest import Utterance
from arkasr.data.manifests.utterances import Utterances
from arkasr.errors import InputError
from arkasr.recipe.settings import TrainingStageSettings
from arkasr.run.context import RunContext
from arkasr.run.evaluation import scoring_of
from arkasr.train.stage import Stage
from arkasr.train.stages.opd import DistillationStage

ROUNDING_SECONDS = 0.01


def check_test_sets(context: RunContext) -> None:
    """See that every test set can be scored as the recipe asks.

    Raises:
        InputError: a set is not there, its languages are scored in different ways, nothing in it has a reference,
            or speakers are to be drawn and one is not known.
    """
    settings = context.recipe.evaluation
    for name in settings.sets:
        scoring_of(context, name)
        utterances = context.set(name)
        if all(utterance.text is None for utterance in utterances):
            raise InputError(f"sets.{name}: no utterance has a text to score against; give it labels")
        nameless = next((utterance.id for utterance in utterances if utterance.speaker is None), None)
        if settings.resample == "speaker" and nameless is not None:
            raise InputError(
                f"evaluation.resample: {nameless} of set {name} has no `speaker`; give it one, or take `utterance`"
            )


def check_training_set(
    source: str,
    utterances: Utterances,
    durations: Sequence[float],
    stage: Stage,
    settings: TrainingStageSettings,
) -> None:
    """See that a stage can learn from every utterance it is to hear.

    Args:
        source: what the utterances are, for messages.
        utterances: of the set or the labels.
        durations: seconds of each.
        stage: hears them.
        settings: of the stage.

    Raises:
        InputError: names the first utterance that is too long, has no label where one is needed, or is in a language
            that student or teacher cannot be asked in.
    """
    limit = longest_trainable_seconds(settings)
    too_long = places_longer_than(limit, durations)
    if (first := next(too_long, None)) is not None:
        number = 1 + sum(1 for _ in too_long)
        raise InputError(
            f"{source}: {number} of {len(utterances)} utterances are longer than {limit:g} s, which is what the "
            f"model or a batch holds; the first is {utterances[first].id}; leave them out with the set's `max_seconds`"
        )
    if not isinstance(stage, DistillationStage) and (unlabelled := utterances.unlabelled()) is not None:
        raise InputError(f"{source}: {utterances[unlabelled].id} has no `text`, and this stage learns from labels")
    for language in utterances.languages():
        check_language(source, language, stage)


def utterance_check(source: str, stage: Stage, settings: TrainingStageSettings) -> Callable[[Utterance, float], None]:
    """What `check_training_set` sees to, of one utterance after the other: for a set that is not known beforehand."""
    limit = longest_trainable_seconds(settings)
    asked: set[str | None] = set()

    def check(utterance: Utterance, seconds: float) -> None:
        if seconds > limit:
            raise InputError(
                f"{source}: {utterance.id} is {seconds:.1f} s long, the model or a batch holds {limit:g} s; "
                "leave out such utterances with the set's `max_seconds`"
            )
        if utterance.text is None and not isinstance(stage, DistillationStage):
            raise InputError(f"{source}: {utterance.id} has no `text`, and this stage learns from labels")
        if utterance.language not in asked:
            check_language(source, utterance.language, stage)
            asked.add(utterance.language)

    return check


def check_language(source: str, language: str | None, stage: Stage) -> None:
    """See that all recognisers of a stage can be asked in a language.

    Raises:
        InputError: one of them cannot.
    """
    asked = [stage.student.prompt_text]
    if isinstance(stage, DistillationStage):
        asked.append(stage.teacher.prompt_text)
    for prompt_text in asked:
        try:
            prompt_text(language)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error


def longest_trainable_seconds(settings: TrainingStageSettings) -> float:
    """Seconds that the models hear at once and a batch holds."""
    return min(LONGEST_CLIP_SECONDS + ROUNDING_SECONDS, settings.optimization.batch_seconds)
