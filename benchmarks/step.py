"""What an OPD step costs beside an SFT step on the same batch: medians, phase by phase, and their ratio.

`make bench`. Both are timed in turns in one run, on the tiny models of the quickstart with random weights and noise for
audio; rollouts run to the cap, so the rollout phase is the worst case for its length.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from arkasr.data.examples import Example
from arkasr.data.manifest import Utterance
from arkasr.model.build import build_ark_asr
from arkasr.model.presets import STUDENT_PRESETS
from arkasr.model.processor import INSTRUCTION
from arkasr.model.recognizer import Recognizer
from arkasr.model.tokenizer import train_base_vocabulary
from arkasr.teacher.build import build_qwen3_asr
from arkasr.teacher.presets import PROMPT_WORDS, TEACHER_PRESETS
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stage import Stage
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage

WORDS = tuple("one two three four five six seven eight nine ten red green book train bus london paris".split())  # noqa: SIM905


def noise_examples(recognizers: list[Recognizer], utterances: int, seconds: float, words: int) -> list[Example]:
    generator = np.random.default_rng(0)
    examples = []
    for place in range(utterances):
        waveform = generator.normal(size=int(seconds * 16_000)).astype(np.float32) * 0.1
        text = " ".join(generator.choice(WORDS, words))
        fields = (Path("noise.wav"), text, None, None, "English", str(place), None, seconds, "asr", {})
        features = {recognizer.listener: recognizer.features(waveform) for recognizer in recognizers}
        examples.append(Example(Utterance(*fields), features))
    return examples


def timed_step(stage: Stage, examples: list[Example]) -> dict[str, float]:
    started = time.perf_counter()
    loss = stage(examples, seed=0)
    with stage.clock("backward"):
        loss.total.backward()
    stage.zero_grad()
    return stage.clock.reset() | {"step": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=2.5)
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    vocabulary = train_base_vocabulary([" ".join(WORDS)] * 3, 400, [INSTRUCTION, *PROMPT_WORDS])
    student = build_ark_asr(STUDENT_PRESETS["ark-asr-tiny"], vocabulary)
    teacher = build_qwen3_asr(TEACHER_PRESETS["qwen3-asr-tiny"], vocabulary)
    examples = noise_examples([student, teacher], options.utterances, options.seconds, options.tokens)
    objective = ObjectiveSettings(top_k=16, max_new_tokens=options.tokens)
    stages = {"sft": SupervisedStage(student, None), "opd": DistillationStage(student, teacher, objective)}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in stages}
    for repeat in range(options.repeats + 1):
        for name, stage in stages.items():
            measured = timed_step(stage, examples)
            if repeat:
                times[name].append(measured)
    for name, rows in times.items():
        medians = {phase: statistics.median(row[phase] for row in rows) for phase in rows[0]}
        print(name, json.dumps({phase: round(seconds, 4) for phase, seconds in medians.items()}))
    ratios = [opd["step"] / sft["step"] for opd, sft in zip(times["opd"], times["sft"], strict=True)]
    print(f"OPD step / SFT step: {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
