"""A process with an engine, which writes transcripts when it is told to; test_engine_process.py kills it."""

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


def begin():
    torch.manual_seed(0)
    student = build_ark_asr(SIZES, train_base_vocabulary(TEXTS, 330, [INSTRUCTION]))
    return student, VllmEngine(student, max_new_tokens=MAX_NEW_TOKENS, dtype="float32", cache_gib=0.1)


def engine_pids():
    """The core first, then its workers; not Python's resource tracker."""
    processes = psutil.Process().children(recursive=True)
    return [process.pid for process in processes if "resource_tracker" not in " ".join(process.cmdline())]


def write(student, engine):
    clips = [torch.linspace(-1, 1, 40 * frames).view(40, frames) for frames in (90, 130)]
    written = engine(student, student.prompts(clips, [None, None]), max_new_tokens=MAX_NEW_TOKENS)
    return [tokens.tolist() for tokens in written.tokens]


def main() -> None:
    student, engine = begin()
    say = json.dumps({"engine": engine_pids(), "written": write(student, engine)})
    print(say, flush=True)
    for _ in sys.stdin:
        print(json.dumps({"engine": engine_pids(), "written": write(student, engine)}), flush=True)


if __name__ == "__main__":
    main()
