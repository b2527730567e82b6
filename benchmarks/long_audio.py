"""Ten minutes of joined real utterances against the same utterances one by one: are words lost or repeated at cuts?

    python -m benchmarks.long_audio --model FOLDER --manifest data/recordings/all.jsonl --only an4/

Prints the share of words that differ (Levenshtein), for several pauses and longest pieces. Two references are printed
with it: the same for whole utterances that were joined but never cut, and the transcripts of a minute of silence and of
noises.

The model should know the recordings well (`benchmarks/recordings.yaml`), so that differences come from cutting and
joining, and not from the model's own errors.
"""

import argparse
import random
from pathlib import Path

import jiwer
import numpy as np

from arkasr import Transcriber, TranscriptionSettings
from arkasr.data.audio import SAMPLE_RATE, decode_audio
from arkasr.data.degradation.effects import coloured_noise
from arkasr.data.manifests.manifest import read_manifest
from arkasr.transcribe.recording import Recording

MINUTE = 60 * SAMPLE_RATE


def join_without_cuts(clips: list[np.ndarray], silence: np.ndarray, seconds: float) -> list[np.ndarray]:
    """Pieces of whole clips, each up to `seconds` long: the best possible cutting."""
    pieces: list[list[np.ndarray]] = [[]]
    for clip in clips:
        if pieces[-1] and sum(map(len, pieces[-1])) + len(clip) + len(silence) > seconds * SAMPLE_RATE:
            pieces.append([])
        pieces[-1] += [clip, silence]
    return [np.concatenate(piece) for piece in pieces]


def transcribe_uncut(transcriber: Transcriber, clips: list[np.ndarray]) -> str:
    texts = [found.text for found in transcriber.transcribe([Recording(clip, find_speech=False) for clip in clips])]
    return " ".join(filter(None, texts))


def print_joined(transcriber: Transcriber, clips: list[np.ndarray], expected: str, pause: float, piece: float) -> None:
    """Compare one long recording with the clips one by one (`expected`); `pause` and `piece` in seconds."""
    silence = np.zeros(round(pause * SAMPLE_RATE), dtype=np.float32)
    joined = np.concatenate([part for clip in clips for part in (clip, silence)])
    transcriber.settings = TranscriptionSettings(piece_seconds=piece)
    found = transcriber(joined)
    uncut = transcribe_uncut(transcriber, join_without_cuts(clips, silence, piece))
    words = jiwer.process_words(expected, found.text)
    print(
        f"pause {pause:g} s, {len(joined) / SAMPLE_RATE:.0f} s in {len(found.segments)} pieces of up to {piece:g} s: "
        f"{words.wer:.2%} of words differ ({words.insertions} insertions, {words.deletions} deletions, "
        f"{words.substitutions} substitutions); whole utterances, not cut: {jiwer.wer(expected, uncut):.2%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--only", default="", help="use utterances whose ids start with this")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the joined recording, without pauses")
    parser.add_argument("--pauses", type=float, nargs="+", default=[0.3, 0.5, 1.0], help="seconds")
    parser.add_argument("--pieces", type=float, nargs="+", default=[5.0, 10.0, 20.0, 30.0], help="longest, in seconds")
    options = parser.parse_args()
    transcriber = Transcriber(options.model)
    utterances = [utterance for utterance in read_manifest(options.manifest) if utterance.id.startswith(options.only)]
    random.Random(0).shuffle(utterances)
    clips: list[np.ndarray] = []
    while sum(map(len, clips)) < options.minutes * MINUTE:
        clips.append(decode_audio(utterances[len(clips)].audio))
    expected = transcribe_uncut(transcriber, clips)
    references = " ".join(utterance.text or "" for utterance in utterances[: len(clips)])
    wrong = jiwer.wer(references, expected)
    print(f"{len(clips)} utterances, {len(expected.split())} words; error rate against the manifest {wrong:.2%}")
    for pause in options.pauses:
        for piece in options.pieces:
            print_joined(transcriber, clips, expected, pause, piece)
    generator = np.random.default_rng(0)
    noises = {f"noise of slope {slope:g}": coloured_noise(MINUTE, generator, slope) * 0.1 for slope in (0.0, 1.0, 2.0)}
    for name, waveform in {"silence": np.zeros(MINUTE), **noises}.items():
        print(f"a minute of {name}: {transcriber(waveform.astype(np.float32)).text!r}")


if __name__ == "__main__":
    main()
