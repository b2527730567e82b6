"""Ten minutes of joined real utterances against the same utterances one by one: are words lost or said twice at cuts?

    python benchmarks/long_audio.py --model FOLDER --manifest data/recordings/all.jsonl --only an4/

The model should know the recordings well (`benchmarks/recordings.yaml`), so that what differs is due to cutting and
joining and not to its doubts. Prints the share of words that differ (Levenshtein) for several pauses and longest
pieces, beside what the model makes of whole utterances joined by hand, and what a minute of silence and of each kind of
noise gives.
"""

import argparse
import random
from pathlib import Path

import jiwer
import numpy as np

from arkasr import Transcriber, TranscriptionSettings
from arkasr.data.audio import SAMPLE_RATE, decode_audio
from arkasr.data.corpora.degrade import coloured_noise
from arkasr.data.manifests.manifest import read_manifest
from arkasr.transcribe.recording import Recording


def whole_utterances(clips: list[np.ndarray], silence: np.ndarray, seconds: float) -> list[np.ndarray]:
    """The clips in groups of up to so many seconds, never cut: what a perfect cutter would hand to the model."""
    groups: list[list[np.ndarray]] = [[]]
    for clip in clips:
        if groups[-1] and sum(map(len, groups[-1])) + len(clip) + len(silence) > seconds * SAMPLE_RATE:
            groups.append([])
        groups[-1] += [clip, silence]
    return [np.concatenate(group) for group in groups]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--only", default="", help="ids that begin so")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pauses", type=float, nargs="+", default=[0.3, 0.5, 1.0])
    parser.add_argument("--pieces", type=float, nargs="+", default=[5.0, 10.0, 20.0, 30.0])
    options = parser.parse_args()
    transcriber = Transcriber(options.model)
    utterances = [utterance for utterance in read_manifest(options.manifest) if utterance.id.startswith(options.only)]
    random.Random(0).shuffle(utterances)
    clips: list[np.ndarray] = []
    while sum(map(len, clips)) < options.minutes * 60 * SAMPLE_RATE:
        clips.append(decode_audio(utterances[len(clips)].audio))
    apart = [found.text for found in transcriber.transcribe([Recording(clip, find_speech=False) for clip in clips])]
    expected = " ".join(filter(None, apart))
    said = " ".join(utterance.text or "" for utterance in utterances[: len(clips)])
    print(f"{len(clips)} utterances, {len(expected.split())} words, {jiwer.wer(said, expected):.2%} of them wrong")
    for pause in options.pauses:
        silence = np.zeros(round(pause * SAMPLE_RATE), dtype=np.float32)
        joined = np.concatenate([part for clip in clips for part in (clip, silence)])
        for seconds in options.pieces:
            transcriber.settings = TranscriptionSettings(piece_seconds=seconds)
            found = transcriber(joined)
            by_hand = [Recording(piece, find_speech=False) for piece in whole_utterances(clips, silence, seconds)]
            control = " ".join(found.text for found in transcriber.transcribe(by_hand))
            words = jiwer.process_words(expected, found.text)
            print(
                f"pause {pause:g} s, {len(joined) / SAMPLE_RATE:.0f} s in {len(found.segments)} pieces of up to "
                f"{seconds:g} s: {words.wer:.2%} of words differ ({words.insertions} added, {words.deletions} lost, "
                f"{words.substitutions} other); whole utterances joined by hand: {jiwer.wer(expected, control):.2%}"
            )
    generator = np.random.default_rng(0)
    minute = 60 * SAMPLE_RATE
    noises = {f"noise of slope {slope:g}": coloured_noise(minute, generator, slope) * 0.1 for slope in (0.0, 1.0, 2.0)}
    for name, waveform in {"silence": np.zeros(minute), **noises}.items():
        print(f"a minute of {name}: {transcriber(waveform.astype(np.float32)).text!r}")


if __name__ == "__main__":
    main()
