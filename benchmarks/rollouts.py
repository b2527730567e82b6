"""Rollouts along drafts against `model.generate` and against decoding without drafts: passes, time, the same tokens.

    python benchmarks/recordings.py --from FOLDER --output data/recordings
    arkasr run benchmarks/rollouts.yaml
    python -m benchmarks.rollouts --model runs/rollouts/stages/words/model --manifest data/recordings/long.jsonl

The drafts are what the student writes, with a share of the words replaced by other words (70%), left out (15%), or
followed by another (15%): the error rate of a draft against the rollout is then about that share. A rollout in training
finds the audio embedded for the scoring pass; `generate` embeds it for itself. So the times are compared three ways:
with the audio embedded by both, by neither, and by `generate` only. Timed in turns in one process.
"""

import argparse
import random
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from benchmarks.drafts import corrupted
from benchmarks.timing import seconds_taken, spread
from jiwer import wer

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import ExampleDataset
from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.manifest import read_manifest
from arkasr.recognizers.decoding import Transcripts, decode
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.recognizer import Prompts, Recognizer

MAX_NEW_TOKENS = 200


Drafts = list[list[list[int]]]


def rolled_out(student: Recognizer, heard: list[Prompts], drafts: Drafts | None = None) -> list[Transcripts]:
    along = drafts or [None] * len(heard)
    return [
        decode(student, prompts, max_new_tokens=MAX_NEW_TOKENS, drafts=given)
        for prompts, given in zip(heard, along, strict=True)
    ]


def generated(student: Recognizer, prompts: Prompts, max_new_tokens: int = MAX_NEW_TOKENS) -> torch.Tensor:
    asked = {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask, **prompts.audio}
    return student.model.generate(**asked, max_new_tokens=max_new_tokens)[:, prompts.input_ids.shape[1] :]


def generated_deaf(student: Recognizer, prompts: Prompts, heard: Prompts) -> torch.Tensor:
    """As `generated`, with the encoder's work done beforehand."""
    counts = (prompts.input_ids == student.processor.audio_token_id).sum(1)
    padded = heard.audio["embeddings"]
    embeddings = padded[torch.arange(padded.shape[1], device=counts.device) < counts[:, None]]
    with patch.object(student.model, "get_audio_features", lambda *_: (embeddings, counts)):
        return generated(student, prompts)


def compared(slow: list[float], *fast: list[float]) -> str:
    return spread([a / sum(b) for a, *b in zip(slow, *fast, strict=True)])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--batch-seconds", type=float, default=64.0)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    parser.add_argument("--repeats", type=int, default=5, help="0 = see that the tokens are the same, and time nothing")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    student = load_recognizer(options.model, device=options.device)
    student.model.eval()
    utterances = read_manifest(options.manifest)
    examples = ExampleDataset(utterances, {student.frontend: student.features})
    lengths = [seconds_of(utterance) for utterance in utterances]
    batches = DurationBatchSampler(lengths, max_audio_seconds=options.batch_seconds, shuffle=False).batches(epoch=0)
    asked = []
    for batch in batches:
        features = [examples[place].features[student.frontend] for place in batch]
        languages = [utterances[place].language for place in batch]
        asked.append(student.prompts(features, languages).to(student.device))

    heard = [student.embed_audio(prompts) for prompts in asked]
    plain = rolled_out(student, heard)
    texts = [student.transcript_text(tokens) for batch in plain for tokens in batch.tokens]
    tokens = [len(written) for batch in plain for written in batch.tokens]
    references = [utterances[place].text or "" for batch in batches for place in batch]
    same_as_generate = 0
    for prompts, batch in zip(asked, plain, strict=True):
        for written, row in zip(batch.tokens, generated(student, prompts).cpu(), strict=True):
            same_as_generate += torch.equal(written, row[: len(written)])
    assert torch.equal(generated(student, asked[0]), generated_deaf(student, asked[0], heard[0]))
    print(
        f"{len(utterances)} recordings of {min(lengths):.1f} to {max(lengths):.1f} s (median "
        f"{statistics.median(lengths):.1f} s), {len(batches)} batches, {statistics.mean(tokens):.0f} tokens and "
        f"{statistics.mean(len(text.split()) for text in texts):.0f} words a recording; the student's own error rate "
        f"against the manifest {wer(references, texts):.1%}; {torch.get_num_threads()} threads, {options.device}"
    )
    print(f"tokens as `generate` writes them: {same_as_generate} of {len(utterances)} utterances")

    words = [word for text in texts for word in text.split()]
    passes = sum(batch.passes for batch in plain)
    for rate in options.rates:
        draw = random.Random(0)
        drafted = iter([" ".join(corrupted(text.split(), rate, words, draw)) for text in texts])
        drafts_text = [[next(drafted) for _ in batch] for batch in batches]
        if rate == 0:
            drafts = [[written.tolist() for written in batch.tokens] for batch in plain]
        else:
            drafts = [[student.transcript_ids(text).tolist() for text in batch] for batch in drafts_text]
        along = rolled_out(student, heard, drafts)
        same = sum(
            torch.equal(ours, theirs)
            for one, other in zip(along, plain, strict=True)
            for ours, theirs in zip(one.tokens, other.tokens, strict=True)
        )
        ways: dict[str, Callable[[], object]] = {
            "encode": lambda: [student.embed_audio(prompts) for prompts in asked],
            "generate": lambda: [generated(student, prompts) for prompts in asked],
            "deaf": lambda: [generated_deaf(student, *both) for both in zip(asked, heard, strict=True)],
            "plain": partial(rolled_out, student, heard),
            "drafts": partial(rolled_out, student, heard, drafts),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, way in ways.items():
                taken[name].append(seconds_taken(way, options.device))
        differing = wer(texts, [text for batch in drafts_text for text in batch])
        passes_along = sum(batch.passes for batch in along)
        print(
            f"drafts {differing:6.1%} wrong: {passes} -> {passes_along} passes ({passes / passes_along:.1f}x); "
            f"same tokens {same} of {len(utterances)}",
            flush=True,
        )
        if options.repeats:
            encode, generate, deaf, plain_time, drafts_time = (taken[name] for name in ways)
            print(
                f"  generate / drafts: audio embedded by both {compared(generate, encode, drafts_time)}, by neither "
                f"{compared(deaf, drafts_time)}, by generate only {compared(generate, drafts_time)}; "
                f"no drafts / drafts, by neither {compared(plain_time, drafts_time)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
