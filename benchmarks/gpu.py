"""Everything worth knowing of a GPU: first whether it computes what the CPU does, then how fast.

    make gpu                                         # on a machine with a GPU
    python -m benchmarks.gpu --device cpu --tiny     # the same code at toy size, to try it

Every part runs in a process of its own and writes what it finds as it finds it; one that fails says so and lets the
others run. Parts that are done are not done again: the same command goes on where it stopped. Weights are random, of
the published shapes (Ark-ASR 0.6B, Qwen3-ASR 1.7B); audio is real speech where `--speech` names some, else noise.
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
from benchmarks.gpu_setting import Finding, Setting

from arkasr.files import write_atomically
from arkasr.run.environment import describe_environment
from benchmarks import gpu_correctness, gpu_speed

PARTS = gpu_correctness.PARTS | gpu_speed.PARTS
MARKS = {True: "yes", False: "**no**", None: ""}
SECONDS_OF_A_PART = 480


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that are not done, and print what was found.

    Returns:
        0, or 1 where a part failed or found something wrong.
    """
    options = _options(arguments)
    setting = Setting(options.device, options.tiny, options.speech)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.in_process:
        return _run_part(options.in_process, setting, options.output)
    for name in options.only or PARTS:
        if _done(options.output, name, setting) and not options.again:
            print(f"{name}: done before", flush=True)
            continue
        print(f"{name}: ", end="", flush=True)
        _start_part(name, options)
        print(_verdict(options.output, name), flush=True)
    page = _page(options.output)
    write_atomically(options.output / "gpu.md", [page])
    print(page)
    return int(any(not _good(options.output, name, setting) for name in options.only or PARTS))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="models of the quickstart's size")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--speech", type=Path, help="folder of manifests with recordings; default: noise")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="these parts")
    parser.add_argument("--again", action="store_true", help="also what is done")
    parser.add_argument("--seconds", type=float, default=SECONDS_OF_A_PART, help="that a part may take")
    parser.add_argument("--in-process", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; take --device cpu --tiny to try the code")
    return options


def _start_part(name: str, options: argparse.Namespace) -> None:
    """A part in a process of its own, ended where it takes too long."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--in-process", name, "--device", options.device]
    command += ["--output", str(options.output)]
    command += ["--tiny"] if options.tiny else []
    command += ["--speech", str(options.speech)] if options.speech else []
    log = options.output / f"{name}.log"
    _place(options.output, name).unlink(missing_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(options.seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started itself
            process.wait()
            _append(options.output, name, {"error": f"stopped after {options.seconds:.0f} s"})
            return
    if status:
        said = log.read_text().strip().splitlines()
        _append(options.output, name, {"error": said[-1] if said else f"ended with status {status}"})


def _run_part(name: str, setting: Setting, output: Path) -> int:
    """A part in this process; every finding is on the disk as soon as it is made."""
    started = time.perf_counter()
    if name in gpu_correctness.PARTS:
        torch.backends.cudnn.allow_tf32 = False  # convolutions in float32, as they are called
    first = {"environment": describe_environment(), "date": _today(), "ran_on": _ran_on(setting)}
    _place(output, name).write_text(json.dumps(first) + "\n")
    for finding in PARTS[name](setting):
        _append(output, name, {"finding": asdict(finding)})
    _append(output, name, {"seconds": round(time.perf_counter() - started, 1)})
    return 0


def _page(output: Path) -> str:
    """All findings as tables."""
    parts = [name for name in PARTS if _lines(output, name)]
    first = _lines(output, parts[0])[0]
    machine = first.get("environment", {})
    card = ", ".join(machine.get("accelerators", [])) or machine.get("processor", "unknown")
    versions = ", ".join(f"{name} {machine.get(name)}" for name in ("torch", "transformers", "python"))
    text = f"{card}; {versions}; commit {machine.get('commit')}; {first.get('date')}\n"
    for name in parts:
        about = (PARTS[name].__doc__ or "").strip()
        text += f"\n**{name}**: {about} {_verdict(output, name)}\n\n| | | as it must be |\n|---|---|---|\n"
        for finding in _findings(output, name):
            text += f"| {finding.what} | {finding.value} | {MARKS[finding.passed]} |\n"
    return text


def _verdict(output: Path, name: str) -> str:
    end = _lines(output, name)[-1]
    if "error" in end:
        return f"FAILED: {end['error']}"
    wrong = sum(finding.passed is False for finding in _findings(output, name))
    return f"{end['seconds']} s, " + (f"{wrong} WRONG" if wrong else "nothing wrong")


def _good(output: Path, name: str, setting: Setting) -> bool:
    return _done(output, name, setting) and all(finding.passed is not False for finding in _findings(output, name))


def _done(output: Path, name: str, setting: Setting) -> bool:
    """Whether a part has come to its end, with this code, on such a device and at this size."""
    lines = _lines(output, name)
    if not lines or "seconds" not in lines[-1]:
        return False
    return lines[0]["ran_on"] == _ran_on(setting) and lines[0]["environment"] == describe_environment()


def _ran_on(setting: Setting) -> dict[str, Any]:
    return asdict(setting) | {"speech": str(setting.speech)}


def _findings(output: Path, name: str) -> list[Finding]:
    return [Finding(**line["finding"]) for line in _lines(output, name) if "finding" in line]


def _lines(output: Path, name: str) -> list[dict]:
    place = _place(output, name)
    return [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []


def _append(output: Path, name: str, line: dict) -> None:
    with _place(output, name).open("a") as file:
        file.write(json.dumps(line) + "\n")


def _place(output: Path, name: str) -> Path:
    return output / f"{name}.jsonl"


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


if __name__ == "__main__":
    sys.exit(main())
