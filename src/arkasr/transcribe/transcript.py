"""What was said in a recording, and when."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from arkasr.recognizers.inference import Recognition
from arkasr.recognizers.loops import is_looping, is_unspaced

LOOPING = "looping"
TRUNCATED = "truncated"
UNSPACED_MARKS = "，。？！、；："


@dataclass(frozen=True)
class Word:
    """A word and its time in seconds from the start of the recording."""

    text: str
    begin: float
    end: float


@dataclass(frozen=True)
class Segment:
    """A piece of a recording.

    Attributes:
        begin: seconds from the start of the recording.
        end: seconds from the start of the recording.
        text: cleaned.
        raw: as generated, control tokens kept.
        flags: `looping` where the same words stand four times in a row, `truncated` where the cap on tokens came first;
            the text is what the model wrote in either case.
        words: with times; None where they were not asked for or could not be found.
    """

    begin: float
    end: float
    text: str
    raw: str
    flags: tuple[str, ...] = ()
    words: tuple[Word, ...] | None = None


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    Attributes:
        segments: in order; empty where no speech was found.
        seconds: length of what was heard.
        error: why the recording, or a piece of it, could not be heard; `segments` holds what could.
    """

    segments: tuple[Segment, ...] = ()
    seconds: float = 0.0
    error: str | None = None

    @cached_property
    def text(self) -> str:
        """The cleaned words of all segments."""
        return join_texts(segment.text for segment in self.segments)

    @cached_property
    def raw(self) -> str:
        """All segments as generated."""
        return join_texts(segment.raw for segment in self.segments)

    @property
    def flags(self) -> list[str]:
        """What is doubtful about any segment."""
        return sorted({flag for segment in self.segments for flag in segment.flags})

    def segment_rows(self) -> list[dict[str, Any]]:
        """The segments as plain values; words only where there are any."""
        rows = []
        for segment in self.segments:
            row = asdict(segment)
            row["flags"] = list(segment.flags)
            if segment.words is None:
                del row["words"]
            rows.append(row)
        return rows


def segment_of(recognition: Recognition, begin: float, end: float) -> Segment:
    """What a recogniser made of a piece between two times."""
    text, raw = recognition.text or "", recognition.raw or ""
    flags = [LOOPING] * is_looping(text) + [TRUNCATED] * (not recognition.stopped)
    return Segment(begin, end, text, raw, tuple(flags))


def join_texts(texts: Iterable[str]) -> str:
    """Texts of neighbouring pieces as one, with a blank between them where the script has blanks."""
    joined = ""
    for text in filter(None, (text.strip() for text in texts)):
        joined += " " + text if joined and _needs_blank(joined[-1], text[0]) else text
    return joined


def _needs_blank(before: str, after: str) -> bool:
    return not ((is_unspaced(before) or before in UNSPACED_MARKS) and is_unspaced(after))
