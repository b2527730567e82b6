"""Many clients at once, a fifth of them bad: is every answer right, and how much slower is it than one batch job?

    python -m benchmarks.serve_load --model FOLDER --recordings FOLDER [--requests 1000] [--clients 64]

Transcribes the recordings with `Transcriber`, in one batch job. Then starts `arkasr serve` and sends every request with
one of them, or with something that cannot be answered: a cut file, text, no bytes, a wrong model, a wrong field, a
wrong key, or a client that leaves. Prints the statuses, the wrong answers, the memory of the server before and after,
and seconds of audio per second of both as a ratio. Ends with 1 if an answer was wrong or a status was 5xx.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from arkasr.data.audio import AUDIO_SUFFIXES, duration_of
from arkasr.transcribe.transcriber import Transcriber

KEY = "benchmark"
BAD_SHARE = 0.2
BAD = ("cut", "text", "empty", "model", "field", "key", "leaves")
LEFT = "left"


@dataclass(frozen=True)
class Request:
    """A request, and what must come back: a transcript, or an error with a status in the 400s."""

    path: Path
    kind: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=64)
    options = parser.parse_args()
    paths = sorted(path for path in options.recordings.rglob("*") if path.suffix in AUDIO_SUFFIXES)
    chance = random.Random(0)
    requests = [
        Request(chance.choice(paths), chance.choice(BAD) if chance.random() < BAD_SHARE else "good")
        for _ in range(options.requests)
    ]
    used = sorted({request.path for request in requests})
    expected, job_speed = batch_job(options.model, used)
    with server(options.model) as (url, process_id):
        for request in requests[: options.clients]:  # until all threads and buffers exist
            send(url, Request(request.path, "good"))
        before = resident_megabytes(process_id)
        began = time.monotonic()
        with ThreadPoolExecutor(options.clients) as pool:
            answers = list(pool.map(lambda request: send(url, request), requests))
        elapsed = time.monotonic() - began
        after = resident_megabytes(process_id)
    statuses = Counter(f"{request.kind} {status}" for request, (status, _) in zip(requests, answers, strict=True))
    wrong = [
        request.path
        for request, (status, text) in zip(requests, answers, strict=True)
        if (request.kind == "good" and (status, text) != (200, expected[request.path]))
        or (request.kind != "good" and status != LEFT and not 400 <= int(status) < 500)
    ]
    good_seconds = sum(duration_of(request.path) for request in requests if request.kind == "good")
    for name, count in sorted(statuses.items()):
        print(f"{name}: {count}")
    print(f"wrong: {len(wrong)} {wrong[:3]}")
    print(f"memory of the server: {before} MB before, {after} MB after")
    print(f"audio per second against one batch job: {good_seconds / elapsed / job_speed:.2f}")
    sys.exit(1 if wrong else 0)


def batch_job(model: str, paths: list[Path]) -> tuple[dict[Path, str], float]:
    """Transcripts, and seconds of audio per second."""
    transcriber = Transcriber(model)
    transcriber(paths[0])  # loads the detector of speech
    began = time.monotonic()
    texts = {path: found.text for path, found in zip(paths, transcriber.transcribe(paths), strict=True)}
    return texts, sum(map(duration_of, paths)) / (time.monotonic() - began)


@contextmanager
def server(model: str) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "arkasr", "serve", f"model={model}", "--port", "0", "--api-key", KEY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"at (http://\S+)$", process.stdout.readline())
        assert found, "the server did not start"
        yield found[1], process.pid
    finally:
        process.terminate()
        process.wait()


def send(url: str, request: Request) -> tuple[int | str, str]:
    """Status and text of the answer."""
    content = request.path.read_bytes()
    change: dict[str, Callable[[bytes], bytes]] = {
        "cut": lambda whole: whole[: len(whole) // 2],
        "text": lambda whole: b"This is no recording. " * 500,
        "empty": lambda whole: b"",
    }
    data = {"model": "other" if request.kind == "model" else "model"}
    if request.kind == "field":
        data["respons_format"] = "json"
    key = "wrong" if request.kind == "key" else KEY
    timeout = httpx2.Timeout(3600, read=0.05 if request.kind == "leaves" else 3600)
    try:
        answer = httpx2.post(
            f"{url}/v1/audio/transcriptions",
            files={"file": (request.path.name, change.get(request.kind, lambda whole: whole)(content))},
            data=data,
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout,
        )
    except httpx2.TransportError:
        return LEFT, ""
    return answer.status_code, answer.json().get("text", "")


def resident_megabytes(process_id: int) -> int:
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


if __name__ == "__main__":
    main()
