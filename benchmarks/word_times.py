"""Word times of a Whisper model: at pauses whose place is known, and against those of Transformers.

    python -m benchmarks.word_times --model FOLDER --manifest MANIFEST

Utterances are cut to their speech and joined with pauses. Prints how far the word after a pause begins from the end of
the pause, and how far the word before it ends from its begin, for the texts of the manifest and for the model's own
transcripts. Then the words of whole utterances are compared with those of Transformers' pipeline, for the text that the
pipeline writes. All in float32 on the CPU.
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import pipeline

from arkasr.data.audio import LONGEST_CLIP_SECONDS, SAMPLE_RATE, decode_audio
from arkasr.data.manifests.manifest import read_manifest
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.text import clean_transcript
from arkasr.transcribe.speech import speech_probabilities, speech_ranges
from arkasr.transcribe.transcript import Segment, Word
from arkasr.transcribe.whisper_aligner import WhisperAligner
from arkasr.transcribe.words import word_spans

LATEST_BEGIN, LATEST_END = 0.25, 0.3  # seconds from a pause


@dataclass(frozen=True)
class Joined:
    """Utterances with pauses between them.

    Attributes:
        waveform: float32 `[samples]`, 16 kHz mono.
        texts: of each utterance.
        pauses: begin and end of each pause, in seconds.
    """

    waveform: np.ndarray
    texts: tuple[str, ...]
    pauses: tuple[tuple[float, float], ...]


def join(clips: Sequence[np.ndarray], texts: Sequence[str], pauses: Sequence[float]) -> Joined:
    """Join clips, cut to their speech, with pauses of so many seconds between them."""
    generator = np.random.default_rng(0)
    parts = [speech_of(clips[0])]
    places = []
    for clip, seconds in zip(clips[1:], pauses, strict=True):
        begin = sum(map(len, parts)) / SAMPLE_RATE
        parts += [generator.normal(size=round(seconds * SAMPLE_RATE)) * 1e-4, speech_of(clip)]
        places.append((begin, begin + seconds))
    return Joined(np.concatenate(parts).astype(np.float32), tuple(texts), tuple(places))


def speech_of(clip: np.ndarray) -> np.ndarray:
    """The clip without the silence at its ends. Silero finds it; an energy threshold takes breaths for speech."""
    probabilities = speech_probabilities(lambda begin, end: clip[begin:end], len(clip))
    speech = speech_ranges(probabilities, len(clip), margin_ms=0)
    return clip[speech[0].begin : speech[-1].end]


def errors_at_pauses(aligner: WhisperAligner, joined: Joined, language: str | None) -> NDArray[np.float64]:
    """Seconds from each pause to the word after and before it, `[pauses, 2]`; positive = the word is too late."""
    seconds = len(joined.waveform) / SAMPLE_RATE
    words = aligner.align(Segment(0.0, seconds, " ".join(joined.texts), ""), joined.waveform, language).words
    assert words is not None
    after = np.cumsum([len(word_spans(text)) for text in joined.texts])[:-1]
    return np.array(
        [
            (words[word].begin - end, words[word - 1].end - begin)
            for word, (begin, end) in zip(after, joined.pauses, strict=True)
        ]
    )


def all_joined(clips: Sequence[np.ndarray], texts: Sequence[str]) -> list[Joined]:
    """Neighbours of the list, two or three at a time, as many as fit into one clip of 30 s."""
    draw = random.Random(0)
    found, first = [], 0
    while first + 1 < len(clips):
        count = draw.choice([2, 3])
        some = slice(first, first + count)
        pauses = [draw.choice([0.4, 0.7, 1.0, 1.5, 2.0]) for _ in clips[some]][1:]
        first += count
        joined = join(clips[some], texts[some], pauses)
        if len(joined.waveform) <= LONGEST_CLIP_SECONDS * SAMPLE_RATE:
            found.append(joined)
    return found


def transcript(aligner: WhisperAligner, clip: np.ndarray, language: str | None) -> str:
    recognizer = aligner.recognizer
    prompts = recognizer.prompts([recognizer.features(clip)], [language])
    return clean_transcript(recognizer.transcript_text(decode(recognizer, prompts, max_new_tokens=200).tokens[0]))


def print_errors(name: str, aligner: WhisperAligner, joined: Sequence[Joined], language: str | None) -> None:
    start = time.perf_counter()
    errors = np.concatenate([errors_at_pauses(aligner, each, language) for each in joined])
    taken = (time.perf_counter() - start) / len(joined)
    for column, (what, latest) in enumerate((("word after", LATEST_BEGIN), ("word before", LATEST_END))):
        distance = np.abs(errors[:, column])
        print(
            f"{name}, {what} a pause: {quantiles(distance)}, {np.mean(distance > latest):.1%} of {len(distance)} more "
            f"than {latest:g} s away",
            flush=True,
        )
    seconds = sum(len(each.waveform) for each in joined) / len(joined) / SAMPLE_RATE
    print(f"{name}: {taken:.2f} s for a segment of {seconds:.1f} s", flush=True)


def quantiles(distances: NDArray[np.float64]) -> str:
    return f"median {np.median(distances):.3f} s, 95th percentile {np.percentile(distances, 95):.3f} s"


def words_of_transformers(model: str, clips: Sequence[np.ndarray], language: str | None) -> list[list[Word]]:
    """The transcript of each clip with the times of the pipeline."""
    transcribe = pipeline("automatic-speech-recognition", model=model, device="cpu", dtype=torch.float32)
    options = {"language": language.lower(), "task": "transcribe"} if language else {}
    found = [transcribe(clip.copy(), return_timestamps="word", generate_kwargs=options)["chunks"] for clip in clips]
    return [[Word(chunk["text"].strip(), *chunk["timestamp"]) for chunk in chunks] for chunks in found]


def differences(
    aligner: WhisperAligner, clip: np.ndarray, theirs: Sequence[Word], language: str | None
) -> NDArray[np.float64] | None:
    """Distance in seconds of begin and end of each word, `[words, 2]`; None if the text is divided in other words."""
    segment = Segment(0.0, len(clip) / SAMPLE_RATE, " ".join(word.text for word in theirs), "")
    ours = aligner.align(segment, clip, language).words or ()
    if len(ours) != len(theirs):
        return None
    times = [np.array([(word.begin, word.end) for word in words]) for words in (ours, theirs)]
    return np.abs(times[0] - times[1])


def print_differences(
    aligner: WhisperAligner, clips: Sequence[np.ndarray], expected: list[list[Word]], language: str | None
) -> None:
    found = [differences(aligner, clip, theirs, language) for clip, theirs in zip(clips, expected, strict=True)]
    same = [each for each in found if each is not None]
    distances = np.concatenate(same)
    for column, what in enumerate(("begin", "end")):
        print(f"{what} of a word against Transformers: {quantiles(distances[:, column])}")
    print(f"{len(distances)} words; {len(found) - len(same)} utterances are divided in other words")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Whisper model")
    parser.add_argument("--manifest", type=Path, required=True, help="of English utterances")
    parser.add_argument("--joined", type=int, default=120, help="utterances to be joined")
    parser.add_argument("--utterances", type=int, default=20, help="utterances compared with Transformers")
    options = parser.parse_args()
    aligner = WhisperAligner(options.model, device="cpu", dtype=torch.float32)
    language = "English" if aligner.recognizer.is_multilingual else None
    utterances = read_manifest(options.manifest)
    random.Random(0).shuffle(utterances)
    utterances = utterances[: max(options.joined, options.utterances)]
    clips = [decode_audio(item.audio, item.begin_time, item.end_time) for item in utterances]
    texts = [(item.text or "").lower() for item in utterances[: options.joined]]
    transcripts = [transcript(aligner, clip, language) for clip in clips[: options.joined]]
    for name, written in (("texts of the manifest", texts), ("own transcripts", transcripts)):
        print_errors(name, aligner, all_joined(clips[: options.joined], written), language)
    compared = clips[: options.utterances]
    print_differences(aligner, compared, words_of_transformers(options.model, compared, language), language)


if __name__ == "__main__":
    main()
