"""A Whisper model here against Transformers: log-probabilities along references, and greedy transcripts.

    python -m benchmarks.whisper_parity --model FOLDER --manifest MANIFEST

Prints the largest difference of log-probabilities in batches and alone, and the utterances whose transcript differs
from that of `generate`, in batches of another order, along drafts and alone. All in float32 on the CPU.
"""

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor

from arkasr.data.audio import decode_audio
from arkasr.data.manifests.manifest import read_manifest
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.recognizers.scoring import forced_logits


def transformers_log_probs(recognizer: Recognizer, prompts: Prompts, transcripts: list[Tensor]) -> list[Tensor]:
    """Log-probabilities of every token of each transcript by the model's own forward pass, `[n_b]` each."""
    padded = torch.nn.utils.rnn.pad_sequence(transcripts, batch_first=True)
    ids = torch.cat((recognizer.embed_audio(prompts).input_ids, padded), dim=1)
    output = recognizer.model(input_features=prompts.audio["input_features"], decoder_input_ids=ids[:, :-1])
    logits = output.logits[:, prompts.input_ids.shape[1] - 1 :]
    return [chosen(row[: len(tokens)], tokens) for row, tokens in zip(logits, transcripts, strict=True)]


def chosen(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def largest_difference(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(float((ours - theirs).abs().max()) for ours, theirs in zip(found, expected, strict=True))


def generated(recognizer: Recognizer, features: Tensor, language: str | None, max_new_tokens: int) -> list[list[int]]:
    """The tokens that `generate` writes, without the stop token, which it drops from the longest row of a batch."""
    code = {} if language is None else {"language": language.lower(), "task": "transcribe"}
    rows = recognizer.model.generate(features, max_new_tokens=max_new_tokens, **code).tolist()
    stop = recognizer.stop_token_id
    return [row[: row.index(stop)] if stop in row else row for row in rows]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--max-new-tokens", type=int, default=200)
    options = parser.parse_args()
    recognizer = load_recognizer(options.model)
    recognizer.model.eval()
    utterances = read_manifest(options.manifest)[: options.utterances]
    language = "English" if recognizer.model.generation_config.is_multilingual else None
    forced_in_batches, forced_alone = [], []
    written: dict[str, list[list[int]]] = {"generate": [], "in a batch": [], "along drafts": [], "alone": []}
    random.Random(0).shuffle(utterances)
    for first in range(0, len(utterances), options.batch_size):
        batch = utterances[first : first + options.batch_size]
        features = [recognizer.features(decode_audio(item.audio, item.begin_time, item.end_time)) for item in batch]
        prompts = recognizer.prompts(features, [language] * len(batch))
        transcripts = [recognizer.transcript_ids(item.text or "") for item in batch]
        lengths = [len(tokens) for tokens in transcripts]
        logits = forced_logits(recognizer, prompts, transcripts).split(lengths)
        ours = [chosen(row, tokens) for row, tokens in zip(logits, transcripts, strict=True)]
        forced_in_batches.append(largest_difference(ours, transformers_log_probs(recognizer, prompts, transcripts)))
        single = prompts.select([0])
        alone = transformers_log_probs(recognizer, single, transcripts[:1])
        forced_alone.append(largest_difference(ours[:1], alone))
        limit = options.max_new_tokens
        expected = generated(recognizer, prompts.audio["input_features"], language, limit)
        written["generate"] += expected
        embedded = recognizer.embed_audio(prompts)
        order = random.Random(first).sample(range(len(batch)), len(batch))
        shuffled = decode(recognizer, embedded.select(order), max_new_tokens=limit).tokens
        written["in a batch"] += [shuffled[order.index(index)].tolist() for index in range(len(batch))]
        drafts = [tokens.tolist() for tokens in transcripts]
        drafted = decode(recognizer, embedded, max_new_tokens=limit, drafts=drafts).tokens
        written["along drafts"] += [tokens.tolist() for tokens in drafted]
        for index in range(len(batch)):
            [tokens] = decode(recognizer, embedded.select([index]), max_new_tokens=limit).tokens
            written["alone"].append(tokens.tolist())
        print(f"{first + len(batch)} of {len(utterances)}", flush=True)
    print(f"log-probabilities, same batch: largest difference {max(forced_in_batches):.1e} nats")
    print(f"log-probabilities, batch against alone: largest difference {max(forced_alone):.1e} nats")
    for name in ("in a batch", "along drafts", "alone"):
        different = [
            item.id
            for item, ours, theirs in zip(utterances, written[name], written["generate"], strict=True)
            if [token for token in ours if token != recognizer.stop_token_id] != theirs
        ]
        print(f"{name}: {len(different)} of {len(utterances)} transcripts differ from generate: {different}")


if __name__ == "__main__":
    main()
