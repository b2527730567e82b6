"""`arkasr transcribe` killed with SIGKILL at random moments and restarted: is the output that of an undisturbed run?

    python -m benchmarks.kill_transcribe --model FOLDER --manifest data/recordings/all.jsonl

Every fifth kill comes at a random moment of the start, the others during decoding. Prints how far each killed run was,
and whether the outputs are the same, byte for byte. Exit code 1 if they differ.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.child_processes import output_of

from arkasr.data.manifests.manifest import read_manifest, write_manifest


def number_of_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_once(command: Sequence[str], journal: Path, delay: float, during_decoding: bool) -> bool:
    """Start the command and kill it `delay` seconds later, or after its first new piece; False if it had finished."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    before = number_of_lines(journal)
    while during_decoding and process.poll() is None and number_of_lines(journal) == before:
        time.sleep(0.01)
    try:
        process.wait(delay)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=500, help="utterances of the manifest, chosen at random")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        utterances = read_manifest(options.manifest)
        generator.shuffle(utterances)
        manifest, undisturbed, killed = (folder / f"{kind}.jsonl" for kind in ("some", "undisturbed", "killed"))
        rows = [dict(item.fields) | {"audio": str(item.audio)} for item in utterances[: options.clips]]
        write_manifest(manifest, rows)
        command = [sys.executable, "-m", "arkasr", "transcribe", str(manifest), "--model", options.model]
        command += ["--batch-size", "1", "-o"]
        started = time.monotonic()
        output_of([*command, str(undisturbed)])
        seconds = time.monotonic() - started
        journal = killed.with_name(f".{killed.name}.partial")
        for kill in range(options.kills):
            during_decoding = kill % 5 != 0
            delay = generator.uniform(0.0, seconds / options.kills if during_decoding else seconds / 4)
            alive = kill_once([*command, str(killed)], journal, delay, during_decoding)
            pieces = f"{max(number_of_lines(journal) - 1, 0)} of {options.clips} pieces were done"
            print(f"kill {kill + 1}: {pieces if alive else 'it had finished'}", flush=True)
        output_of([*command, str(killed)])
        same = undisturbed.read_bytes() == killed.read_bytes()
        left = sorted(path.name for path in folder.iterdir() if path not in (manifest, undisturbed, killed))
        texts = sum(bool(json.loads(line)["pred_text"]) for line in killed.read_text().splitlines())
        print(f"{number_of_lines(killed)} lines, {texts} with words; same bytes: {same}; files left over: {left}")
        sys.exit(not same)


if __name__ == "__main__":
    main()
