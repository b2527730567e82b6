"""A manifest of short pieces of long recordings, for training.

In: recordings of any length. Out: rows with the times of the pieces that hold speech. No audio is written.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.manifests.output_fields import LABEL_FIELDS, drop_fields
from arkasr.errors import InputError
from arkasr.files import append_lines, complete_lines, hidden_beside
from arkasr.transcribe.cutting import CutRecording, cut_recording
from arkasr.transcribe.inputs import Input
from arkasr.transcribe.recording import Recording

# Fields that are not true of a piece.
FIELDS_OF_WHOLE = ("id", "text", "begin_time", "end_time", "duration")


class CutManifest:
    """Cuts recordings at their pauses, as `arkasr transcribe` does.

    Finished recordings are kept in a hidden file beside the manifest, so that an interrupted run continues.

    Args:
        output: the manifest to be written.
        piece_seconds: longest piece. Utterances of a manifest that are not longer stay whole.

    Attributes:
        problems: why a recording cannot be read, one message for each such recording.
        texts_left_out: number of recordings whose text is left out, because they were cut into pieces.

    Raises:
        InputError: the hidden file belongs to a run with other pieces.
    """

    def __init__(self, output: Path, piece_seconds: float) -> None:
        self.problems: list[str] = []
        self.texts_left_out = 0
        self._folder = output.absolute().parent
        self._piece_seconds = piece_seconds
        self._finished_path = hidden_beside(output, ".cut")
        self._finished = self._read_finished()

    def rows(self, inputs: Sequence[Input], on_recording: Callable[[int], None]) -> Iterator[dict[str, Any]]:
        """The manifest's rows, recording after recording.

        Args:
            inputs: the recordings.
            on_recording: called with 1 after each recording.
        """
        for item in inputs:
            yield from self._rows_of(item.recording)
            on_recording(1)

    def remove_finished(self) -> None:
        """Delete the hidden file, once the manifest is written."""
        self._finished_path.unlink(missing_ok=True)

    def _rows_of(self, recording: Recording) -> list[dict[str, Any]]:
        fields = drop_fields(recording.fields, LABEL_FIELDS) | {"audio": self._audio_field(recording)}
        try:
            if not recording.find_speech and recording.seconds() <= self._piece_seconds:
                return [fields]
            pieces = self._pieces_of(recording)
        except InputError as error:
            self.problems.append(str(error))
            return []
        self.texts_left_out += fields.get("text") is not None
        shared = drop_fields(fields, FIELDS_OF_WHOLE)
        return [shared | piece for piece in pieces]

    def _pieces_of(self, recording: Recording) -> list[dict[str, float]]:
        """Times of the pieces in seconds of the file.

        Raises:
            InputError: the recording cannot be read.
        """
        key = f"{recording.identity()}:{recording.end_time}:{recording.find_speech}"
        if key not in self._finished:
            cut = cut_recording(recording, self._piece_seconds, self._piece_seconds)
            if cut.error is not None:
                raise InputError(cut.error)
            self._finished[key] = _times_of(recording, cut)
            append_lines(self._finished_path, [json.dumps({"key": key, "pieces": self._finished[key]}) + "\n"])
        return self._finished[key]

    def _read_finished(self) -> dict[str, list[dict[str, float]]]:
        header = json.dumps({"piece_seconds": self._piece_seconds})
        lines = complete_lines(self._finished_path, mend=True)
        if not lines:
            append_lines(self._finished_path, [header + "\n"])
        elif lines[0] != header:
            raise InputError(
                f"{self._finished_path}: keeps the progress of a run with another --piece-seconds; repeat that command "
                "to finish it, or delete the file"
            )
        rows = map(json.loads, lines[1:])
        return {row["key"]: row["pieces"] for row in rows}

    def _audio_field(self, recording: Recording) -> str:
        assert isinstance(recording.audio, Path)
        audio = recording.audio.absolute()
        return str(audio.relative_to(self._folder) if audio.is_relative_to(self._folder) else audio)


def _times_of(recording: Recording, cut: CutRecording) -> list[dict[str, float]]:
    start = recording.begin_time or 0.0
    return [
        {
            "begin_time": round(start + piece.begin / SAMPLE_RATE, 3),
            "end_time": round(start + piece.end / SAMPLE_RATE, 3),
            "duration": round(piece.samples / SAMPLE_RATE, 3),
        }
        for piece in cut.pieces
    ]


def summary_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """For example `120 pieces, 0.4 hours`."""
    return f"{len(rows)} pieces, {sum(row.get('duration') or 0.0 for row in rows) / 3600:.1f} hours"
