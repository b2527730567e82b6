"""Rollouts with drafts against decoding without drafts and against `model.generate`: passes, time, equal tokens.

    python -m benchmarks.recordings --from FOLDER --output data/recordings
    arkasr run benchmarks/rollouts.yaml
    python -m benchmarks.rollouts --model runs/rollouts/stages/words/model --manifest data/recordings/long.jsonl

Drafts are the student's own transcripts with errors: 70% substitutions, 15% deletions, 15% insertions. Prints for each
error rate how many decoder passes the drafts save, and the times of `generate` in units of the drafted rollout.

In training, a rollout reuses the audio that is encoded for the scoring pass, while `generate` encodes it itself. So the
times are compared with the audio encoded by both, by neither, and by `generate` only. All methods alternate in one
process.
"""

import argparse
import random
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from benchmarks.drafts import corrupted
from benchmarks.timing import median_and_range, seconds_taken
from jiwer import wer

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import ExampleDataset
from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.manifest import read_manifest
from arkasr.recognizers.decoding import Transcripts, decode
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.recognizer import Prompts, Recognizer

MAX_NEW_TOKENS = 200

Drafts = list[list[list[int]]]  # token ids by batch and utterance


def roll_out(student: Recognizer, batches: Sequence[Prompts], drafts: Drafts | None = None) -> list[Transcripts]:
    return [
        decode(student, prompts, max_new_tokens=MAX_NEW_TOKENS, drafts=draft)
        for prompts, draft in zip(batches, drafts or [None] * len(batches), strict=True)
    ]


def generate(student: Recognizer, prompts: Prompts, max_new_tokens: int = MAX_NEW_TOKENS) -> torch.Tensor:
    """New tokens by `model.generate`, `[B, n]`."""
    inputs = {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask, **prompts.audio}
    return student.model.generate(**inputs, max_new_tokens=max_new_tokens)[:, prompts.input_ids.shape[1] :]


def generate_from_encoded(student: Recognizer, prompts: Prompts, encoded: Prompts) -> torch.Tensor:
    """As `generate`, without the time of the encoder."""
    counts = (prompts.input_ids == student.processor.audio_token_id).sum(1)
    padded = encoded.audio["embeddings"]
    embeddings = padded[torch.arange(padded.shape[1], device=counts.device) < counts[:, None]]
    with patch.object(student.model, "get_audio_features", lambda *_: (embeddings, counts)):
        return generate(student, prompts)


def ratio_of_sums(numerators: list[float], *terms: list[float]) -> str:
    return median_and_range([a / sum(b) for a, *b in zip(numerators, *terms, strict=True)])


def number_equal(some: Sequence[Transcripts], others: Sequence[Transcripts]) -> int:
    pairs = (zip(a.tokens, b.tokens, strict=True) for a, b in zip(some, others, strict=True))
    return sum(torch.equal(ours, theirs) for batch in pairs for ours, theirs in batch)


def number_equal_to_generate(student: Recognizer, batches: Sequence[Prompts], rollouts: Sequence[Transcripts]) -> int:
    equal = 0
    for prompts, batch in zip(batches, rollouts, strict=True):
        for tokens, row in zip(batch.tokens, generate(student, prompts).cpu(), strict=True):
            equal += torch.equal(tokens, row[: len(tokens)])
    return equal


def print_times(
    student: Recognizer, batches: Sequence[Prompts], encoded: Sequence[Prompts], drafts: Drafts, repeats: int
) -> None:
    """Alternate all methods and print the ratios of their times."""
    methods: dict[str, Callable[[], object]] = {
        "encode": lambda: [student.embed_audio(prompts) for prompts in batches],
        "generate": lambda: [generate(student, prompts) for prompts in batches],
        "decode": lambda: [generate_from_encoded(student, *pair) for pair in zip(batches, encoded, strict=True)],
        "without drafts": partial(roll_out, student, encoded),
        "with drafts": partial(roll_out, student, encoded, drafts),
    }
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            taken[name].append(seconds_taken(method, student.device.type))
    drafted = taken["with drafts"]
    print(
        "  generate / with drafts: "
        f"audio encoded by both {ratio_of_sums(taken['generate'], taken['encode'], drafted)}, "
        f"by neither {ratio_of_sums(taken['decode'], drafted)}, "
        f"by generate only {ratio_of_sums(taken['generate'], drafted)}; "
        f"without drafts / with drafts, by neither {ratio_of_sums(taken['without drafts'], drafted)}",
        flush=True,
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the student")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--batch-seconds", type=float, default=64.0, help="audio of a batch")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    parser.add_argument("--repeats", type=int, default=5, help="0 = only compare tokens")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    options = parse_options()
    student = load_recognizer(options.model, device=options.device)
    student.model.eval()
    utterances = read_manifest(options.manifest)
    examples = ExampleDataset(utterances, {student.frontend: student.features})
    lengths = [seconds_of(utterance) for utterance in utterances]
    sampler = DurationBatchSampler(lengths, max_audio_seconds=options.batch_seconds, shuffle=False)
    numbers = sampler.batches(epoch=0)
    batches = []
    for batch in numbers:
        features = [examples[number].features[student.frontend] for number in batch]
        languages = [utterances[number].language for number in batch]
        batches.append(student.prompts(features, languages).to(student.device))

    encoded = [student.embed_audio(prompts) for prompts in batches]
    plain = roll_out(student, encoded)
    texts = [student.transcript_text(tokens) for batch in plain for tokens in batch.tokens]
    tokens = [len(transcript) for batch in plain for transcript in batch.tokens]
    references = [utterances[number].text or "" for batch in numbers for number in batch]
    equal = number_equal_to_generate(student, batches, plain)
    assert torch.equal(generate(student, batches[0]), generate_from_encoded(student, batches[0], encoded[0]))
    print(
        f"{len(utterances)} recordings of {min(lengths):.1f} to {max(lengths):.1f} s (median "
        f"{statistics.median(lengths):.1f} s), {len(numbers)} batches; {statistics.mean(tokens):.0f} tokens and "
        f"{statistics.mean(len(text.split()) for text in texts):.0f} words a recording; error rate of the student "
        f"against the manifest {wer(references, texts):.1%}; {torch.get_num_threads()} threads, {options.device}"
    )
    print(f"tokens equal to those of `generate`: {equal} of {len(utterances)} utterances")

    words = [word for text in texts for word in text.split()]
    passes = sum(batch.passes for batch in plain)
    for rate in options.rates:
        generator = random.Random(0)
        draft_texts = [" ".join(corrupted(text.split(), rate, words, generator)) for text in texts]
        remaining = iter(draft_texts)
        drafts = [[student.transcript_ids(next(remaining)).tolist() for _ in batch] for batch in numbers]
        if rate == 0:
            drafts = [[transcript.tolist() for transcript in batch.tokens] for batch in plain]
        drafted = roll_out(student, encoded, drafts)
        drafted_passes = sum(batch.passes for batch in drafted)
        print(
            f"drafts {wer(texts, draft_texts):6.1%} wrong: {passes} -> {drafted_passes} passes "
            f"({passes / drafted_passes:.1f}x); equal tokens {number_equal(drafted, plain)} of {len(utterances)}",
            flush=True,
        )
        if options.repeats:
            print_times(student, batches, encoded, drafts, options.repeats)


if __name__ == "__main__":
    main()
