"""Finished recognitions on disk, so that an interrupted command continues where it stopped.

The file has one line per piece, written as soon as the piece is decoded. Reading stops at the first damaged line.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from arkasr.errors import InputError
from arkasr.recognizers.fingerprint import digest_of, fingerprint
from arkasr.recognizers.recognition import Recognition
from arkasr.recognizers.recognizer import Recognizer


class Journal:
    """Recognitions by key, stored in a file.

    Args:
        path: the file; created if it does not exist.
        settings: everything that a recognition depends on besides its piece, such as the model and the token cap.

    Raises:
        InputError: the file was written with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._recognitions: dict[str, Recognition] = {}
        header, valid_bytes = None, 0
        if path.is_file():
            with path.open("rb") as file:
                for line in file:
                    row = _row_of(line)
                    if row is None:
                        break
                    if header is None:
                        header = row
                    elif (recognition := _recognition_of(row)) is not None:
                        self._recognitions[row["key"]] = recognition
                    else:
                        break
                    valid_bytes += len(line)
        if header is not None and header != dict(settings):
            raise InputError(
                f"{path}: keeps the progress of a run with another model or other settings; "
                "repeat that command to finish it, or delete the file"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(valid_bytes)
        if header is None:
            self._append(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def get(self, key: str) -> Recognition | None:
        """The recognition of a piece; None if it is not finished."""
        return self._recognitions.get(key)

    def add(self, recognitions: Mapping[str, Recognition]) -> None:
        """Store recognitions."""
        for key, recognition in recognitions.items():
            self._append({"key": key} | asdict(recognition))
        self._file.flush()

    def remove(self) -> None:
        """Delete the file, once the outputs are complete."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _append(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def settings_of(recognizer: Recognizer, model_name: str, max_new_tokens: int) -> dict[str, str | int]:
    """Everything that the transcript of a piece depends on, besides its audio and language."""
    model = recognizer.model
    tokenizer = recognizer.tokenizer.backend_tokenizer.to_str()
    return {
        "model": str(Path(model_name).absolute()) if Path(model_name).is_dir() else model_name,
        "weights": fingerprint(model),
        "tokens": digest_of([tokenizer, recognizer.allowed_tokens, recognizer.allowed_first_tokens]),
        "features": recognizer.frontend,
        "attention": model.config._attn_implementation,
        "max_new_tokens": max_new_tokens,
        "dtype": str(model.dtype),
    }


def _row_of(line: bytes) -> dict[str, Any] | None:
    """A line's row; None if the line is incomplete or damaged."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _recognition_of(row: Mapping[str, Any]) -> Recognition | None:
    values = {name: value for name, value in row.items() if name != "key"}
    is_complete = "key" in row and values.keys() == {field.name for field in fields(Recognition)}
    return Recognition(**values) if is_complete else None
