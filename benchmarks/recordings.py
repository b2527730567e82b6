"""Real recordings for the benchmarks of transcription: as they are, and joined at random to up to 30 s.

    python benchmarks/recordings.py --from FOLDER --output data/recordings

FOLDER holds the manifests `an4/train.jsonl`, `librispeech-train-piece/all.jsonl` and `spoken-digits/train.jsonl`.
Writes `all.jsonl` (text in lower case), `long.jsonl` (LibriSpeech and an eighth of AN4), and two sets of utterances
joined in random order with random pauses, so that a model can learn to hear pieces of a long recording: `joined.jsonl`
of AN4 and digits, and `more.jsonl`, which adds as many of AN4 alone and its single utterances.
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

SOURCES = {"an4/train.jsonl": 858, "librispeech-train-piece/all.jsonl": 110, "spoken-digits/train.jsonl": 300}
LONGEST_PAUSE = 1.0
LONGEST_SECONDS = 30.0


def rows_as_they_are(source: Path) -> list[dict[str, Any]]:
    rows = []
    for name, wanted in SOURCES.items():
        utterances = read_manifest(source / name)
        step = len(utterances) // wanted
        rows += [
            {
                "id": f"{name.split('/')[0]}/{utterance.id}",
                "audio": str(utterance.audio),
                "text": (utterance.text or "").lower(),
                "language": "English",
                "duration": seconds_of(utterance),
            }
            for utterance in utterances[: step * wanted : step]
        ]
    return rows


def join(rows: Sequence[dict[str, Any]], seconds: float, draw: random.Random) -> tuple[np.ndarray, str]:
    """Utterances drawn at random, a pause after each, as many as fit into `seconds`; at least one."""

    def pause() -> np.ndarray:
        return np.zeros(int(draw.random() * LONGEST_PAUSE * SAMPLE_RATE), dtype=np.float32)

    parts, texts, length = [pause()[:4_000]], [], 0.0
    while not texts or length < seconds:
        row = draw.choice(rows)
        parts += [decode_audio(row["audio"]), pause()]
        following = sum(map(len, parts)) / SAMPLE_RATE
        if texts and following > min(seconds, LONGEST_SECONDS):
            return np.concatenate(parts[:-2]), " ".join(texts)
        texts.append(row["text"])
        length = following
    return np.concatenate(parts), " ".join(texts)


def write_joined(
    rows: Sequence[dict[str, Any]], folder: Path, count: int, shortest: float, seed: int
) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    joined = []
    for number in track(range(count), folder.name):
        waveform, text = join(rows, draw.uniform(shortest, LONGEST_SECONDS), draw)
        soundfile.write(folder / f"{number}.flac", waveform, SAMPLE_RATE)
        duration = len(waveform) / SAMPLE_RATE
        audio = f"{folder.name}/{number}.flac"
        joined.append({"audio": audio, "text": text, "language": "English", "duration": duration})
    return joined


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("data/recordings"))
    parser.add_argument("--joined", type=int, default=3000)
    options = parser.parse_args()
    rows = rows_as_they_are(options.source)
    short = [row for row in rows if not row["id"].startswith("librispeech")]
    an4 = [row for row in rows if row["id"].startswith("an4")]
    long = [row for row in rows if row["id"].startswith("librispeech")] + an4[::8]
    joined = write_joined(short, options.output / "joined", options.joined, 1.0, seed=0)
    more = joined + write_joined(an4, options.output / "more", options.joined, 2.0, seed=2) + an4
    for name, found in (("all", rows), ("long", long), ("joined", joined), ("more", more)):
        write_manifest(options.output / f"{name}.jsonl", found)
        print(f"{name}.jsonl: {len(found)} recordings, {sum(row['duration'] for row in found) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
