"""A recipe killed with SIGKILL at random moments and resumed: does it end as an undisturbed run does?

    python -m benchmarks.kill
    python -m benchmarks.kill --processes 2 --kills 15

Kills wait for a training step, a checkpoint being written, labelling, evaluation, or nothing (a random moment of the
start); then a random moment later the whole run dies, or, of several processes, one of them.
One process must end with the bits of the undisturbed run, several with its losses to 1e-6.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import yaml
from benchmarks.children import end_if_failed, output_of

RECIPE = Path(__file__).parent.parent / "recipes" / "smoke.yaml"
STEPS = 24
CHECKPOINT_EVERY = 2
LABEL_TOKENS = 100  # so that labelling takes long enough to be met
# What a kill waits for, and the longest that it then waits on; in the order in which a run comes to it.
LATER_SECONDS = {"start": 9.0, "step": 0.3, "checkpoint": 0.02, "labelling": 0.4, "evaluation": 0.15}
TRAINING = ("step", "checkpoint", "start")
BEFORE_LABELS = "more-sft"
SAME_LOSS = 1e-6


def schedule(kills: int) -> list[str]:
    """What each kill waits for: half of them training and starts, before and after some while labels are written."""
    training, labelling = kills // 2, kills // 5
    kinds = [TRAINING[number % 3] for number in range(training)]
    before = training * 2 // 3
    return kinds[:before] + ["labelling"] * labelling + kinds[before:] + ["evaluation"] * (kills - training - labelling)


def command(output: Path, processes: int) -> list[str]:
    stages = yaml.safe_load(RECIPE.read_text())["stages"]
    trained = [name for name, stage in stages.items() if stage["kind"] != "label"]
    changes = [f"stages.{name}.optimization.{key}" for name in trained for key in ("steps=", "checkpoint_every=")]
    values = [f"{change}{STEPS if change.endswith('steps=') else CHECKPOINT_EVERY}" for change in changes]
    values += [f"stages.{name}.optimization.accumulation=2" for name in trained]
    values.append(f"stages.labels.max_new_tokens={LABEL_TOKENS}")
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    overrides = [word for value in values for word in ("--set", value)]
    return [
        sys.executable,
        *launcher,
        "-m",
        "arkasr",
        "run",
        str(RECIPE),
        "--output",
        str(output),
        "--resume",
        *overrides,
    ]


def watched(folder: Path) -> dict[str, Callable[[], object]]:
    """What is on disk while each kind of work is being done; it is at work when this changes."""
    stages = folder / "stages"

    def ready_to_label() -> float | None:
        sitting = folder / "environment.json"
        trained = (stages / BEFORE_LABELS / "model").exists()
        return sitting.stat().st_mtime if trained and sitting.exists() else None

    return {
        "start": time.monotonic,
        "step": lambda: sum(path.stat().st_size for path in stages.glob("*/metrics.jsonl")),
        "checkpoint": lambda: sorted(stages.glob("*/checkpoints/.writing-*")),
        "labelling": ready_to_label,
        "evaluation": lambda: sorted(folder.glob("evaluations/*/*")),
    }


def place_of(folder: Path) -> str:
    """Where a run is, from what it has left on disk."""
    evaluated = sorted(folder.glob("evaluations/*/*"))
    if evaluated:
        return f"evaluation, {len(evaluated)} sets done or begun"
    trained = [path.parent.name for path in folder.glob("stages/*/model")]
    logs = sorted(folder.glob("stages/*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    if not logs or (logs[-1].parent.name == BEFORE_LABELS and BEFORE_LABELS in trained):
        return "labelling" if logs else "nothing yet"
    stage = logs[-1].parent
    writing = ", a checkpoint half written" if list(stage.glob("checkpoints/.writing-*")) else ""
    return f"{stage.name}, {len(logs[-1].read_text().splitlines())} of {STEPS} steps{writing}"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_once(folder: Path, options: argparse.Namespace, wanted: str, draw: random.Random) -> tuple[bool, str]:
    """Start or resume the run and kill it; whether it was still at work, and where it was."""
    words = command(folder, options.processes)
    said = folder.parent / "log"
    with said.open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True, env=environment())
        look = watched(folder)[wanted]
        before = look()
        while process.poll() is None and look() == before:
            time.sleep(0.002)
        try:
            status = process.wait(draw.uniform(0, LATER_SECONDS[wanted]))
            end_if_failed(words, status, said.read_text())
            return False, "finished"
        except subprocess.TimeoutExpired:
            where = place_of(folder)
        workers = children(process.pid) if options.processes > 1 else []
        if len(workers) == options.processes:
            rank = draw.randrange(options.processes)
            os.kill(workers[rank], signal.SIGKILL)
            where += f" (one of {options.processes} processes)"
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return True, where


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def losses(folder: Path) -> dict[str, list[float]]:
    return {
        path.parent.name: [json.loads(line)["loss"] for line in path.read_text().splitlines() if '"loss"' in line]
        for path in sorted(folder.glob("stages/*/metrics.jsonl"))
    }


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        output_of(command(whole, options.processes), environment())
        kinds: Counter[str] = Counter()
        for kill, wanted in enumerate(schedule(options.kills)):
            killed.mkdir(exist_ok=True)
            at_work, where = kill_once(killed, options, wanted, draw)
            kinds[wanted if at_work else "finished"] += 1
            print(f"kill {kill + 1:2}: waited for {wanted:10}: {where}", flush=True)
        output_of(command(killed, options.processes), environment())
        print("the last resumption ended well")
        print("kills by what was waited for:", dict(kinds))
        ours, theirs = losses(killed), losses(whole)
        worst = max(
            abs(mine - other) / max(abs(other), 1e-30)
            for stage, expected in theirs.items()
            for mine, other in zip(ours[stage], expected, strict=True)
        )
        steps = sum(map(len, theirs.values()))
        print(f"losses of {len(theirs)} stages, {steps} steps: largest relative difference {worst:.1e}")
        same = {}
        for what, pattern in {
            "models": "stages/*/model/*.safetensors",
            "labels": "stages/*/labels.jsonl",
            "transcripts": "evaluations/*/*.jsonl",
            "results": "results.json",
        }.items():
            found, expected = files(killed, pattern), files(whole, pattern)
            same[what] = found == expected
            print(f"{what}: {len(expected)} files, the same bytes: {same[what]}")
        left = [str(path.relative_to(killed)) for path in killed.rglob(".*writing*")] + [
            str(path.relative_to(killed)) for path in killed.rglob("*parts")
        ]
        print("left over:", left or "nothing")
        good = worst <= SAME_LOSS if options.processes > 1 else all(same.values())
        sys.exit(not good or bool(left))


if __name__ == "__main__":
    main()
