"""Greedy rollouts by vLLM against `arkasr.recognizers.decoding.decode` in float32: are all tokens equal?

    python -m benchmarks.vllm_rollouts --model runs/rollouts/stages/words/model --manifest data/recordings/long.jsonl

Prints the number of equal transcripts. For each other one it prints the first token that differs, and the student's
best score minus the second best there. A margin within the rounding of float32 is a tie, which another order of sums
may break differently. Needs vLLM.
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
    """Best allowed score minus the second best at every token, `[n]` for each transcript."""
    scores = forced_logits(student, prompts, transcripts).masked_fill(~student.allowed_tokens, -torch.inf)
    best = scores.topk(2).values
    return list((best[:, 0] - best[:, 1]).split([len(tokens) for tokens in transcripts]))


def first_difference(ours: list[int], theirs: list[int]) -> int:
    """The first index at which two different transcripts differ."""
    pairs = zip(ours, theirs, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=200, help="use the first ones of the manifest")
    parser.add_argument("--batch-seconds", type=float, default=64.0, help="audio of a batch")
    parser.add_argument("--cache-gib", type=float, default=1.0, help="vLLM's key-value cache")
    options = parser.parse_args()
    student = load_recognizer(options.model)
    student.model.eval()
    utterances = read_manifest(options.manifest)[: options.utterances]
    examples = ExampleDataset(utterances, {student.frontend: student.features})
    lengths = [seconds_of(utterance) for utterance in utterances]
    engine = VllmEngine(student, max_new_tokens=MAX_NEW_TOKENS, dtype="float32", cache_gib=options.cache_gib)
    tokens = stopped = 0
    smallest = torch.inf
    different = []
    for batch in DurationBatchSampler(lengths, max_audio_seconds=options.batch_seconds, shuffle=False).batches(epoch=0):
        features = [examples[number].features[student.frontend] for number in batch]
        prompts = student.prompts(features, [utterances[number].language for number in batch])
        ours = decode(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
        theirs = engine(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
        tokens += sum(map(len, ours.tokens))
        stopped += int(ours.stopped.sum())
        for number, a, b, margin in zip(
            batch, ours.tokens, theirs.tokens, margins(student, prompts, ours.tokens), strict=True
        ):
            smallest = min(smallest, margin.min().item())
            if not torch.equal(a, b):
                first = first_difference(a.tolist(), b.tolist())
                different.append((utterances[number].id, first, len(a), len(b), margin[first].item()))
    engine.close()
    print(
        f"{len(utterances)} recordings of {min(lengths):.1f} to {max(lengths):.1f} s, {tokens} tokens, "
        f"{stopped} transcripts with a stop token; smallest margin between the two best scores {smallest:.1e}"
    )
    print(f"equal transcripts: {len(utterances) - len(different)} of {len(utterances)}")
    for name, first, n_ours, n_theirs, margin in different:
        print(f"  {name}: token {first + 1} (of {n_ours} and {n_theirs}) differs, margin {margin:.1e}")


if __name__ == "__main__":
    main()
