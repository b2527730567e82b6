"""A process with an engine that writes transcripts for each line of input; test_engine_process.py kills it."""

import json
import sys

import psutil
import torch

from arkasr.model.processor import INSTRUCTION
from arkasr.recognizers.ark_asr import build_ark_asr
from arkasr.recognizers.tokenizer import train_base_vocabulary
from arkasr.vllm.engine import VllmEngine
from tests.models import TEXTS
from tests.vllm.test_engine import MAX_NEW_TOKENS, SIZES


def start_engine():
    torch.manual_seed(0)
    student = build_ark_asr(SIZES, train_base_vocabulary(TEXTS, 330, [INSTRUCTION]))
    return student, VllmEngine(student, max_new_tokens=MAX_NEW_TOKENS, dtype="float32", cache_gib=0.1)


def engine_pids():
    """Process ids of vLLM's core, then of its workers."""
    processes = psutil.Process().children(recursive=True)
    return [process.pid for process in processes if "resource_tracker" not in " ".join(process.cmdline())]


def write(student, engine):
    clips = [torch.linspace(-1, 1, 40 * frames).view(40, frames) for frames in (90, 130)]
    written = engine(student, student.prompts(clips, [None, None]), max_new_tokens=MAX_NEW_TOKENS)
    return [tokens.tolist() for tokens in written.tokens]


def print_state(student, engine):
    print(json.dumps({"engine": engine_pids(), "written": write(student, engine)}), flush=True)


def main() -> None:
    student, engine = start_engine()
    print_state(student, engine)
    for _ in sys.stdin:
        print_state(student, engine)


if __name__ == "__main__":
    main()
