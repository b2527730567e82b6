"""A small but complete folder of a run, with real FLAC audio."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

VARIANTS = {
    "teacher": "teacher",
    "base": "base",
    "base+sft": "more-sft",
    "base+opd": "opd",
    "base+td": "td",
    "base+td+opd": "opd-after-td",
}
WRONG_SHARE = dict(zip(VARIANTS, (0.04, 0.22, 0.21, 0.17, 0.15, 0.10), strict=True))
FIRST_RATE = {"teacher": 0.5, "base": 0.5, "more-sft": 0.2, "opd": 0.2, "td": 0.2, "opd-after-td": 0.1}
WORDS = [
    "seven",
    "red",
    "boats",
    "left",
    "the",
    "small",
    "harbour",
    "before",
    "nine",
    "on",
    "the",
    "third",
    "of",
    "may",
]
SIGNS = list("今天下午三点我们在北京大学见面请不要忘记带书")
SETS = {"en-clean": "wer", "en-other": "wer", "zh-read": "cer", "zh-meeting": "cer", "zh-net": "cer"}


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def build_run(
    path: Path,
    *,
    sets: Sequence[str] = ("en-clean", "zh-read"),
    utterances: int = 4,
    seeds: Sequence[int] = (0,),
    steps: int = 30,
    seconds: float = 0.5,
) -> Path:
    """Write a run; the share of errors of each variant is in `WRONG_SHARE`."""
    path.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in seeds:
        for variant in VARIANTS:
            if variant != "teacher" or seed == seeds[0]:
                rows += [_evaluate(path, variant, seed, name, utterances, seconds) for name in sets]
    results = {
        "recipe": "example",
        "seeds": list(seeds),
        "rows": rows,
        "over_seeds": _over_seeds(rows) if len(seeds) > 1 else [],
        "comparisons": [
            _compare(rows, "base+td+opd", other, name) for name in ("pooled", *sets) for other in ("base", "base+sft")
        ],
        "support": [
            {
                "variant": variant,
                "seed": seed,
                "vuss_mean": mean + seed / 100,
                "vuss_min": mean - 0.3,
                "vuss_max": mean + 0.4,
                "overlap_ratio": 0.7,
                "overlap_mass_teacher": 0.93,
            }
            for variant, mean in (("base", 5.67), ("base+td", 5.63))
            for seed in seeds
        ],
    }
    write_json(path / "results.json", results)
    write_json(path / "environment.json", {"python": "3.11", "commit": None, "accelerators": [], "seconds": 754.2})
    (path / "recipe.yaml").write_text(yaml.safe_dump(_recipe(sets, seeds, steps), sort_keys=False), encoding="utf-8")
    for seed in seeds:
        _train(path, seed, steps, once=seed == seeds[0])
    return path


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")


def of_seed(name: str, seed: int) -> str:
    """The folder's name; the first seed of every example is 0."""
    return name if seed == 0 else f"{name}-seed{seed}"


def _recipe(sets: Sequence[str], seeds: Sequence[int], steps: int) -> dict[str, Any]:
    def stage(kind: str, start: str, **more: Any) -> dict[str, Any]:
        return {"kind": kind, "start": start, "train": "L", "optimization": {"steps": steps}, **more}

    return {
        "name": "example",
        "description": "A teacher, a base and four ways to go on from it.",
        "seeds": list(seeds),
        "models": {"untrained": {"preset": "ark-asr-tiny"}},
        "stages": {
            "teacher": stage("sft", "untrained"),
            "base-ctc": stage("ctc", "untrained"),
            "base": stage("sft", "base-ctc"),
            "more-sft": stage("sft", "base"),
            "opd": stage("opd", "base", teacher="teacher"),
            "labels": {"kind": "label", "start": "teacher", "audio": "P"},
            "td": stage("sft", "base"),
            "opd-after-td": stage("opd", "td", teacher="teacher"),
        },
        "variants": VARIANTS,
        "evaluation": {"sets": list(sets)},
    }


def _evaluate(path: Path, variant: str, seed: int, name: str, count: int, seconds: float) -> dict[str, Any]:
    chance = random.Random(f"{variant} {seed} {name}")
    vocabulary, between = (WORDS, " ") if SETS[name] == "wer" else (SIGNS, "")
    transcripts, errors, tokens = [], 0, 0
    for place in range(count):
        reference = random.Random(f"{name} {place}").choices(vocabulary, k=9)
        written, wrong = _with_errors(reference, vocabulary, WRONG_SHARE[variant], chance)
        errors, tokens = errors + wrong, tokens + len(reference)
        audio = path.parent / "audio" / name / f"{place}.flac"
        if not audio.exists():
            audio.parent.mkdir(parents=True, exist_ok=True)
            hum = 0.3 * np.sin(np.arange(int(16_000 * seconds)) * (0.05 + 0.002 * place))
            soundfile.write(audio, hum.astype("float32"), 16_000)
        transcripts.append(
            {
                "audio": str(audio),
                "text": between.join(reference),
                "id": f"{name}-{place:03}",
                "speaker": f"speaker{place % 3}",
                "language": "English" if SETS[name] == "wer" else "Chinese",
                "duration": seconds,
                "audio_path": str(audio),
                "pred_text": between.join(written),
                "pred_text_raw": between.join(written),
                "errors": wrong,
                "reference_tokens": len(reference),
            }
        )
    write_lines(path / "evaluations" / of_seed(variant, seed) / f"{name}.jsonl", transcripts)
    rate = errors / tokens
    return {
        "variant": variant,
        "seed": seed,
        "set": name,
        "metric": SETS[name],
        "errors": errors,
        "reference_tokens": tokens,
        "rate": rate,
        "ci95": [max(rate - 0.02, 0), rate + 0.02],
        "utterances": count,
        "speakers": min(count, 3),
        "failed": 0,
        "normalizer": "basic@1",
    }


def _with_errors(
    reference: Sequence[str], vocabulary: Sequence[str], share: float, chance: random.Random
) -> tuple[list[str], int]:
    written, wrong = [], 0
    for token in reference:
        if chance.random() >= share:
            written.append(token)
            continue
        wrong += 1
        kind = chance.choice(("substitute", "delete", "insert"))
        if kind == "insert":
            written += [token, "oh" if vocabulary is WORDS else "啊"]
        elif kind == "substitute":
            written.append(chance.choice([other for other in vocabulary if other != token]))
    return written, wrong


def _compare(rows: Sequence[dict[str, Any]], a: str, b: str, name: str) -> dict[str, Any]:
    def rate(variant: str) -> float:
        counted = [row for row in rows if row["variant"] == variant and name in (row["set"], "pooled")]
        return sum(row["errors"] for row in counted) / sum(row["reference_tokens"] for row in counted)

    difference = rate(a) - rate(b)
    return {
        "a": a,
        "b": b,
        "set": name,
        "difference": difference,
        "ci95": [difference - 0.03, difference + 0.03],
        "p": 0.0004 if abs(difference) > 0.03 else 0.41,
        "test": "paired permutation test over utterances, 10000 permutations; bootstrap interval",
        "speaks_of": "these two models, not the recipes that made them (one training seed)",
    }


def _over_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    means = []
    for variant, name in dict.fromkeys((row["variant"], row["set"]) for row in rows):
        rates = [row["rate"] for row in rows if (row["variant"], row["set"]) == (variant, name)]
        if len(rates) > 1:
            rate, deviation = float(np.mean(rates)), float(np.std(rates, ddof=1))
            interval = [max(rate - 0.05, 0), rate + 0.05]
            means.append({"variant": variant, "set": name, "rate": rate, "deviation": deviation, "ci95": interval})
    return means


def _train(path: Path, seed: int, steps: int, *, once: bool) -> None:
    recipe = yaml.safe_load((path / "recipe.yaml").read_text(encoding="utf-8"))
    for name, stage in recipe["stages"].items():
        if "optimization" not in stage or (name == "teacher" and not once):
            continue
        chance = random.Random(f"{name} {seed}")
        lines = []
        for step in range(1, steps + 1):
            done = step / steps
            line = {
                "step": step,
                "loss": (1 + len(name) / 10) * 0.1**done + 0.1 * chance.random(),
                "time/data": 0.01,
                "time/student": 0.05,
            }
            if stage["kind"] != "ctc" and step % max(steps // 6, 1) == 0:
                line["dev/error_rate"] = FIRST_RATE[name] * (1 - 0.6 * done) + 0.01 * chance.random()
            if stage["kind"] == "opd":
                line |= _support_of_step(done, chance)
            lines.append(line)
        write_lines(path / "stages" / of_seed(name, seed) / "metrics.jsonl", lines)


def _support_of_step(done: float, chance: random.Random) -> dict[str, float]:
    mean = 5.7 - 0.5 * done + 0.1 * chance.random()
    return {
        "support/vuss_mean": mean,
        "support/vuss_min": 4.0,
        "support/vuss_max": 8.0,
        "support/overlap_ratio": 0.6 + 0.1 * done,
        "support/overlap_mass_teacher": 0.8 + 0.1 * done,
        "support/overlap_mass_student": 0.85 + 0.1 * done,
        "support/entropy_teacher": 0.4,
        "support/entropy_student": 0.7 - 0.2 * done,
        "support/entropy_gap": 0.3 - 0.2 * done,
        "support/tail_mass_teacher": 0.01,
        "support/tail_mass_student": 0.03 - 0.02 * done,
        "rollout/tokens": 11.0 + chance.random(),
        "rollout/empty": 0.0,
        "rollout/truncated": 0.02 * (1 - done),
        "time/rollout": 0.2,
        "time/teacher": 0.08,
        "time/backward": 0.07,
        "time/optimizer": 0.01,
    }
