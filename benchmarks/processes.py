"""The same global batches on one process and on several, DDP and FSDP2: are the loss curves the same?

    make quickstart && python -m benchmarks.processes

Runs benchmarks/processes.yaml once for each, with gloo on the CPU, and prints the largest relative difference of any
step's loss from that of one process.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.children import output_of

RECIPE = Path(__file__).with_suffix(".yaml")
STAGES = ("sft", "opd")
ASKED = 1e-5


def losses(folder: Path, stage: str) -> list[float]:
    lines = (folder / "stages" / stage / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def run(output: Path, processes: int, sharding: str) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "arkasr", "run", str(RECIPE), "--output", str(output)]
    for stage in STAGES:
        command += ["--set", f"stages.{stage}.optimization.sharding={sharding}"]
    output_of(command, os.environ | {"OMP_NUM_THREADS": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    options = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        alone = Path(name) / "alone"
        run(alone, 1, "none")
        for processes in options.processes:
            for sharding, called in (("none", "DDP"), ("full", "FSDP2")):
                folder = Path(name) / f"{processes}-{sharding}"
                run(folder, processes, sharding)
                for stage in STAGES:
                    pairs = list(zip(losses(alone, stage), losses(folder, stage), strict=True))
                    difference = max(abs(one - many) / abs(one) for one, many in pairs)
                    worst = max(worst, difference)
                    print(
                        f"{stage:3} {processes} processes {called:5}: {len(pairs)} steps, {difference:.1e}", flush=True
                    )
    print(f"largest of all: {worst:.1e}, asked {ASKED:.0e}")
    sys.exit(worst > ASKED)


if __name__ == "__main__":
    main()
