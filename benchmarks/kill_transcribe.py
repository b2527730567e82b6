"""`arkasr transcribe` killed with SIGKILL at random moments and rerun: do the lines of an undisturbed run come out?

    python benchmarks/kill_transcribe.py --model FOLDER --manifest data/recordings/all.jsonl

One kill in five comes at a random moment of the start, the others at one of decoding. Prints what each kill hit and
whether the outputs are the same, byte for byte.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.children import output_of

from arkasr.data.manifests.manifest import read_manifest, write_manifest


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        utterances = read_manifest(options.manifest)
        draw.shuffle(utterances)
        manifest, whole, output = folder / "some.jsonl", folder / "whole.jsonl", folder / "killed.jsonl"
        rows = [dict(item.fields) | {"audio": str(item.audio)} for item in utterances[: options.clips]]
        write_manifest(manifest, rows)
        command = [sys.executable, "-m", "arkasr", "transcribe", str(manifest), "--model", options.model]
        command += ["--batch-size", "1", "-o"]
        started = time.monotonic()
        output_of([*command, str(whole)])
        undisturbed = time.monotonic() - started
        journal = output.with_name(f".{output.name}.partial")
        for kill in range(options.kills):
            process = subprocess.Popen([*command, str(output)], stderr=subprocess.DEVNULL)
            known = lines_in(journal)
            moment = draw.uniform(0.0, undisturbed / options.kills if kill % 5 else undisturbed / 4)
            while kill % 5 and process.poll() is None and lines_in(journal) == known:
                time.sleep(0.01)
            try:
                process.wait(moment)
                hit = "nothing: it had finished"
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                hit = f"{max(lines_in(journal) - 1, 0)} of {options.clips} pieces were known"
            print(f"kill {kill + 1}: {hit}", flush=True)
        output_of([*command, str(output)])
        same = whole.read_bytes() == output.read_bytes()
        left = sorted(path.name for path in folder.iterdir() if path not in (manifest, whole, output))
        texts = sum(bool(json.loads(line)["pred_text"]) for line in output.read_text().splitlines())
        print(f"{lines_in(output)} lines, {texts} with words; the same as undisturbed: {same}; files left over: {left}")
        sys.exit(not same)


if __name__ == "__main__":
    main()
