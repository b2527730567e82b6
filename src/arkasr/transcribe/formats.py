"""Transcripts as strings: JSON Lines, JSON, plain text, and the subtitle formats SubRip and WebVTT."""

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from arkasr.data.manifests.output_fields import SCORED_FIELDS, drop_fields
from arkasr.recognizers.loops import is_unspaced
from arkasr.transcribe.transcript import Segment, Transcript, Word

LINE_WIDTH = 42  # characters of a subtitle line; a character of a script without spaces counts as two
MAX_CUE_LINES = 2
SHORTEST_CUE = 0.2  # seconds; an aligner may give a word no length, and players do not show such a cue
MAX_CUE_SECONDS = 7.0
MAX_CUE_PAUSE = 1.0  # seconds between two words of one cue
SPACES_AND_WORD = re.compile(r"\s*\S+")


class Cue(NamedTuple):
    """A subtitle; times in seconds from the start of the recording."""

    text: str
    begin: float
    end: float


def transcript_row(fields: Mapping[str, Any], transcript: Transcript) -> dict[str, Any]:
    """A row of the output manifest: the input's fields, `pred_text` and `pred_text_raw`.

    It also has `pred_segments` if there are several segments, a segment starts after 0, or words have times;
    `pred_flags` if a segment has flags; and `error` if the recording or a piece of it could not be transcribed.
    `pred_text` is null if no piece could be transcribed.
    """
    has_no_text = transcript.error is not None and not transcript.segments
    row = drop_fields(fields, SCORED_FIELDS) | {
        "pred_text": None if has_no_text else transcript.text,
        "pred_text_raw": None if has_no_text else transcript.raw,
    }
    segments = transcript.segments
    if len(segments) > 1 or any(segment.words is not None or segment.begin > 0 for segment in segments):
        row["pred_segments"] = transcript.segment_rows()
    if transcript.flags:
        row["pred_flags"] = transcript.flags
    if transcript.error is not None:
        row["error"] = transcript.error
    return row


def jsonl(fields: Mapping[str, Any], transcript: Transcript) -> str:
    """One line of JSON."""
    return json.dumps(transcript_row(fields, transcript), ensure_ascii=False) + "\n"


def document(fields: Mapping[str, Any], transcript: Transcript) -> str:
    """One JSON document; it always contains the segments."""
    row = transcript_row(fields, transcript)
    row |= {"seconds": round(transcript.seconds, 3), "pred_segments": transcript.segment_rows()}
    return json.dumps(row, ensure_ascii=False, indent=2) + "\n"


def text(fields: Mapping[str, Any], transcript: Transcript) -> str:
    """The text, one line per segment."""
    return "".join(f"{segment.text}\n" for segment in transcript.segments if segment.text)


def named_text(fields: Mapping[str, Any], transcript: Transcript) -> str:
    """One line with the audio's name, a tab and the text; for several recordings in one stream."""
    return f"{fields['audio']}\t{transcript.text}\n"


def srt(fields: Mapping[str, Any], transcript: Transcript) -> str:
    """SubRip."""
    return "\n".join(
        f"{number}\n{_clock(cue.begin, ',')} --> {_clock(cue.end, ',')}\n{_lines(cue.text)}\n"
        for number, cue in enumerate(_cues(transcript), start=1)
    )


def vtt(fields: Mapping[str, Any], transcript: Transcript) -> str:
    """WebVTT."""
    return "WEBVTT\n" + "".join(
        f"\n{_clock(cue.begin, '.')} --> {_clock(cue.end, '.')}\n{html.escape(_lines(cue.text), quote=False)}\n"
        for cue in _cues(transcript)
    )


def _cues(transcript: Transcript) -> Iterator[Cue]:
    """All cues, in order. Each lasts at least `SHORTEST_CUE`, or until the next one begins."""
    cues = list(_timed_cues(transcript))
    for cue, following in zip(cues, [*cues[1:], None], strict=True):
        shortest_end = cue.begin + SHORTEST_CUE
        if following is not None and following.begin - cue.begin >= 0.001:
            shortest_end = min(shortest_end, following.begin)
        yield cue._replace(end=max(cue.end, shortest_end))


def _timed_cues(transcript: Transcript) -> Iterator[Cue]:
    """One cue per segment, or several if its words have times."""
    for segment in transcript.segments:
        if segment.words:
            yield from _cues_of_words(segment)
        elif segment.text:
            yield Cue(segment.text, segment.begin, segment.end)


def _cues_of_words(segment: Segment) -> Iterator[Cue]:
    """Cues with all of the segment's text. A new cue begins at a pause, or if the cue would be too long."""
    assert segment.words
    words = segment.words
    starts = [*_word_starts(segment.text, words), len(segment.text)]
    first = 0
    for number, word in enumerate(words):
        shown = segment.text[starts[first] : starts[number]].strip()
        if shown and (
            len(_wrapped(segment.text[starts[first] : starts[number + 1]])) > MAX_CUE_LINES
            or word.end - words[first].begin > MAX_CUE_SECONDS
            or word.begin - words[number - 1].end > MAX_CUE_PAUSE
        ):
            yield Cue(shown, words[first].begin, words[number - 1].end)
            first = number
    rest = segment.text[starts[first] :].strip()
    if rest:
        yield Cue(rest, words[first].begin, words[-1].end)


def _word_starts(text: str, words: Sequence[Word]) -> list[int]:
    """Index in the text at which each word begins. The aligner drops punctuation; it belongs to the word before."""
    starts, index = [], 0
    for word in words:
        found = _find_word(text, word.text, index)
        starts.append(found if found >= 0 else index)  # the aligner may spell a word differently
        index = starts[-1] + (len(word.text) if found >= 0 else 0)
    return [0, *starts[1:]]


def _find_word(text: str, word: str, start: int) -> int:
    """Index of a complete word in the text, from `start` on; −1 = not found."""
    found = text.find(word, start)
    while found >= 0:
        end = found + len(word)
        if _are_separate(text[:found][-1:], word[0]) and _are_separate(word[-1], text[end : end + 1]):
            return found
        found = text.find(word, found + 1)
    return -1


def _are_separate(before: str, after: str) -> bool:
    """Whether two characters in succession may belong to different words; an empty one is an end of the text."""
    return not (before.isalnum() and after.isalnum()) or is_unspaced(before) or is_unspaced(after)


def _clock(seconds: float, decimal_mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{decimal_mark}{milliseconds % 1000:03d}"


def _lines(cue: str) -> str:
    return "\n".join(_wrapped(cue))


def _wrapped(cue: str) -> list[str]:
    """Lines of at most `LINE_WIDTH`, except for a longer word.

    They are divided at spaces, and at any character of a script without spaces.
    """
    lines = [""]
    for word in SPACES_AND_WORD.findall(cue):
        for part in _unbreakable_parts(word):
            if lines[-1] and _width(lines[-1] + part) > LINE_WIDTH:
                lines.append(part.lstrip())
            else:
                lines[-1] += part if lines[-1] else part.lstrip()
    return lines


def _unbreakable_parts(word: str) -> list[str]:
    """The word with the spaces before it, or single characters if its script has no spaces."""
    parts: list[str] = []
    for character in word:
        if not parts or (is_unspaced(character) and parts[-1].strip()):
            parts.append(character)
        else:
            parts[-1] += character
    return parts


def _width(text: str) -> int:
    return sum(1 + is_unspaced(character) for character in text)


FORMATS = {"jsonl": jsonl, "json": document, "txt": text, "srt": srt, "vtt": vtt}
