"""Damaged audio files and damaged manifest lines: no traceback, no hang, little memory, the right exit code.

    python -m benchmarks.fuzz --model FOLDER [--files 2000] [--seed 0]

Writes short recordings in all formats of the tests, damages copies of them (bits flipped, cut, blocks zeroed, swapped
or inserted), and runs `data check --decode` and `transcribe` on all of them. Then it runs `data check` on a manifest
whose lines are damaged in the same ways. Fails if a command prints a traceback, or ends with another code than 0 or 2.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tests.audio_files import FORMATS, write_audio

SECONDS_PER_FILE = 2.0  # more is a hang


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="any model, better a small one")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_damaged_files(folder, options.files, draw)
        run("data", "check", manifest, "--decode", files=options.files)
        output = folder / "out.jsonl"
        limits = ("--model", options.model, "--max-new-tokens", 8, "-o", output)
        run("transcribe", manifest, *limits, files=options.files)
        rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        refused = sum("error" in row for row in rows)
        print(f"transcribe: {len(rows)} rows, {refused} refused with a reason")
        assert len(rows) == options.files
        lines = damaged_lines(manifest.read_bytes(), options.files, draw)
        (folder / "lines.jsonl").write_bytes(lines)
        run("data", "check", folder / "lines.jsonl", files=options.files)


def write_damaged_files(folder: Path, count: int, draw: random.Random) -> Path:
    """Write the files and their manifest."""
    generator = np.random.default_rng(0)
    samples = (generator.normal(size=32_000) * generator.uniform(0, 0.2, size=20).repeat(1_600)).astype(np.float32)
    whole = {}
    for name, form in FORMATS.items():
        write_audio(folder / name, samples, form)
        whole[name] = (folder / name).read_bytes()
    rows = []
    for number in range(count):
        name = draw.choice(list(whole))
        path = folder / f"{number}-{name}"
        path.write_bytes(damaged(whole[name], draw))
        rows.append({"audio": path.name, "id": str(number), "language": "English"})
    manifest = folder / "set.jsonl"
    manifest.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return manifest


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A copy with one kind of damage."""
    kind = draw.choice(["bits", "header", "cut", "zeros", "swap", "insert", "join"])
    begin = draw.randrange(len(data))
    size = min(draw.choice([1, 16, 256, 4096]), len(data) - begin)
    changed = bytearray(data)
    match kind:
        case "bits" | "header":
            for _ in range(draw.choice([1, 4, 32])):
                changed[draw.randrange(min(len(data), 64) if kind == "header" else len(data))] ^= 1 << draw.randrange(8)
        case "cut":
            del changed[begin:]
        case "zeros":
            changed[begin : begin + size] = bytes(size)
        case "swap":
            other = draw.randrange(len(data) - size + 1)
            first, second = data[begin : begin + size], data[other : other + size]
            changed[begin : begin + size] = second
            changed[other : other + size] = first
        case "insert":
            changed[begin:begin] = draw.randbytes(size)
        case "join":
            changed += data[:begin]
    return bytes(changed)


def damaged_lines(manifest: bytes, count: int, draw: random.Random) -> bytes:
    """A manifest in which every line is damaged. A damaged line may become several."""
    lines = manifest.splitlines()
    return b"\n".join(damaged(draw.choice(lines), draw) for _ in range(count))


def run(*arguments: object, files: int) -> None:
    """Run a command, print its time and memory, and check how it ended."""
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    start = time.perf_counter()
    finished = subprocess.run(
        [sys.executable, "-m", "arkasr", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60 + SECONDS_PER_FILE * files,
        check=False,
    )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    errors = finished.stderr.strip().splitlines()
    print(f"{' '.join(map(str, arguments[:2]))}: code {finished.returncode}, {seconds:.0f} s, at most {peak:.2f} GiB")
    print(f"  {len(errors)} lines on standard error, the last: {errors[-1][:150] if errors else 'none'}", flush=True)
    assert finished.returncode in (0, 2), finished.stderr[-2000:]
    assert "Traceback" not in finished.stderr, finished.stderr[-2000:]


if __name__ == "__main__":
    main()
