"""The error rate on a development set during training. Its unit is words or characters, by language."""

from collections.abc import Sequence

from arkasr import processes
from arkasr.data.manifests.manifest import Utterance
from arkasr.evaluate.error_rate import count_errors
from arkasr.evaluate.normalize import get_profile, unit_for
from arkasr.recipe.settings import EvaluationSettings
from arkasr.recognizers.inference import RecognitionSettings, recognize
from arkasr.recognizers.recognizer import Recognizer
from arkasr.run.context import RunContext


def development_error_rate(
    context: RunContext, recognizer: Recognizer, utterances: Sequence[Utterance]
) -> dict[str, float]:
    """Pooled error and insertion rates, the share of utterances without an error, and the number of failures.

    Utterances without a reference are left out of the rates. Every rank transcribes its share of the utterances and
    gets the same figures.
    """
    settings = context.recipe.evaluation
    local = utterances[processes.rank() :: processes.world_size()]
    recognition = RecognitionSettings(settings.batch_seconds, settings.max_new_tokens)
    recognitions = recognize(recognizer, local, recognition, feature_cache=context.feature_cache)
    errors = insertions = tokens = perfect = scored = failed = 0
    for utterance, recognized in zip(local, recognitions, strict=True):
        if recognized.text is None or utterance.text is None:
            failed += recognized.text is None
            continue
        profile = get_profile(profile_name(settings, utterance.language))
        count = count_errors(profile(utterance.text), profile(recognized.text), unit_for(utterance.language))
        errors += count.errors
        insertions += count.insertions
        tokens += count.reference_tokens
        perfect += count.errors == 0
        scored += 1
    gathered = processes.all_gather([errors, insertions, tokens, perfect, scored, failed])
    errors, insertions, tokens, perfect, scored, failed = map(sum, zip(*gathered, strict=True))
    return {
        "dev/error_rate": errors / max(tokens, 1),
        "dev/insertion_rate": insertions / max(tokens, 1),
        "dev/perfect_share": perfect / max(scored, 1),
        "dev/failed": float(failed),
    }


def profile_name(settings: EvaluationSettings, language: str | None) -> str:
    """The normaliser profile that the recipe sets for a language."""
    return settings.normalizer.get(language or "default", settings.normalizer["default"])
