"""Transcripts as text: JSON Lines, JSON, plain text, and the subtitle formats SubRip and WebVTT.

Turns values into strings; writes no file.
"""

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from arkasr.data.manifests.output_fields import SCORED_FIELDS, drop_fields
from arkasr.recognizers.loops import is_unspaced
from arkasr.transcribe.transcript import Segment, Transcript, Word

LINE_WIDTH = 42  # a subtitle line that is read at a glance; a character of a script without blanks is two wide
CUE_LINES = 2
CUE_SECONDS = 7.0
WRAPPED_AT = re.compile(r"\s*\S+")
CUE_PAUSE = 1.0  # seconds between two words that are not in one cue


def transcript_row(fields: Mapping[str, Any], transcript: Transcript) -> dict[str, Any]:
    """A row of the output manifest: the input's fields, `pred_text`, `pred_text_raw`, and what else is worth knowing.

    `pred_segments` stands where a recording was cut or words have times, `pred_flags` where something is doubtful, and
    `error` where the recording, or a piece of it, could not be heard; `pred_text` is then what could, or null.
    """
    unreadable = transcript.error is not None and not transcript.segments
    row = drop_fields(fields, SCORED_FIELDS) | {
        "pred_text": None if unreadable else transcript.text,
        "pred_text_raw": None if unreadable else transcript.raw,
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
    """One JSON document, segments always in it."""
    row = transcript_row(fields, transcript)
    row |= {"seconds": round(transcript.seconds, 3), "pred_segments": transcript.segment_rows()}
    return json.dumps(row, ensure_ascii=False, indent=2) + "\n"


def text(fields: Mapping[str, Any], transcript: Transcript) -> str:
    """The words alone, a line for each segment."""
    return "".join(f"{segment.text}\n" for segment in transcript.segments if segment.text)


def named_text(fields: Mapping[str, Any], transcript: Transcript) -> str:
    """One line with the name of the audio, a tab, and the words; for several recordings in one stream."""
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


def _cues(transcript: Transcript) -> Iterator[Word]:
    """What is shown at a time: a segment, or, where words have times, a few of them."""
    for segment in transcript.segments:
        if segment.words:
            yield from _cues_of_words(segment)
        elif segment.text:
            yield Word(segment.text, segment.begin, segment.end)


def _cues_of_words(segment: Segment) -> Iterator[Word]:
    """The segment's text, all of it, divided where a cue would be too long or somebody pauses."""
    assert segment.words
    words = segment.words
    starts = [*_starts(segment.text, words), len(segment.text)]
    first = 0
    for number, word in enumerate(words):
        shown = segment.text[starts[first] : starts[number]].strip()
        if shown and (
            len(_wrapped(segment.text[starts[first] : starts[number + 1]])) > CUE_LINES
            or word.end - words[first].begin > CUE_SECONDS
            or word.begin - words[number - 1].end > CUE_PAUSE
        ):
            yield Word(shown, words[first].begin, words[number - 1].end)
            first = number
    rest = segment.text[starts[first] :].strip()
    if rest:
        yield Word(rest, words[first].begin, words[-1].end)


def _starts(text: str, words: Sequence[Word]) -> list[int]:
    """Where each word's share of the text begins; punctuation, which the aligner drops, goes with the word before."""
    starts, place = [], 0
    for word in words:
        found = _find_word(text, word.text, place)
        starts.append(found if found >= 0 else place)  # the aligner may spell a word otherwise
        place = starts[-1] + (len(word.text) if found >= 0 else 0)
    return [0, *starts[1:]]


def _find_word(text: str, word: str, place: int) -> int:
    """Where a word stands from `place` on, as a word of its own; −1 = nowhere."""
    found = text.find(word, place)
    while found >= 0:
        end = found + len(word)
        begins = found == 0 or not text[found - 1].isalnum() or is_unspaced(word[0])
        ends = end == len(text) or not text[end].isalnum() or is_unspaced(word[-1])
        if begins and ends:
            return found
        found = text.find(word, found + 1)
    return -1


def _clock(seconds: float, decimal_mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{decimal_mark}{milliseconds % 1000:03d}"


def _lines(words: str) -> str:
    return "\n".join(_wrapped(words))


def _wrapped(words: str) -> list[str]:
    """Lines of at most `LINE_WIDTH`, divided at blanks, and anywhere in a script without blanks."""
    lines = [""]
    for part in WRAPPED_AT.findall(words):
        for piece in _breakable(part):
            if lines[-1] and _width(lines[-1] + piece) > LINE_WIDTH:
                lines.append(piece.lstrip())
            else:
                lines[-1] += piece if lines[-1] else piece.lstrip()
    return lines


def _breakable(word: str) -> list[str]:
    """A word with the blanks before it; character by character where its script has no blanks."""
    pieces: list[str] = []
    for character in word:
        if not pieces or (is_unspaced(character) and pieces[-1].strip()):
            pieces.append(character)
        else:
            pieces[-1] += character
    return pieces


def _width(text: str) -> int:
    return sum(1 + is_unspaced(character) for character in text)


FORMATS = {"jsonl": jsonl, "json": document, "txt": text, "srt": srt, "vtt": vtt}
