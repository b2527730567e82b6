"""`recipes/smoke.yaml` killed with SIGKILL and resumed many times: does it end as an undisturbed run does?

    python -m benchmarks.kill
    python -m benchmarks.kill --processes 2 --kills 15

Each kill waits for a training step, a checkpoint that is being written, labelling, evaluation, or the start; then for a
random time. It hits the whole run, or one process of several. Prints where the run was at each kill, the largest
difference of a loss, and whether the files are the same.

Exit code 1 if one process does not give the bytes of the undisturbed run, if several do not give its losses to 1e-6, or
if temporary files are left over.
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
from pathlib import Path

import yaml
from benchmarks.child_processes import exit_if_failed, output_of

RECIPE = Path(__file__).parent.parent / "recipes" / "smoke.yaml"
STEPS = 24
CHECKPOINT_EVERY = 2
LABEL_TOKENS = 100  # makes labelling slow enough for kills to hit it
# The longest random delay in seconds after the event that a kill waits for; in the order of a run.
LONGEST_DELAY = {"start": 9.0, "step": 0.3, "checkpoint": 0.02, "labelling": 0.4, "evaluation": 0.15}
TRAINING_EVENTS = ("step", "checkpoint", "start")
STAGE_BEFORE_LABELS = "more-sft"
MAX_LOSS_DIFFERENCE = 1e-6
COMPARED_FILES = {
    "models": "stages/*/model/*.safetensors",
    "labels": "stages/*/labels.jsonl",
    "transcripts": "evaluations/*/*.jsonl",
    "results": "results.json",
}


def schedule(kills: int) -> list[str]:
    """The event of each kill, in the order of a run: half for training and starts, a fifth for labelling."""
    training, labelling = kills // 2, kills // 5
    events = [TRAINING_EVENTS[number % 3] for number in range(training)]
    before = training * 2 // 3
    evaluation = ["evaluation"] * (kills - training - labelling)
    return events[:before] + ["labelling"] * labelling + events[before:] + evaluation


def command(output: Path, processes: int) -> list[str]:
    stages = yaml.safe_load(RECIPE.read_text())["stages"]
    trained = [name for name, stage in stages.items() if stage["kind"] != "label"]
    optimization = {"steps": STEPS, "checkpoint_every": CHECKPOINT_EVERY, "accumulation": 2}
    values = [f"stages.{name}.optimization.{key}={value}" for name in trained for key, value in optimization.items()]
    values.append(f"stages.labels.max_new_tokens={LABEL_TOKENS}")
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    overrides = [word for value in values for word in ("--set", value)]
    run = ["-m", "arkasr", "run", str(RECIPE), "--output", str(output), "--resume"]
    return [sys.executable, *launcher, *run, *overrides]


def state_of(folder: Path, event: str) -> object:
    """What is on disk of the kind of work; a change of it is the event."""
    stages = folder / "stages"
    if event == "start":
        return time.monotonic()
    if event == "step":
        return sum(path.stat().st_size for path in stages.glob("*/metrics.jsonl"))
    if event == "checkpoint":
        return sorted(stages.glob("*/checkpoints/.writing-*"))
    if event == "labelling":
        environment = folder / "environment.json"  # each start of the run writes it anew
        trained = (stages / STAGE_BEFORE_LABELS / "model").exists()
        return environment.stat().st_mtime if trained and environment.exists() else None
    return sorted(folder.glob("evaluations/*/*"))


def progress_of(folder: Path) -> str:
    """Where a run is, from its files."""
    evaluated = sorted(folder.glob("evaluations/*/*"))
    if evaluated:
        return f"evaluation, {len(evaluated)} sets done or begun"
    trained = [path.parent.name for path in folder.glob("stages/*/model")]
    logs = sorted(folder.glob("stages/*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    if not logs or (logs[-1].parent.name == STAGE_BEFORE_LABELS and STAGE_BEFORE_LABELS in trained):
        return "labelling" if logs else "nothing yet"
    stage = logs[-1].parent
    writing = ", a checkpoint half written" if list(stage.glob("checkpoints/.writing-*")) else ""
    return f"{stage.name}, {len(logs[-1].read_text().splitlines())} of {STEPS} steps{writing}"


def child_ids(process_id: int) -> list[int]:
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [int(child) for child in children.split()]


def kill_once(folder: Path, processes: int, event: str, generator: random.Random) -> tuple[bool, str]:
    """Start or resume the run and kill it.

    Returns:
        Whether it was still running, and where it was.
    """
    words = command(folder, processes)
    log = folder.parent / "log"
    with log.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, start_new_session=True, env=environment())
        before = state_of(folder, event)
        while process.poll() is None and state_of(folder, event) == before:
            time.sleep(0.002)
        try:
            status = process.wait(generator.uniform(0, LONGEST_DELAY[event]))
            exit_if_failed(words, status, log.read_text())
            return False, "finished"
        except subprocess.TimeoutExpired:
            progress = progress_of(folder)
        workers = child_ids(process.pid) if processes > 1 else []
        if len(workers) == processes:
            os.kill(workers[generator.randrange(processes)], signal.SIGKILL)
            progress += f" (one of {processes} processes)"
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return True, progress


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def losses_of(folder: Path) -> dict[str, list[float]]:
    return {
        path.parent.name: [json.loads(line)["loss"] for line in path.read_text().splitlines() if '"loss"' in line]
        for path in sorted(folder.glob("stages/*/metrics.jsonl"))
    }


def contents_of(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern))}


def compare(killed: Path, undisturbed: Path, processes: int) -> bool:
    """Print the differences; whether there are no more than allowed."""
    found, expected = losses_of(killed), losses_of(undisturbed)
    worst = max(
        abs(a - b) / max(abs(b), 1e-30)
        for stage, losses in expected.items()
        for a, b in zip(found[stage], losses, strict=True)
    )
    steps = sum(map(len, expected.values()))
    print(f"losses of {len(expected)} stages, {steps} steps: largest relative difference {worst:.1e}")
    all_same = True
    for kind, pattern in COMPARED_FILES.items():
        files = contents_of(undisturbed, pattern)
        same = contents_of(killed, pattern) == files
        all_same &= same
        print(f"{kind}: {len(files)} files, same bytes: {same}")
    left = [str(path.relative_to(killed)) for pattern in (".*writing*", "*parts") for path in killed.rglob(pattern)]
    print("files left over:", left or "none")
    return not left and (worst <= MAX_LOSS_DIFFERENCE if processes > 1 else all_same)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the random delays")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        undisturbed, killed = Path(name) / "undisturbed", Path(name) / "killed"
        output_of(command(undisturbed, options.processes), environment())
        counts: Counter[str] = Counter()
        for kill, event in enumerate(schedule(options.kills)):
            killed.mkdir(exist_ok=True)
            running, progress = kill_once(killed, options.processes, event, generator)
            counts[event if running else "finished"] += 1
            print(f"kill {kill + 1:2}: waited for {event:10}: {progress}", flush=True)
        output_of(command(killed, options.processes), environment())
        print("the last resumption finished")
        print("kills by event:", dict(counts))
        sys.exit(not compare(killed, undisturbed, options.processes))


if __name__ == "__main__":
    main()
