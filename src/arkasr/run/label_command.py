"""The command `label`: one teacher on one manifest."""

from collections.abc import Mapping
from pathlib import Path

from arkasr.data.manifests.manifest import read_manifest, write_manifest
from arkasr.data.replacing import files_of_model, reserve_outputs
from arkasr.errors import InputError
from arkasr.files import hidden_beside
from arkasr.progress import Progress
from arkasr.recognizers.device import default_device
from arkasr.recognizers.inference import RecognitionSettings
from arkasr.recognizers.journal import Journal, settings_of
from arkasr.recognizers.load import load_recognizer
from arkasr.run.engines import open_engine
from arkasr.teacher.label import label
from arkasr.train.settings import EngineSettings


def label_manifest(
    manifest: Path,
    teacher: str,
    output: Path,
    settings: RecognitionSettings,
    decoding: EngineSettings,
    *,
    overwrite: bool,
) -> Mapping[str, int]:
    """Label a manifest, write the kept rows to `output` and the others beside it, and return the counts by reason.

    Progress is kept in a hidden file beside `output`. After an interruption, the same call continues.

    Raises:
        InputError: `output` exists and `overwrite` is False, manifest or teacher does not exist, the output would
            replace an input, or other settings were interrupted.
    """
    dropped = output.with_suffix(".dropped.jsonl")
    progress = hidden_beside(output, ".partial")
    utterances = read_manifest(manifest)
    audio = (utterance.audio for utterance in utterances)
    with reserve_outputs([output, dropped], inputs=[manifest, *files_of_model(teacher), *audio]):
        # An interrupted command may have written the dropped rows already.
        for path in (output,) if progress.exists() else (output, dropped):
            if path.is_file() and not overwrite:
                raise InputError(f"{path}: exists, and may hold corrections; name another output, or add --overwrite")
        # vLLM needs the accelerator's memory for itself.
        device = str(default_device()) if decoding.engine == "own" else "cpu"
        recognizer = load_recognizer(teacher, device=device)
        computation = settings_of(recognizer, teacher, settings.max_new_tokens) | {"engine": decoding.engine}
        with (
            Journal(progress, computation) as journal,
            open_engine(recognizer, decoding, settings.max_new_tokens) as engine,
            Progress().count("label", len(utterances)) as advance,
        ):
            labels = label(recognizer, utterances, settings, engine=engine, journal=journal, on_batch=advance)
            write_manifest(dropped, labels.dropped)
            write_manifest(output, labels.rows)
            journal.remove()
    return labels.counts
