"""Losses of SFT and OPD on several processes, with DDP and FSDP2, against one process with the same global batches.

    make quickstart && python -m benchmarks.processes

Prints the largest relative difference of a step's loss for each number of processes. Runs `benchmarks/processes.yaml`
on the CPU with gloo; it needs the models of the quickstart. Exit code 1 if a difference is above 1e-5.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.child_processes import output_of

RECIPE = Path(__file__).with_suffix(".yaml")
STAGES = ("sft", "opd")
LIMIT = 1e-5


def losses_of(folder: Path, stage: str) -> list[float]:
    lines = (folder / "stages" / stage / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def run(output: Path, processes: int, sharding: str) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "arkasr", "run", str(RECIPE), "--output", str(output)]
    for stage in STAGES:
        command += ["--set", f"stages.{stage}.optimization.sharding={sharding}"]
    output_of(command, os.environ | {"OMP_NUM_THREADS": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4], help="numbers of processes")
    options = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        single = Path(name) / "single"
        run(single, 1, "none")
        for processes in options.processes:
            for sharding, label in (("none", "DDP"), ("full", "FSDP2")):
                folder = Path(name) / f"{processes}-{sharding}"
                run(folder, processes, sharding)
                for stage in STAGES:
                    pairs = list(zip(losses_of(single, stage), losses_of(folder, stage), strict=True))
                    difference = max(abs(one - many) / abs(one) for one, many in pairs)
                    worst = max(worst, difference)
                    print(
                        f"{stage:3} {processes} processes {label:5}: {len(pairs)} steps, {difference:.1e}", flush=True
                    )
    print(f"largest difference: {worst:.1e}, limit {LIMIT:.0e}")
    sys.exit(worst > LIMIT)


if __name__ == "__main__":
    main()
