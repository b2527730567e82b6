"""Teacher labels for TD: the teacher's transcripts, without its obvious failures.

In: utterances. Out: manifest rows of the kept utterances, and rows of the dropped ones with the reason. The student is
left to others.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from arkasr.data.examples import FeatureCache
from arkasr.data.manifests.durations import segment_duration
from arkasr.data.manifests.manifest import Utterance
from arkasr.data.manifests.output_fields import LABEL_FIELDS, drop_fields
from arkasr.recognizers.engine import Engine
from arkasr.recognizers.inference import RecognitionSettings, recognize
from arkasr.recognizers.journal import Journal
from arkasr.recognizers.loops import is_looping
from arkasr.recognizers.recognition import Recognition
from arkasr.recognizers.recognizer import Recognizer

UNDECODABLE = "\ufffd"  # in place of bytes that are no character
FASTEST_LETTERS_PER_SECOND = 35.0  # auctioneers reach about 30
FASTEST_IDEOGRAPHS_PER_SECOND = 12.0


@dataclass(frozen=True)
class Labels:
    """Labels of a list of utterances.

    Attributes:
        rows: manifest rows of the kept utterances, with the teacher's `text` and an absolute `audio`.
        dropped: rows of the others. `dropped` is the reason; `error` is the error message if there was one.
        counts: number of utterances by reason, including `kept`.
    """

    rows: list[dict[str, Any]]
    dropped: list[dict[str, Any]]
    counts: dict[str, int]


def label(
    teacher: Recognizer,
    utterances: Sequence[Utterance],
    settings: RecognitionSettings,
    *,
    engine: Engine | None = None,
    drop_failures: bool = True,
    feature_cache: FeatureCache | None = None,
    journal: Journal | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Labels:
    """Transcribe `utterances` with the teacher and drop the obvious failures.

    Args:
        teacher: transcribes.
        utterances: their own text is ignored.
        settings: batch size and maximum length.
        engine: decodes for the teacher; None = the teacher itself.
        drop_failures: False keeps every utterance with a transcript.
        feature_cache: features already computed.
        journal: as in `recognize`.
        on_batch: called with the number of utterances in each finished batch.
    """
    rows, dropped = [], []
    recognitions = recognize(
        teacher,
        utterances,
        settings,
        engine=engine,
        feature_cache=feature_cache,
        journal=journal,
        on_batch=on_batch,
    )
    for utterance, recognition in zip(utterances, recognitions, strict=True):
        row = drop_fields(utterance.fields, LABEL_FIELDS) | {"audio": str(utterance.audio), "id": utterance.id}
        row["text"] = recognition.text
        failure = failure_of(recognition, segment_duration(utterance) if recognition.error is None else 0.0)
        if failure is None or (not drop_failures and recognition.text is not None):
            rows.append(row)
        else:
            dropped.append(row | {"dropped": failure} | ({"error": recognition.error} if recognition.error else {}))
    counts = Counter(row["dropped"] for row in dropped)
    return Labels(rows, dropped, {"kept": len(rows), **dict(sorted(counts.items()))})


def failure_of(recognition: Recognition, seconds: float) -> str | None:
    """One word for why a transcript of `seconds` of audio must be wrong; None = no reason found."""
    if recognition.error is not None:
        return "unreadable"
    if not recognition.text:
        return "empty"
    if not recognition.stopped:
        return "truncated"
    if is_looping(recognition.text):
        return "looping"
    if UNDECODABLE in recognition.text:
        return "undecodable"
    if fastest_possible_seconds(recognition.text) > seconds:
        return "too-long"
    return None


def fastest_possible_seconds(text: str) -> float:
    """Seconds that the fastest speaker needs for `text`."""
    characters = [character for character in text if not character.isspace()]
    ideographs = sum(unicodedata.name(character, "").startswith("CJK") for character in characters)
    letters = len(characters) - ideographs
    return letters / FASTEST_LETTERS_PER_SECOND + ideographs / FASTEST_IDEOGRAPHS_PER_SECOND
