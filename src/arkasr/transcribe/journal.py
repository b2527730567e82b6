"""What has been recognised so far, on disk, so that an interrupted run goes on where it stopped.

One line for each piece, written as soon as it is known. A line that was being written when the process died is ignored.
Knows nothing of audio or of outputs.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from arkasr.errors import InputError
from arkasr.recognizers.inference import Recognition


class Journal:
    """Recognitions by key, kept in a file.

    Args:
        path: the file; created with the first line.
        run: what must be the same for what is kept to hold: model, cap on tokens and the like.

    Raises:
        InputError: the file was begun by another run.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self.path = path
        self._known: dict[str, Recognition] = {}
        begun, whole = None, 0
        if path.is_file():
            with path.open("rb") as file:
                for line in file:
                    row = _row_of(line)
                    if row is None:
                        break
                    if begun is None:
                        begun = row
                    elif (recognition := _recognition_of(row)) is not None:
                        self._known[row["key"]] = recognition
                    else:
                        break
                    whole += len(line)
        if begun is not None and begun != dict(run):
            raise InputError(
                f"{path}: keeps the progress of a run with another model or other settings; "
                "repeat that command to finish it, or delete the file"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(whole)
        if begun is None:
            self._append(run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def get(self, key: str) -> Recognition | None:
        """What is known of a piece."""
        return self._known.get(key)

    def add(self, recognitions: Mapping[str, Recognition]) -> None:
        """Keep what has just been recognised."""
        for key, recognition in recognitions.items():
            self._append({"key": key} | asdict(recognition))
        self._file.flush()

    def remove(self) -> None:
        """Delete the file: the outputs are complete."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _append(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def _row_of(line: bytes) -> dict[str, Any] | None:
    """A whole line's row; None where the process, or the machine, died over it."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _recognition_of(row: Mapping[str, Any]) -> Recognition | None:
    values = {name: value for name, value in row.items() if name != "key"}
    fits = "key" in row and values.keys() == {field.name for field in fields(Recognition)}
    return Recognition(**values) if fits else None
