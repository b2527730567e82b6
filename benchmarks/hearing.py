"""Manifests for benchmarks/hearing.yaml: the built-in speech, with a training set of clean recordings only.

    python -m benchmarks.hearing --output data/hearing
    arkasr run benchmarks/hearing.yaml

The recipe asks whether a student that hears degraded recordings in OPD makes fewer errors on degraded test sets. Its
teacher knows degraded speech; the student has only ever heard clean speech.
"""

import argparse
from pathlib import Path

from arkasr.data.corpora.specs import SyntheticCorpusConfig
from arkasr.data.corpora.synthetic import corpus_cache_folder, prepare_synthetic_corpus
from arkasr.data.manifests.manifest import read_rows, write_manifest

CORPUS = SyntheticCorpusConfig(seed=1, train_utterances=8000, test_utterances=400)  # as in the quickstart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    corpus = prepare_synthetic_corpus(CORPUS, corpus_cache_folder(CORPUS))
    options.output.mkdir(parents=True, exist_ok=True)
    for path in sorted(corpus.glob("*.jsonl")):
        rows = [row | {"audio": str(corpus / row["audio"])} for row in read_rows(path)]
        write_manifest(options.output / path.name, rows)
        if path.stem == "train":
            clean = [row for row in rows if row["condition"] == "clean"]
            write_manifest(options.output / "clean.jsonl", clean)
            print(f"{len(clean)} of {len(rows)} training utterances are clean")


if __name__ == "__main__":
    main()
