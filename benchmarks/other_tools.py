"""A Whisper model in arkasr, in Transformers' pipeline and in faster-whisper: speed and error rate on the same files.

    pip install faster-whisper
    ct2-transformers-converter --model FOLDER --output_dir CT2 --copy_files tokenizer.json preprocessor_config.json
    python -m benchmarks.other_tools --model FOLDER --ct2 CT2 --manifest MANIFEST

Each tool transcribes the same audio files, greedily, in English, with the same batch size and number of threads, and
reads the files in the measured time. The tools alternate in one process. Speeds are ratios to arkasr in the same
round. faster-whisper batches the pieces of one file only, so CTranslate2 is also called with batches of files.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.timing import median_and_range, ratios

from arkasr import Transcriber, TranscriptionSettings
from arkasr.data.audio import SAMPLE_RATE, decode_audio
from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.manifest import Utterance, read_manifest
from arkasr.evaluate.error_rate import count_errors
from arkasr.evaluate.normalize import get_profile

MAX_NEW_TOKENS = 200
Tool = Callable[[Sequence[Path]], list[str]]


def arkasr_tool(model: str, batch_size: int, dtype: torch.dtype) -> Tool:
    settings = TranscriptionSettings(
        batch_seconds=30.0 * batch_size, batch_clips=batch_size, max_new_tokens=MAX_NEW_TOKENS
    )
    transcriber = Transcriber(model, device="cpu", dtype=dtype, language="English", settings=settings)

    def transcribe(files: Sequence[Path]) -> list[str]:
        waveforms = (decode_audio(file) for file in files)
        return [found.text for found in transcriber.transcribe(waveforms)]

    return transcribe


def pipeline_tool(model: str, batch_size: int) -> Tool:
    from transformers import pipeline

    recognizer: Any = pipeline("automatic-speech-recognition", model=model, device="cpu", dtype=torch.float32)
    multilingual = recognizer.model.generation_config.is_multilingual
    options = {"language": "en", "task": "transcribe"} if multilingual else {}
    options |= {"max_new_tokens": MAX_NEW_TOKENS, "num_beams": 1}

    def transcribe(files: Sequence[Path]) -> list[str]:
        clips = ({"raw": decode_audio(file), "sampling_rate": SAMPLE_RATE} for file in files)
        found = recognizer(list(clips), batch_size=batch_size, generate_kwargs=options)
        return [item["text"] for item in found]

    return transcribe


def faster_whisper_tool(folder: str, compute_type: str, threads: int) -> Tool:
    """Its own interface, file after file."""
    from faster_whisper import WhisperModel

    model = WhisperModel(folder, device="cpu", compute_type=compute_type, cpu_threads=threads)

    def transcribe(files: Sequence[Path]) -> list[str]:
        texts = []
        for file in files:
            segments, _ = model.transcribe(
                str(file),
                language="en",
                beam_size=1,
                temperature=0.0,
                without_timestamps=True,
                condition_on_previous_text=False,
                max_new_tokens=MAX_NEW_TOKENS,
                compression_ratio_threshold=None,
                log_prob_threshold=None,
                no_speech_threshold=None,
            )
            texts.append(" ".join(segment.text.strip() for segment in segments))
        return texts

    return transcribe


def ctranslate2_tool(folder: str, compute_type: str, threads: int, batch_size: int) -> Tool:
    """The engine of faster-whisper with batches of files, in the order given."""
    import ctranslate2
    from faster_whisper import WhisperModel
    from faster_whisper.feature_extractor import FeatureExtractor
    from tokenizers import Tokenizer

    model = WhisperModel(folder, device="cpu", compute_type=compute_type, cpu_threads=threads).model
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    extractor = FeatureExtractor()
    names = ["<|startoftranscript|>", "<|notimestamps|>"]
    if model.is_multilingual:
        names[1:1] = ["<|en|>", "<|transcribe|>"]
    prompt = [tokenizer.token_to_id(name) for name in names]

    def transcribe(files: Sequence[Path]) -> list[str]:
        texts: list[str] = []
        for first in range(0, len(files), batch_size):
            clips = [decode_audio(file) for file in files[first : first + batch_size]]
            windows = [np.pad(clip, (0, 30 * SAMPLE_RATE - len(clip))) for clip in clips]
            features = np.stack([extractor(window, padding=0)[:, :3000] for window in windows])
            results = model.generate(
                ctranslate2.StorageView.from_array(np.ascontiguousarray(features)),
                [prompt] * len(clips),
                beam_size=1,
                max_length=len(prompt) + MAX_NEW_TOKENS,
            )
            texts += [tokenizer.decode(result.sequences_ids[0]) for result in results]
        return texts

    return transcribe


def word_error_rate(utterances: Sequence[Utterance], texts: Sequence[str]) -> float:
    normalize = get_profile("whisper-en")
    counts = [
        count_errors(normalize(utterance.text or ""), normalize(text), "word")
        for utterance, text in zip(utterances, texts, strict=True)
    ]
    return sum(count.errors for count in counts) / sum(count.reference_tokens for count in counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Whisper folder")
    parser.add_argument("--ct2", help="the same model, converted for CTranslate2; without it, no faster-whisper")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    utterances = read_manifest(options.manifest)[: options.utterances]
    files = [utterance.audio for utterance in utterances]
    audio = sum(map(seconds_of, utterances))
    tools = {
        "arkasr float32": arkasr_tool(options.model, options.batch_size, torch.float32),
        "arkasr bfloat16": arkasr_tool(options.model, options.batch_size, torch.bfloat16),
        "pipeline float32": pipeline_tool(options.model, options.batch_size),
    }
    if options.ct2:
        for kind in ("float32", "int8"):
            tools[f"faster-whisper {kind}"] = faster_whisper_tool(options.ct2, kind, options.threads)
            tools[f"CTranslate2 {kind}"] = ctranslate2_tool(options.ct2, kind, options.threads, options.batch_size)
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    texts: dict[str, list[str]] = {}
    for tool in tools.values():
        tool(files[: options.batch_size])
    for _ in range(options.repeats):
        for name, tool in tools.items():
            started = time.perf_counter()
            texts[name] = tool(files)
            seconds[name].append(time.perf_counter() - started)
    print(f"{len(files)} files, {audio / 60:.1f} minutes, batches of {options.batch_size}, {options.threads} threads")
    for name, taken in seconds.items():
        speed = audio / statistics.median(taken)
        relative = median_and_range(ratios(seconds["arkasr float32"], taken))
        rate = word_error_rate(utterances, texts[name])
        print(f"{name}: {speed:.1f} x real time; {relative} x the speed of arkasr in float32; WER {100 * rate:.2f}%")


if __name__ == "__main__":
    main()
