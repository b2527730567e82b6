"""The result of a transcription: segments with times, and words with times if they were requested."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from arkasr.recognizers.loops import is_unspaced
from arkasr.recognizers.recognition import Recognition

UNSPACED_PUNCTUATION = "，。？！、；："


@dataclass(frozen=True)
class Word:
    """A word and its time in seconds from the start of the recording."""

    text: str
    begin: float
    end: float


@dataclass(frozen=True)
class Segment:
    """The transcript of one piece of a recording.

    Attributes:
        begin: seconds from the start of the recording.
        end: seconds from the start of the recording.
        text: cleaned.
        raw: as generated, with control tokens.
        flags: `looping` if the same words occur four times in a row, `truncated` if the token cap was reached. The
            flags do not change the text.
        words: with times; None if they were not requested or could not be aligned.
    """

    begin: float
    end: float
    text: str
    raw: str
    flags: tuple[str, ...] = ()
    words: tuple[Word, ...] | None = None


@dataclass(frozen=True)
class Transcript:
    """The transcript of a recording.

    Attributes:
        segments: in order; empty if no speech was found.
        seconds: length of the recording; 0 if it cannot be read.
        error: why the recording, or a piece of it, could not be transcribed; `segments` contains the other pieces.
    """

    segments: tuple[Segment, ...] = ()
    seconds: float = 0.0
    error: str | None = None

    @cached_property
    def text(self) -> str:
        """The cleaned text of all segments."""
        return join_segment_texts(segment.text for segment in self.segments)

    @cached_property
    def raw(self) -> str:
        """The generated text of all segments."""
        return join_segment_texts(segment.raw for segment in self.segments)

    @property
    def flags(self) -> list[str]:
        """Flags of all segments, sorted."""
        return sorted({flag for segment in self.segments for flag in segment.flags})

    def segment_rows(self) -> list[dict[str, Any]]:
        """The segments as JSON values; `words` is left out if it is None."""
        rows = []
        for segment in self.segments:
            row = asdict(segment)
            row["flags"] = list(segment.flags)
            if segment.words is None:
                del row["words"]
            rows.append(row)
        return rows


def segment_of(recognition: Recognition, begin: float, end: float) -> Segment:
    """The segment of a recognised piece; times in seconds."""
    return Segment(begin, end, recognition.text or "", recognition.raw or "", recognition.flags)


def join_segment_texts(texts: Iterable[str]) -> str:
    """Texts of consecutive segments as one text, with spaces between them if the script uses spaces."""
    joined = ""
    for text in filter(None, (text.strip() for text in texts)):
        joined += " " + text if joined and _needs_space(joined[-1], text[0]) else text
    return joined


def _needs_space(before: str, after: str) -> bool:
    return not ((is_unspaced(before) or before in UNSPACED_PUNCTUATION) and is_unspaced(after))
