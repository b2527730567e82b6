"""The command `evaluate`: one model on one manifest."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch

from arkasr.data.manifests.manifest import read_manifest, write_manifest
from arkasr.data.replacing import files_of_model, reserve_outputs
from arkasr.evaluate.normalize import get_profile, unit_for
from arkasr.files import hidden_beside
from arkasr.progress import Progress
from arkasr.recognizers.inference import RecognitionSettings, recognize
from arkasr.recognizers.journal import Journal, settings_of
from arkasr.recognizers.load import load_recognizer
from arkasr.run.compare_command import describe, scores_by_language
from arkasr.run.evaluation import prediction_row


def evaluate_manifest(
    manifest: Path,
    model: str,
    normalizer: str,
    output: Path | None,
    settings: RecognitionSettings,
    device: torch.device,
) -> Iterator[str]:
    """Transcribe a manifest, write the transcripts to `output` if given, and yield a line of scores for each language.

    Raises:
        InputError: manifest, model or profile does not exist, or the output would replace an input.
    """
    profile = get_profile(normalizer)
    utterances = read_manifest(manifest)
    outputs = [] if output is None else [output]
    audio = (utterance.audio for utterance in utterances)
    with reserve_outputs(outputs, inputs=[manifest, *files_of_model(model), *audio]):
        recognizer = load_recognizer(model, device=str(device))
        computation = settings_of(recognizer, model, settings.max_new_tokens)
        with (
            Journal(hidden_beside(output, ".partial"), computation) if output else nullcontext() as journal,
            Progress().count("evaluate", len(utterances)) as advance,
        ):
            recognitions = recognize(recognizer, utterances, settings, journal=journal, on_batch=advance)
            rows = [
                prediction_row(utterance, recognition, profile, unit_for(utterance.language))
                for utterance, recognition in zip(utterances, recognitions, strict=True)
            ]
            if output and journal:
                write_manifest(output, rows)
                journal.remove()
    for name, result in scores_by_language({row["id"]: row for row in rows}, profile).items():
        yield f"{name}: {describe(result)}"
