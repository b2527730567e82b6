"""A manifest of real recordings of many lengths, for the benchmarks of transcription.

    python benchmarks/recordings.py --from FOLDER --output data/recordings/all.jsonl

FOLDER holds the manifests `an4/train.jsonl`, `librispeech-train-piece/all.jsonl` and `spoken-digits/train.jsonl`. Text
becomes lower case.
"""

import argparse
from pathlib import Path

from arkasr.data.examples import seconds_of
from arkasr.data.manifest import read_manifest, write_manifest

SOURCES = {"an4/train.jsonl": 858, "librispeech-train-piece/all.jsonl": 110, "spoken-digits/train.jsonl": 300}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("data/recordings/all.jsonl"))
    options = parser.parse_args()
    rows = []
    for name, wanted in SOURCES.items():
        utterances = read_manifest(options.source / name)
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
    write_manifest(options.output, rows)
    print(f"{options.output}: {len(rows)} recordings, {sum(row['duration'] for row in rows) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
