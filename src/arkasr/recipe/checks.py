"""What can be known of a recipe's sets before anything is computed on them: length, labels, languages, speakers."""

from collections.abc import Sequence

from arkasr.data.audio import LONGEST_CLIP_SECONDS
from arkasr.data.manifest import Utterance
from arkasr.errors import InputError
from arkasr.recipe.evaluation import scoring_of
from arkasr.recipe.settings import TrainingStageSettings
from arkasr.recipe.workshop import Workshop
from arkasr.train.stage import Stage
from arkasr.train.stages.opd import DistillationStage

ROUNDING_SECONDS = 0.01


def check_test_sets(workshop: Workshop) -> None:
    """See that every test set can be scored as the recipe asks.

    Raises:
        InputError: a set is not there, its languages are scored in different ways, nothing in it has a reference,
            or speakers are to be drawn and one is not known.
    """
    settings = workshop.recipe.evaluation
    for name in settings.sets:
        scoring_of(workshop, name)
        utterances = workshop.set(name)
        if all(utterance.text is None for utterance in utterances):
            raise InputError(f"sets.{name}: no utterance has a text to score against; give it labels")
        nameless = next((utterance.id for utterance in utterances if utterance.speaker is None), None)
        if settings.resample == "speaker" and nameless is not None:
            raise InputError(
                f"evaluation.resample: {nameless} of set {name} has no `speaker`; give it one, or take `utterance`"
            )


def check_heard(
    source: str,
    utterances: Sequence[Utterance],
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
    limit = min(LONGEST_CLIP_SECONDS + ROUNDING_SECONDS, settings.optimization.batch_seconds)
    too_long = [item for item, seconds in zip(utterances, durations, strict=True) if seconds > limit]
    if too_long:
        raise InputError(
            f"{source}: {len(too_long)} of {len(utterances)} utterances are longer than {limit:g} s, which is what the "
            f"model or a batch holds; the first is {too_long[0].id}; leave them out with the set's `max_seconds`"
        )
    if not isinstance(stage, DistillationStage):
        unlabelled = next((utterance.id for utterance in utterances if utterance.text is None), None)
        if unlabelled is not None:
            raise InputError(f"{source}: {unlabelled} has no `text`, and this stage learns from labels")
    asked = [stage.student.prompt_text]
    if isinstance(stage, DistillationStage):
        asked.append(stage.teacher.prompt_text)
    for prompt_text in asked:
        for language in {utterance.language for utterance in utterances}:
            try:
                prompt_text(language)
            except InputError as error:
                raise InputError(f"{source}: {error}") from error
