"""Normalised manifests of public corpora: text, language, speaker and the official split.

The input is a corpus as it is distributed, or a folder of its manifests. Manifests refer to the original audio; only
files that libsndfile cannot read are converted. `prepare_corpora.py` knows the layout of each corpus.
"""

import shutil
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arkasr.data.audio import duration_of
from arkasr.data.corpora.prepare_corpora import CORPORA, CorpusRecording
from arkasr.data.manifests.durations import segment_duration
from arkasr.data.manifests.manifest import read_manifest, write_manifest
from arkasr.data.manifests.output_fields import LABEL_FIELDS, drop_fields
from arkasr.data.replacing import refuse_to_replace
from arkasr.errors import InputError

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class PreparedCorpus:
    """The manifests written.

    Attributes:
        name: of the corpus.
        folder: of the manifests.
        splits: utterances and seconds of each split.
        licence: of the audio and text.
    """

    name: str
    folder: Path
    splits: dict[str, tuple[int, float]]
    licence: str

    def summary(self) -> str:
        """One line for each manifest, and the licence."""
        lines = [
            f"{self.folder / split}.jsonl: {count} utterances, {seconds / 60:.1f} minutes"
            for split, (count, seconds) in self.splits.items()
        ]
        return "\n".join([*lines, f"licence of {self.name}: {self.licence}"])


def prepare_corpus(name: str, source: Path, output: Path) -> PreparedCorpus:
    """Write `train.jsonl`, `dev.jsonl` and `test.jsonl` into `output`, for the splits that the corpus has.

    Args:
        name: `an4`, `dspspeech20`, `librispeech` or `spoken-digits`.
        source: folder of the corpus as it is distributed, or of its manifests.
        output: folder of the new manifests; not the source.

    Raises:
        InputError: the corpus is unknown, the folder does not hold it, or an output would overwrite a source file.
    """
    if name not in CORPORA:
        raise InputError(f"data prepare: corpus {name!r} is not known; choose one of {', '.join(CORPORA)}")
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give the folder of {name} with --from")
    if output.resolve() == source.resolve():
        raise InputError(f"{output}: is the source folder itself; choose another --output")
    licences = {path: output / path.name for path in source.glob("LICEN[SC]E*")}
    corpus = CORPORA[name]
    manifests = {split: source / f"{split}.jsonl" for split in SPLITS if (source / f"{split}.jsonl").is_file()}
    written = [*(output / f"{split}.jsonl" for split in SPLITS), *licences.values()]
    refuse_to_replace([*manifests.values(), *licences], written)
    if manifests:
        rows = {split: _rows_of_manifest(path, name) for split, path in manifests.items()}
    else:
        rows = {
            split: [_row_of_recording(recording, name) for recording in recordings]
            for split, recordings in corpus.read(source, output).items()
        }
    splits = {}
    for split, normalised in rows.items():
        write_manifest(output / f"{split}.jsonl", normalised)
        splits[split] = (len(normalised), sum(row["duration"] for row in normalised))
    for licence, copy in licences.items():
        shutil.copyfile(licence, copy)
    return PreparedCorpus(name, output, splits, corpus.licence)


def _rows_of_manifest(path: Path, corpus: str) -> list[dict[str, Any]]:
    """Normalised lines of a manifest; keeps times, ids and all fields that no command writes."""
    rows = []
    for utterance in read_manifest(path):
        if utterance.text is None:
            raise InputError(f"{path}: utterance {utterance.id!r} has no `text`; give the corpus with its transcripts")
        row = drop_fields(utterance.fields, LABEL_FIELDS) | {
            "audio": str(utterance.audio),
            "text": normalised_text(utterance.text),
            "language": utterance.language or CORPORA[corpus].language,
            "duration": round(segment_duration(utterance), 3),
            "id": utterance.id,
        }
        rows.append(row)
    return rows


def _row_of_recording(recording: CorpusRecording, corpus: str) -> dict[str, Any]:
    return {
        "audio": str(recording.audio.absolute()),
        "text": normalised_text(recording.text),
        "language": CORPORA[corpus].language,
        "speaker": recording.speaker,
        "duration": round(duration_of(recording.audio), 3),
        "id": f"{corpus}-{recording.audio.stem}",
    }


def normalised_text(text: str) -> str:
    """NFKC, lower case and single spaces, so that corpora can be mixed in training."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())
