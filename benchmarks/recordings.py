"""Real recordings for the benchmarks of transcription and rollouts, alone and joined at random to up to 30 s.

    python -m benchmarks.recordings --from FOLDER --output data/recordings

FOLDER needs the manifests `an4/train.jsonl`, `librispeech-train-piece/all.jsonl` and `spoken-digits/train.jsonl`.
Prints the size of each set that it writes:

    all.jsonl     all recordings, text in lower case
    long.jsonl    LibriSpeech and an eighth of AN4
    joined.jsonl  AN4 and digits joined in random order with random pauses, to train on pieces of long recordings
    more.jsonl    joined.jsonl, as many joined from AN4 alone, and the single utterances of AN4
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.progress import track

from arkasr.data.audio import SAMPLE_RATE, decode_audio
from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.manifest import read_manifest, write_manifest

# Number of utterances from each manifest.
SOURCES = {"an4/train.jsonl": 858, "librispeech-train-piece/all.jsonl": 110, "spoken-digits/train.jsonl": 300}
LONGEST_PAUSE = 1.0  # seconds
LONGEST_SECONDS = 30.0


def single_rows(source: Path) -> list[dict[str, Any]]:
    rows = []
    for name, count in SOURCES.items():
        utterances = read_manifest(source / name)
        step = len(utterances) // count
        rows += [
            {
                "id": f"{name.split('/')[0]}/{utterance.id}",
                "audio": str(utterance.audio),
                "text": (utterance.text or "").lower(),
                "language": "English",
                "duration": seconds_of(utterance),
            }
            for utterance in utterances[: step * count : step]
        ]
    return rows


def join(rows: Sequence[dict[str, Any]], seconds: float, generator: random.Random) -> tuple[np.ndarray, str]:
    """Join random utterances with random pauses until `seconds` are full; at least one. Returns waveform and text."""

    def pause() -> np.ndarray:
        return np.zeros(int(generator.random() * LONGEST_PAUSE * SAMPLE_RATE), dtype=np.float32)

    parts, texts, length = [pause()[:4_000]], [], 0.0
    while not texts or length < seconds:
        row = generator.choice(rows)
        parts += [decode_audio(row["audio"]), pause()]
        new_length = sum(map(len, parts)) / SAMPLE_RATE
        if texts and new_length > min(seconds, LONGEST_SECONDS):
            return np.concatenate(parts[:-2]), " ".join(texts)
        texts.append(row["text"])
        length = new_length
    return np.concatenate(parts), " ".join(texts)


def write_joined(
    rows: Sequence[dict[str, Any]], folder: Path, count: int, shortest: float, seed: int
) -> list[dict[str, Any]]:
    generator = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    joined = []
    for number in track(range(count), folder.name):
        waveform, text = join(rows, generator.uniform(shortest, LONGEST_SECONDS), generator)
        soundfile.write(folder / f"{number}.flac", waveform, SAMPLE_RATE)
        duration = len(waveform) / SAMPLE_RATE
        audio = f"{folder.name}/{number}.flac"
        joined.append({"audio": audio, "text": text, "language": "English", "duration": duration})
    return joined


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="folder of the manifests")
    parser.add_argument("--output", type=Path, default=Path("data/recordings"))
    parser.add_argument("--joined", type=int, default=3000, help="joined recordings in each set")
    options = parser.parse_args()
    rows = single_rows(options.source)
    short = [row for row in rows if not row["id"].startswith("librispeech")]
    an4 = [row for row in rows if row["id"].startswith("an4")]
    long = [row for row in rows if row["id"].startswith("librispeech")] + an4[::8]
    joined = write_joined(short, options.output / "joined", options.joined, 1.0, seed=0)
    more = joined + write_joined(an4, options.output / "more", options.joined, 2.0, seed=2) + an4
    for name, rows_of_set in (("all", rows), ("long", long), ("joined", joined), ("more", more)):
        write_manifest(options.output / f"{name}.jsonl", rows_of_set)
        minutes = sum(row["duration"] for row in rows_of_set) / 60
        print(f"{name}.jsonl: {len(rows_of_set)} recordings, {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
