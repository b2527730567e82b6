"""How many positions of real texts a teacher with another vocabulary can score, and which tokens it cannot.

    python -m benchmarks.pairing --student FOLDER --teacher FOLDER --texts TRANSCRIPTS.jsonl
    python -m benchmarks.pairing --student tokenizer.json --stop '<|im_end|>' --teacher FOLDER --texts TRANSCRIPTS.jsonl

Prints the size of the common vocabulary, the share of tokens with a counterpart (mapped), the share of positions with a
teacher position (paired), the same with the positions that `unpaired: segments` compares (compared), and the commonest
tokens without a teacher position. `--leading-blank` writes the blank that the teacher writes before the first word.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from arkasr.distill.alignment import align
from arkasr.recognizers.load import load_without_weights
from arkasr.recognizers.text import no_prefix
from arkasr.teacher.vocabulary_mapping import map_vocabularies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, required=True, help="folder of a model, or a tokenizer.json")
    parser.add_argument("--stop", help="stop token of a tokenizer.json")
    parser.add_argument("--teacher", required=True, help="folder of a model")
    parser.add_argument("--texts", type=Path, required=True, help="JSON Lines")
    parser.add_argument("--field", default="pred_text")
    parser.add_argument("--leading-blank", action="store_true")
    options = parser.parse_args()
    teacher = load_without_weights(options.teacher)
    if options.student.is_dir():
        student = load_without_weights(options.student)
        tokenizer, stop, size = student.tokenizer, student.stop_token_id, student.vocab_size
        prefix = student.transcript_prefix
    else:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(options.student))
        stop, size = tokenizer.convert_tokens_to_ids(options.stop), len(tokenizer)
        prefix = teacher.transcript_prefix if options.leading_blank else no_prefix
    vocabulary = map_vocabularies(
        tokenizer,
        teacher.tokenizer,
        student_stop=stop,
        teacher_stop=teacher.stop_token_id,
        student_vocab_size=size,
        teacher_vocab_size=teacher.vocab_size,
    )
    counts: Counter[str] = Counter()
    unpaired: Counter[str] = Counter()
    for line in options.texts.read_text().splitlines():
        text = json.loads(line)[options.field]
        ids = torch.tensor([*tokenizer(prefix(text) + text, add_special_tokens=False)["input_ids"], stop])
        alignment = align(
            ids,
            vocabulary.student_to_teacher,
            tokenizer,
            teacher.tokenizer,
            student_stop=stop,
            teacher_stop=teacher.stop_token_id,
            student_prefix=prefix,
            teacher_prefix=teacher.transcript_prefix,
        )
        without = (alignment.teacher_positions < 0).nonzero().squeeze(1).tolist()
        counts["tokens"] += len(ids)
        counts["mapped"] += int((vocabulary.student_to_teacher[ids] >= 0).sum())
        counts["paired"] += len(ids) - len(without)
        counts["first"] += 0 in without
        counts["segments"] += len(alignment.segments)
        counts["in segments"] += sum(len(segment.student) for segment in alignment.segments)
        unpaired.update(
            tokenizer.convert_tokens_to_string([tokenizer.convert_ids_to_tokens(int(ids[i]))]) for i in without
        )
    tokens = counts["tokens"]
    print(f"common tokens: {int((vocabulary.student_to_teacher >= 0).sum())} of {size}")
    print(f"{tokens} positions: {counts['mapped'] / tokens:.1%} mapped, {counts['paired'] / tokens:.1%} paired")
    compared = counts["paired"] + counts["in segments"]
    print(f"with segments: {compared / tokens:.1%} compared, {counts['segments']} segments")
    print(f"first positions without a teacher position: {counts['first']}, of {sum(unpaired.values())} in all")
    print("commonest tokens without one:", ", ".join(f"{text!r} {count}" for text, count in unpaired.most_common(12)))


if __name__ == "__main__":
    main()
