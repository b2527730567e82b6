"""Rollouts by vLLM against `recognizers.decoding.decode`, token for token, in float32: no ratio, and no exception.

    python -m benchmarks.vllm_rollouts --model runs/rollouts/stages/words/model --manifest data/recordings/long.jsonl

Needs vLLM. Where the two part, prints how far apart the student's two best scores are at that place: a margin within
float32's rounding is a tie that any other order of sums may break the other way.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import ExampleDataset
from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.manifest import read_manifest
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.recognizers.scoring import forced_logits
from arkasr.vllm.engine import VllmEngine

MAX_NEW_TOKENS = 200


def margins(student: Recognizer, prompts: Prompts, transcripts: list[Tensor]) -> list[Tensor]:
    """How far the best allowed score is above the second, at every token `[n]` of every transcript."""
    scores = forced_logits(student, prompts, transcripts).masked_fill(~student.allowed_tokens, -torch.inf)
    best = scores.topk(2).values
    return list((best[:, 0] - best[:, 1]).split([len(tokens) for tokens in transcripts]))


def parting(ours: list[int], theirs: list[int]) -> int:
    """The first place at which two transcripts differ."""
    pairs = zip(ours, theirs, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--batch-seconds", type=float, default=64.0)
    parser.add_argument("--cache-gib", type=float, default=1.0)
    options = parser.parse_args()
    student = load_recognizer(options.model)
    student.model.eval()
    utterances = read_manifest(options.manifest)[: options.utterances]
    examples = ExampleDataset(utterances, {student.frontend: student.features})
    lengths = [seconds_of(utterance) for utterance in utterances]
    engine = VllmEngine(student, max_new_tokens=MAX_NEW_TOKENS, dtype="float32", cache_gib=options.cache_gib)
    tokens = stopped = 0
    narrowest = torch.inf
    exceptions = []
    for batch in DurationBatchSampler(lengths, max_audio_seconds=options.batch_seconds, shuffle=False).batches(epoch=0):
        features = [examples[place].features[student.frontend] for place in batch]
        prompts = student.prompts(features, [utterances[place].language for place in batch])
        ours = decode(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
        theirs = engine(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
        tokens += sum(map(len, ours.tokens))
        stopped += int(ours.stopped.sum())
        for place, a, b, margin in zip(
            batch, ours.tokens, theirs.tokens, margins(student, prompts, ours.tokens), strict=True
        ):
            narrowest = min(narrowest, margin.min().item())
            if not torch.equal(a, b):
                first = parting(a.tolist(), b.tolist())
                exceptions.append((utterances[place].id, first, len(a), len(b), margin[first].item()))
    engine.close()
    print(
        f"{len(utterances)} recordings of {min(lengths):.1f} to {max(lengths):.1f} s, {tokens} tokens, "
        f"{stopped} transcripts stopped by themselves; narrowest margin between the two best scores {narrowest:.1e}"
    )
    print(f"transcripts equal token for token: {len(utterances) - len(exceptions)} of {len(utterances)}")
    for name, first, n_ours, n_theirs, margin in exceptions:
        print(f"  {name}: part at token {first + 1} (of {n_ours} and {n_theirs}), margin there {margin:.1e}")


if __name__ == "__main__":
    main()
