"""`Transcriber` against plain `model.generate` over the same clips in file order: speed, memory, the words.

    python benchmarks/transcribe.py --model FOLDER --manifest data/recordings/all.jsonl

Both use the same weights and the same batch size, and decode audio and compute features in the time that is measured.
The manifest is shuffled once, so that file order mixes lengths. Timed in turns in one process; peak memory is that of
a process of its own for each way.
"""

import argparse
import random
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from benchmarks.children import output_of

from arkasr import Transcriber, TranscriptionSettings
from arkasr.data.audio import decode_audio
from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.manifest import Utterance, read_manifest
from arkasr.model.processor import transcription_conversation
from arkasr.recognizers.text import clean_transcript
from arkasr.transcribe.recording import recording_of


def plain(transcriber: Transcriber, utterances: list[Utterance], batch_size: int) -> list[str]:
    model, processor = transcriber.recognizer.model, transcriber.recognizer.processor
    texts = []
    for first in range(0, len(utterances), batch_size):
        clips = [
            decode_audio(item.audio, item.begin_time, item.end_time) for item in utterances[first : first + batch_size]
        ]
        conversations = [transcription_conversation(clip) for clip in clips]
        inputs = processor.apply_chat_template(conversations, add_generation_prompt=True).to(model.device)
        written = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        texts += [clean_transcript(text) for text in processor.batch_decode(written, skip_special_tokens=True)]
    return texts


def sorted_and_ahead(transcriber: Transcriber, utterances: list[Utterance], batch_size: int) -> list[str]:
    transcriber.settings = TranscriptionSettings(batch_seconds=30.0 * batch_size, batch_clips=batch_size)
    return [found.text for found in transcriber.transcribe(recording_of(item) for item in utterances)]


WAYS = {"plain": plain, "transcriber": sorted_and_ahead}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device")
    parser.add_argument("--way", choices=list(WAYS), help="run this way once and print the peak memory")
    options = parser.parse_args()
    utterances = read_manifest(options.manifest)
    random.Random(0).shuffle(utterances)
    utterances = utterances[: options.clips]
    transcriber = Transcriber(options.model, device=options.device)
    on_gpu = transcriber.recognizer.device.type == "cuda"
    if options.way:
        WAYS[options.way](transcriber, utterances, options.batch_size)
        peak = (
            torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        print(peak)
        return
    lengths = sorted(map(seconds_of, utterances))
    audio = sum(lengths)
    print(
        f"{len(utterances)} clips, {audio / 60:.1f} minutes, {lengths[0]:.1f} to {lengths[-1]:.1f} s (median "
        f"{statistics.median(lengths):.1f} s), batches of {options.batch_size}, {torch.get_num_threads()} threads, "
        f"{torch.cuda.get_device_name() if on_gpu else 'CPU'}"
    )
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    texts = {}
    for repeat in range(options.repeats + 1):
        for name, way in WAYS.items():
            started = time.perf_counter()
            texts[name] = way(transcriber, utterances, options.batch_size)
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    for name, taken in seconds.items():
        print(f"{name}: {audio / statistics.median(taken):.0f}x real time, median of {len(taken)}")
    ratios = [slow / fast for slow, fast in zip(seconds["plain"], seconds["transcriber"], strict=True)]
    print(f"plain / transcriber: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    same = sum(a == b for a, b in zip(*texts.values(), strict=True))
    print(f"identical transcripts: {same} of {len(utterances)}")
    for name in WAYS:
        command = [sys.executable, *sys.argv, "--way", name]
        peak = int(output_of(command).split()[-1])
        print(f"{name}: peak memory {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
