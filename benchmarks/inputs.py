"""CPU time of comparing a training set with what a run has recorded of it, which each resume does.

    python -m benchmarks.inputs
    python -m benchmarks.inputs --utterances 10000000

Prints CPU milliseconds and the bytes that the run records. Writes the sets itself; each audio file holds one byte,
because none is decoded. Sets of more than 131,072 utterances are read through the index of their manifest.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from arkasr.data.manifests.identity import FULL_CHECK_LIMIT, difference, identity_of
from arkasr.data.manifests.indexed import IndexedUtterances
from arkasr.data.manifests.indexing import build_index
from arkasr.data.manifests.manifest import read_manifest, write_manifest
from arkasr.data.manifests.utterances import ListedUtterances, Utterances


def write_set(folder: Path, utterances: int, files: int) -> Path:
    for number in range(min(files, utterances)):
        (folder / f"{number}.wav").write_bytes(b"-")
    rows = (
        {
            "audio": f"{number % files}.wav",
            "text": "so many words as are said in a few seconds",
            "language": "en",
            "id": f"utterance-{number}",
            "duration": 3.2,
        }
        for number in range(utterances)
    )
    write_manifest(folder / "train.jsonl", rows)
    return folder / "train.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, nargs="+", default=[8_000, 100_000, 1_000_000], help="sizes of sets")
    parser.add_argument("--files", type=int, default=100_000, help="most audio files; more utterances share them")
    options = parser.parse_args()
    for count in options.utterances:
        with TemporaryDirectory() as folder:
            manifest = write_set(Path(folder), count, options.files)
            large = count > FULL_CHECK_LIMIT
            utterances: Utterances = (
                IndexedUtterances(build_index(manifest)) if large else ListedUtterances(read_manifest(manifest))
            )
            recorded = identity_of(utterances, by_lines=large, times=True)
            started = time.process_time()
            found = difference(recorded, identity_of(utterances, by_lines=large, times=True), utterances)
            seconds = time.process_time() - started
            assert found is None
            size = len(json.dumps(recorded))
            print(f"{count:>10,} utterances: {1000 * seconds:,.0f} ms of CPU time, {size:,} bytes recorded")


if __name__ == "__main__":
    main()
