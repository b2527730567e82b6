"""Word times at pauses of known length: how far from the truth they are.

    python -m benchmarks.word_times --aligner FOLDER --manifest MANIFEST

Two utterances are cut to their speech (Silero) and joined with a pause. The text is what the aligner's model writes for
each of them. Prints the distance between the last word's end and the pause's begin, and between the next word's begin
and the pause's end.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch

from arkasr import Transcriber
from arkasr.data.audio import SAMPLE_RATE, decode_audio
from arkasr.data.manifests.manifest import Utterance, read_manifest
from arkasr.transcribe.aligner import open_aligner
from arkasr.transcribe.speech import speech_probabilities, speech_ranges
from arkasr.transcribe.transcript import Segment
from arkasr.transcribe.words import word_spans

PAUSES = (0.3, 0.5, 0.8, 1.2)


def speech_of(utterance: Utterance) -> np.ndarray:
    """The waveform from the first to the last sample of speech."""
    waveform = decode_audio(utterance.audio, utterance.begin_time, utterance.end_time)
    probabilities = speech_probabilities(lambda begin, end: waveform[begin:end], len(waveform))
    ranges = speech_ranges(probabilities, len(waveform), margin_ms=0)
    return waveform[ranges[0].begin : ranges[-1].end]


def summary(distances: list[float]) -> str:
    median, high, largest = np.percentile(np.abs(distances), [50, 95, 100])
    return f"median {median:.3f} s, 95th percentile {high:.3f} s, largest {largest:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aligner", required=True, help="a Whisper folder")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--language", default="English")
    options = parser.parse_args()
    aligner = open_aligner(options.aligner, device="cpu", dtype=torch.float32)
    transcriber = Transcriber(options.aligner, device="cpu", language=options.language)
    short = [item for item in read_manifest(options.manifest) if (item.duration or 99.0) <= 13.0]
    ends, begins = [], []
    for pair, pause in zip(zip(short[::2], short[1::2], strict=False), itertools.cycle(PAUSES), strict=False):
        if len(ends) == options.pairs:
            break
        first, second = map(speech_of, pair)
        texts = [transcriber(waveform).text for waveform in (first, second)]
        silence = np.random.default_rng(0).normal(size=int(pause * SAMPLE_RATE)).astype(np.float32) * 1e-4
        waveform = np.concatenate((first, silence, second))
        segment = Segment(0.0, len(waveform) / SAMPLE_RATE, " ".join(texts), "")
        words = aligner.align(segment, waveform, options.language).words
        before = len(word_spans(texts[0]))
        if words is None or before == 0:
            continue
        ends.append(words[before - 1].end - len(first) / SAMPLE_RATE)
        begins.append(words[before].begin - (len(first) + len(silence)) / SAMPLE_RATE)
    print(f"{len(ends)} pauses of {min(PAUSES)} to {max(PAUSES)} s")
    print(f"end of the word before the pause: {summary(ends)}")
    print(f"begin of the word after the pause: {summary(begins)}")


if __name__ == "__main__":
    main()
