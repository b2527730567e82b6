"""Transcripts in the forms of OpenAI's interface. In: segments of a recording. Out: JSON objects and texts."""

import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from arkasr.recognizers.token_bytes import token_bytes
from arkasr.serve.confidence import word_probabilities
from arkasr.serve.speech_model import ServedSegment
from arkasr.transcribe.formats import srt, vtt
from arkasr.transcribe.transcript import Transcript
from arkasr.transcribe.words import WordSpan


def transcript_of(segments: Sequence[ServedSegment], seconds: float) -> Transcript:
    """The transcript of a recording of so many seconds."""
    return Transcript(tuple(served.segment for served in segments), seconds)


def plain_json(transcript: Transcript) -> dict[str, Any]:
    """`response_format=json`: the text, and the seconds that were heard."""
    return {"text": transcript.text, "usage": usage(transcript)}


def usage(transcript: Transcript) -> dict[str, Any]:
    """What was heard, in whole seconds."""
    return {"type": "duration", "seconds": math.ceil(transcript.seconds)}


def log_probabilities(segments: Sequence[ServedSegment], tokenizer: Any) -> list[dict[str, Any]]:
    """`include[]=logprobs`: every token that was written, without the stop token.

    A token may be a part of a character: its `token` then has a replacement mark, and its `bytes` are exact.
    """
    rows = []
    for served in segments:
        assert served.recognized.log_probabilities is not None
        tokens, scores = served.recognized.tokens.tolist(), served.recognized.log_probabilities.tolist()
        written = len(tokens) - served.recognized.recognition.stopped
        pieces = token_bytes(tokenizer, tokens[:written])
        for piece, score in zip(pieces, scores[:written], strict=True):
            rows.append({"token": piece.decode(errors="replace"), "logprob": score, "bytes": list(piece)})
    return rows


def verbose_json(
    segments: Sequence[ServedSegment],
    described: Sequence[Mapping[str, Any]],
    transcript: Transcript,
    language: str | None,
    *,
    words: bool,
) -> dict[str, Any]:
    """`response_format=verbose_json`: segments with times and confidence, and words with times if they are wanted.

    Args:
        segments: of the recording.
        described: `verbose_segment` of each.
        transcript: of the segments.
        language: by name, as the client gave it; None = it did not.
        words: whether they are wanted.
    """
    document: dict[str, Any] = {
        "task": "transcribe",
        "language": (language or _commonest_language(segments) or "unknown").lower(),
        "duration": round(transcript.seconds, 3),
        "text": transcript.text,
        "segments": described,
        "usage": usage(transcript),
    }
    if words:
        pairs = zip(segments, described, strict=True)
        document["words"] = [word for served, segment in pairs for word in _timed_words(served, segment)]
    return document


def subtitles(transcript: Transcript, response_format: str) -> str:
    """`response_format=srt` or `vtt`."""
    return (srt if response_format == "srt" else vtt)({}, transcript)


def verbose_segment(number: int, served: ServedSegment, temperature: float, tokenizer: Any) -> dict[str, Any]:
    """A segment of `verbose_json`, with the probability of each word."""
    segment, recognized = served.segment, served.recognized
    text = segment.text.encode()
    scores = recognized.log_probabilities
    return {
        "id": number,
        "seek": round(segment.begin * 100),  # in frames of 10 ms, as in Whisper
        "start": round(segment.begin, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": recognized.tokens.tolist(),
        "temperature": temperature,
        "avg_logprob": float(scores.mean()) if isinstance(scores, torch.Tensor) else None,
        "compression_ratio": len(text) / len(zlib.compress(text)),
        "no_speech_prob": None if served.speech_share is None else 1 - served.speech_share,
        "words": [
            {"word": span.text, "probability": probability}
            for span, probability in _word_probabilities(served, tokenizer)
        ],
    }


def _word_probabilities(served: ServedSegment, tokenizer: Any) -> list[tuple[WordSpan, float | None]]:
    recognized = served.recognized
    assert recognized.log_probabilities is not None
    written = len(recognized.tokens) - recognized.recognition.stopped
    pieces = token_bytes(tokenizer, recognized.tokens[:written].tolist())
    return word_probabilities(served.segment.text, pieces, recognized.log_probabilities[:written].tolist())


def _timed_words(served: ServedSegment, described: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The words that have times; an aligner may give none for a segment."""
    words = served.segment.words or ()
    probabilities = [word["probability"] for word in described["words"]]
    if len(probabilities) != len(words):  # the aligner divides the text into other words
        probabilities = [None] * len(words)
    for word, probability in zip(words, probabilities, strict=True):
        times = {"start": round(word.begin, 3), "end": round(word.end, 3)}
        yield {"word": word.text} | times | {"probability": probability}


def _commonest_language(segments: Sequence[ServedSegment]) -> str | None:
    counts = Counter(served.recognized.language for served in segments if served.recognized.language)
    return counts.most_common(1)[0][0] if counts else None
