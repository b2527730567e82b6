"""Utterances whose audio cannot be read: recorded with the reason; too many of them end the run."""

import json
from collections.abc import Sequence
from pathlib import Path

from arkasr.errors import InputError
from arkasr.files import append_lines, complete_lines
from arkasr.train.stream import UnreadableUtterance


class Quarantine:
    """`quarantine.jsonl` of a stage: one line for each utterance that cannot be read.

    Args:
        path: the file; its existing lines count.
        utterances: number of utterances in the training set.
        max_share: largest allowed share of these utterances in quarantine.
        writes: whether this process writes the file.
    """

    def __init__(self, path: Path, utterances: int, max_share: float, *, writes: bool = True) -> None:
        self._path = path
        self._utterances = utterances
        self._max_share = max_share
        self._writes = writes
        rows = [json.loads(line) for line in complete_lines(path, mend=writes)]
        self._reasons: dict[str, str] = {row["id"]: row["reason"] for row in rows}

    def __len__(self) -> int:
        return len(self._reasons)

    def add(self, unreadable: Sequence[UnreadableUtterance]) -> None:
        """Add utterances that are not in quarantine yet.

        Raises:
            InputError: more than `max_share` of the training set is in quarantine.
        """
        new: dict[str, str] = {}
        for item in unreadable:
            if item.id not in self._reasons:
                new.setdefault(item.id, item.reason)
        if not new:
            return
        self._reasons |= new
        if self._writes:
            rows = ({"id": name, "reason": reason} for name, reason in new.items())
            append_lines(self._path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        if len(self._reasons) > self._max_share * self._utterances:
            raise InputError(
                f"{next(iter(self._reasons.values()))} ({len(self._reasons)} of {self._utterances} utterances cannot "
                f"be read, listed in {self._path}; max_quarantined_share allows {self._max_share:.1%})"
            )
