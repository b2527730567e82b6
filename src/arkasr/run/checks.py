"""Checks of sets: test sets at the start of a run, a training set before its stage, a streamed set as it is read."""

from collections.abc import Callable, Sequence

from arkasr.data.batches import indices_longer_than
from arkasr.data.manifests.manifest import Utterance
from arkasr.data.manifests.utterances import Utterances
from arkasr.errors import InputError
from arkasr.recipe.settings import OpdStageSettings, Recipe, TrainingStageSettings
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.scoring import check_transcript_length
from arkasr.run.context import RunContext
from arkasr.run.evaluation import scoring_of
from arkasr.train.stage import Stage
from arkasr.train.stages.opd import DistillationStage

ROUNDING_SECONDS = 0.01


def check_test_sets(context: RunContext) -> None:
    """Check that every test set can be scored as the recipe asks.

    Raises:
        InputError: a set is missing, its languages need different scoring, no utterance has a reference, or intervals
            resample speakers and an utterance has no speaker.
    """
    settings = context.recipe.evaluation
    for name in settings.sets:
        scoring_of(context, name)
        utterances = context.set(name)
        if all(utterance.text is None for utterance in utterances):
            raise InputError(f"sets.{name}: no utterance has a text to score against; give it labels")
        without_speaker = next((utterance.id for utterance in utterances if utterance.speaker is None), None)
        if settings.resample == "speaker" and without_speaker is not None:
            raise InputError(
                f"evaluation.resample: {without_speaker} of set {name} has no `speaker`; "
                "give it one, or set `resample` to `utterance`"
            )


def check_token_limits(recipe: Recipe, origin: str, student: Recognizer) -> None:
    """Check that a model can write as many tokens as the recipe asks for.

    Args:
        recipe: the recipe.
        origin: the model in the recipe. All OPD stages that train it are checked.
        student: the recogniser of that model.

    Raises:
        InputError: a limit is too high; names its key.
    """
    limits = {
        f"stages.{name}.objective.max_new_tokens": stage.objective.max_new_tokens
        for name, stage in recipe.stages.items()
        if isinstance(stage, OpdStageSettings) and recipe.origin(name) == origin
    }
    for key, tokens in (limits | {"evaluation.max_new_tokens": recipe.evaluation.max_new_tokens}).items():
        check_transcript_length(student, tokens, key)


def check_training_set(
    source: str,
    utterances: Utterances,
    durations: Sequence[float],
    stage: Stage,
    settings: TrainingStageSettings,
) -> None:
    """Check that a stage can train on every utterance.

    Args:
        source: name of the set, for messages.
        utterances: the set, or the labels of a label stage.
        durations: seconds of each utterance.
        stage: the stage that trains on them.
        settings: settings of the stage.

    Raises:
        InputError: an utterance or its label is too long, or lacks a label that the stage needs, or is in a language
            for which student or teacher has no prompt.
    """
    limit = longest_trainable_seconds(stage, settings)
    too_long = indices_longer_than(limit, durations)
    if (first_index := next(too_long, None)) is not None:
        count = 1 + sum(1 for _ in too_long)
        raise InputError(
            f"{source}: {count} of {len(utterances)} utterances are longer than {limit:g} s, the most that the model "
            f"or a batch holds; the first is {utterances[first_index].id}; leave them out with the set's `max_seconds`"
        )
    if not isinstance(stage, DistillationStage) and (unlabelled := utterances.unlabelled()) is not None:
        raise InputError(f"{source}: {utterances[unlabelled].id} has no `text`, and this stage learns from labels")
    if stage.student.longest_transcript is not None and _label_weight(stage) > 0:
        _check_label_lengths(source, utterances, stage)
    for language in utterances.languages():
        check_language(source, language, stage, settings)


def utterance_check(source: str, stage: Stage, settings: TrainingStageSettings) -> Callable[[Utterance, float], None]:
    """The checks of `check_training_set` for one utterance at a time, for streamed sets."""
    limit = longest_trainable_seconds(stage, settings)
    checked: set[str | None] = set()
    student = stage.student

    def check(utterance: Utterance, seconds: float) -> None:
        if seconds > limit:
            raise InputError(
                f"{source}: {utterance.id} is {seconds:.1f} s long, but the model or a batch holds {limit:g} s; "
                "leave out such utterances with the set's `max_seconds`"
            )
        if utterance.text is None and not isinstance(stage, DistillationStage):
            raise InputError(f"{source}: {utterance.id} has no `text`, and this stage learns from labels")
        if student.longest_transcript is not None and (label := _label_of(utterance, stage)) is not None:
            [tokens] = student.transcript_lengths([label])
            _check_label_length(source, utterance.id, tokens, stage)
        if utterance.language not in checked:
            check_language(source, utterance.language, stage, settings)
            checked.add(utterance.language)

    return check


def _check_label_lengths(source: str, utterances: Utterances, stage: Stage) -> None:
    student = stage.student
    lengths = utterances.values(
        lambda items: student.transcript_lengths([_label_of(item, stage) or "" for item in items])
    )
    for index, tokens in enumerate(lengths):
        if not student.can_write(tokens):
            _check_label_length(source, utterances[index].id, tokens, stage)


def _label_of(utterance: Utterance, stage: Stage) -> str | None:
    """The text that a stage learns from; None = it learns from none."""
    if not isinstance(stage, DistillationStage):
        return utterance.text
    return stage.rollouts.drafts.get(utterance.id) if _label_weight(stage) > 0 else None


def _label_weight(stage: Stage) -> float:
    return stage.settings.label_weight if isinstance(stage, DistillationStage) else 1.0


def _check_label_length(source: str, utterance_id: str, tokens: int, stage: Stage) -> None:
    """Check that the student can write a label of so many tokens.

    Raises:
        InputError: it cannot.
    """
    subject, remedy = "its `text` in tokens", "cut the recording, or leave it out"
    if isinstance(stage, DistillationStage):
        subject = "its label from `drafts` in tokens"
        remedy = "cut the recording, or leave its label out, or remove `objective.label_weight`"
    try:
        check_transcript_length(stage.student, tokens, subject)
    except InputError as error:
        raise InputError(f"{source}: {utterance_id}: {error}; {remedy}") from error


def check_language(source: str, language: str | None, stage: Stage, settings: TrainingStageSettings) -> None:
    """Check that student and teacher have a prompt for a language.

    Raises:
        InputError: one of them has none, or a sharded student would have to detect the language: only the processes
            with such utterances would run that pass, and the others would not take part in gathering its weights.
    """
    if language is None and stage.student.detects_language and settings.optimization.sharding == "full":
        raise InputError(
            f"{source}: with `sharding: full`, Whisper cannot detect languages; give every utterance a `language`, or "
            "use `sharding: none`"
        )
    prompts = [stage.student.prompt_text]
    if isinstance(stage, DistillationStage):
        prompts.append(stage.teacher.prompt_text)
    for prompt_text in prompts:
        try:
            prompt_text(language)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error


def longest_trainable_seconds(stage: Stage, settings: TrainingStageSettings) -> float:
    """Longest utterance in seconds that the models and a batch can hold."""
    return min(stage.longest_clip_seconds + ROUNDING_SECONDS, settings.optimization.batch_seconds)
