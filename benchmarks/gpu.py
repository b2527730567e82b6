"""Checks that a GPU computes what the CPU does, then measures its speed and the largest batches.

    make gpu                                         # on a machine with a GPU
    python -m benchmarks.gpu --device cpu --tiny     # tries the same code at toy size

Writes the findings of each part as they come and prints all tables at the end, also into `runs/gpu/gpu.md`. Each part
runs in its own process, so that one that fails does not stop the others. Finished parts are not repeated.

Weights are random, with the published shapes (Ark-ASR 0.6B, Qwen3-ASR 1.7B). Audio is noise without `--speech`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_correctness import batch, compiled, half, objective, padding, rollouts
from benchmarks.gpu_setting import Finding, Setting
from benchmarks.gpu_speed import cost_of_rollouts, cost_of_the_objective, features, largest_batch, steps, transcription
from benchmarks.gpu_training import resume, smoke
from benchmarks.gpu_waits import synchronisations

from arkasr.files import write_atomically
from arkasr.run.environment import describe_environment

CHECKS = (objective, batch, rollouts, padding, half, resume, smoke, compiled, synchronisations)
MEASUREMENTS = (steps, cost_of_the_objective, cost_of_rollouts, transcription, features, largest_batch)
PARTS = {part.__name__: part for part in (*CHECKS, *MEASUREMENTS)}
MARKS = {True: "yes", False: "**no**", None: ""}
SECONDS_OF_A_PART = 480


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that are not done, and print all findings.

    Returns:
        0, or 1 if a part failed or a check did not pass.
    """
    options = _parse_options(arguments)
    setting = Setting(options.device, options.tiny, options.speech)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.in_process:
        return _run_part(options.in_process, setting, options.output)
    names = options.only or list(PARTS)
    for name in names:
        if _done(options.output, name, setting) and not options.again:
            print(f"{name}: already done", flush=True)
            continue
        print(f"{name}: ", end="", flush=True)
        _start_part(name, options)
        print(_verdict(options.output, name), flush=True)
    page = _page(options.output)
    write_atomically(options.output / "gpu.md", [page])
    print(page)
    return int(not all(_passed(options.output, name, setting) for name in names))


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="models of the quickstart's size")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="folder of the findings")
    parser.add_argument("--speech", type=Path, help="folder of manifests with recordings; default: noise")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="run these parts only")
    parser.add_argument("--again", action="store_true", help="repeat finished parts")
    parser.add_argument("--seconds", type=float, default=SECONDS_OF_A_PART, help="time limit of a part")
    parser.add_argument("--in-process", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; take --device cpu --tiny to try the code")
    return options


def _start_part(name: str, options: argparse.Namespace) -> None:
    """Run a part in its own process; kill it and its children at the time limit."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--in-process", name, "--device", options.device]
    command += ["--output", str(options.output)]
    command += ["--tiny"] if options.tiny else []
    command += ["--speech", str(options.speech)] if options.speech else []
    log = options.output / f"{name}.log"
    _file_of(options.output, name).unlink(missing_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(options.seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _append(options.output, name, {"error": f"stopped after {options.seconds:.0f} s"})
            return
    if status:
        lines = log.read_text().strip().splitlines()
        _append(options.output, name, {"error": lines[-1] if lines else f"ended with status {status}"})


def _run_part(name: str, setting: Setting, output: Path) -> int:
    """Run a part in this process, and write each finding at once."""
    started = time.perf_counter()
    if PARTS[name] in CHECKS:
        torch.backends.cudnn.allow_tf32 = False  # a float32 convolution must be compared in float32
    header = {"environment": describe_environment(), "date": _today(), "ran_on": _ran_on(setting)}
    _file_of(output, name).write_text(json.dumps(header) + "\n")
    for finding in PARTS[name](setting):
        _append(output, name, {"finding": asdict(finding)})
    _append(output, name, {"seconds": round(time.perf_counter() - started, 1)})
    return 0


def _page(output: Path) -> str:
    """All findings as Markdown tables."""
    parts = [name for name in PARTS if _read_lines(output, name)]
    header = _read_lines(output, parts[0])[0]
    environment = header.get("environment", {})
    machine = ", ".join(environment.get("accelerators", [])) or environment.get("processor", "unknown")
    versions = ", ".join(f"{name} {environment.get(name)}" for name in ("torch", "transformers", "python"))
    text = f"{machine}; {versions}; commit {environment.get('commit')}; {header.get('date')}\n"
    for name in parts:
        summary = (PARTS[name].__doc__ or "").strip()
        text += f"\n**{name}**: {summary} {_verdict(output, name)}\n\n| | found | correct |\n|---|---|---|\n"
        for finding in _findings(output, name):
            text += f"| {finding.what} | {finding.value} | {MARKS[finding.passed]} |\n"
    return text


def _verdict(output: Path, name: str) -> str:
    last = _read_lines(output, name)[-1]
    if "error" in last:
        return f"FAILED: {last['error']}"
    wrong = sum(finding.passed is False for finding in _findings(output, name))
    return f"{last['seconds']} s, " + (f"{wrong} WRONG" if wrong else "nothing wrong")


def _passed(output: Path, name: str, setting: Setting) -> bool:
    return _done(output, name, setting) and all(finding.passed is not False for finding in _findings(output, name))


def _done(output: Path, name: str, setting: Setting) -> bool:
    """Whether the part has finished with this code, on this device and at this size."""
    lines = _read_lines(output, name)
    if not lines or "seconds" not in lines[-1]:
        return False
    return lines[0]["ran_on"] == _ran_on(setting) and lines[0]["environment"] == describe_environment()


def _ran_on(setting: Setting) -> dict[str, Any]:
    return asdict(setting) | {"speech": str(setting.speech)}


def _findings(output: Path, name: str) -> list[Finding]:
    return [Finding(**line["finding"]) for line in _read_lines(output, name) if "finding" in line]


def _read_lines(output: Path, name: str) -> list[dict]:
    file = _file_of(output, name)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _append(output: Path, name: str, line: dict) -> None:
    with _file_of(output, name).open("a") as file:
        file.write(json.dumps(line) + "\n")


def _file_of(output: Path, name: str) -> Path:
    return output / f"{name}.jsonl"


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


if __name__ == "__main__":
    sys.exit(main())
