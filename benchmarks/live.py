"""Live recognition: how soon words come, how many change, and how the text differs from that of a file.

    arkasr serve MODEL
    python -m benchmarks.live --recordings FOLDER [--seconds 120] [--pace 1] [--sessions 1]

Joins recordings, with pauses, and sends them to /v1/realtime at `--pace` times real time (0 = as fast as it is taken).
Prints, over all sessions: seconds from the beginning of speech to its first word and from its end to its whole text,
the share of shown words that the whole text contradicts, and the word error rate against the server's transcript of
the same audio as a file.
"""

import argparse
import asyncio
import base64
import statistics
import time
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import soxr
from openai import AsyncOpenAI

from arkasr.data.audio import AUDIO_SUFFIXES, SAMPLE_RATE, decode_audio
from arkasr.evaluate.normalize import get_profile

RATE = 24_000
MESSAGE_SECONDS = 0.1
PREFIX = "conversation.item.input_audio_transcription."


@dataclass
class Utterance:
    """Times since the first message, in seconds, and texts."""

    begin: float
    shown: str = ""
    first_word: float | None = None
    end: float | None = None
    text: str | None = None
    finished: float | None = None


@dataclass
class Heard:
    """What one session heard."""

    utterances: dict[str, Utterance] = field(default_factory=dict)
    seconds: float = 0.0


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--pace", type=float, default=1.0)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between recordings")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    options = parser.parse_args()
    client = AsyncOpenAI(base_url=options.url, api_key="none", timeout=36_000)
    waveform = joined(options.recordings, options.seconds, options.pause)
    seconds = len(waveform) / SAMPLE_RATE
    heard = await asyncio.gather(*(session(client, waveform, options.pace) for _ in range(options.sessions)))
    for number, one in enumerate(heard):
        done = [utterance for utterance in one.utterances.values() if utterance.text is not None]
        first = [u.first_word - u.begin for u in done if u.first_word is not None]
        last = [u.finished - u.end for u in done if u.finished is not None and u.end is not None]
        words = sum(len(u.shown.split()) for u in done)
        changed = sum(contradicted(u) for u in done)
        print(f"session {number}: {seconds:.0f} s of audio in {one.seconds:.0f} s, {len(done)} utterances")
        if options.pace:
            print(f"  first word after {in_words(first)}, whole text after {in_words(last)}")
        print(f"  {changed} of {words} shown words changed")
        text = " ".join(u.text or "" for u in done)
        print(f"  WER against the file: {100 * await against_file(client, waveform, text):.2f}%")


def joined(folder: Path, seconds: float, pause: float) -> np.ndarray:
    """Recordings in a row, float32 `[samples]`, 16 kHz."""
    silence = np.zeros(round(pause * SAMPLE_RATE), dtype=np.float32)
    parts, length = [silence], 0.0
    paths = sorted(path for path in folder.rglob("*") if path.suffix in AUDIO_SUFFIXES)
    while length < seconds:
        for path in paths:
            parts += [decode_audio(path), silence]
            length = sum(map(len, parts)) / SAMPLE_RATE
            if length >= seconds:
                break
    return np.concatenate(parts)


async def session(client: AsyncOpenAI, waveform: np.ndarray, pace: float) -> Heard:
    """Send a recording, and collect what comes back until every utterance is complete."""
    heard, began = Heard(), time.monotonic()
    resampled = soxr.resample(waveform, SAMPLE_RATE, RATE)
    size = round(MESSAGE_SECONDS * RATE)
    async with client.realtime.connect(model="whisper-1") as connection:

        async def send() -> None:
            for number, first in enumerate(range(0, len(resampled), size)):
                content = (resampled[first : first + size] * 32_767).astype("<i2").tobytes()
                if pace:
                    await asyncio.sleep(max(began + number * MESSAGE_SECONDS / pace - time.monotonic(), 0))
                await connection.input_audio_buffer.append(audio=base64.b64encode(content).decode())
            await connection.input_audio_buffer.commit()
            await connection.session.update(session={"type": "transcription"})

        sending = asyncio.create_task(send())
        all_sent = False
        while not all_sent or any(utterance.text is None for utterance in heard.utterances.values()):
            event = await connection.recv()
            now = time.monotonic() - began
            if event.type == "session.updated":
                all_sent = True
            elif event.type == "input_audio_buffer.speech_started":
                heard.utterances[event.item_id] = Utterance(event.audio_start_ms / 1000 / (pace or 1))
            elif event.type == "input_audio_buffer.speech_stopped":
                heard.utterances[event.item_id].end = event.audio_end_ms / 1000 / (pace or 1)
            elif event.type == f"{PREFIX}delta":
                utterance = heard.utterances[event.item_id]
                utterance.first_word = utterance.first_word or now
                utterance.shown += event.delta or ""
            elif event.type == f"{PREFIX}completed":
                utterance = heard.utterances[event.item_id]
                utterance.text, utterance.finished = event.transcript, now
            elif event.type in ("error", f"{PREFIX}failed"):
                raise RuntimeError(event)
        await sending
    heard.seconds = time.monotonic() - began
    return heard


def contradicted(utterance: Utterance) -> int:
    """Shown words that the whole text does not have in this place."""
    shown, text = utterance.shown.split(), (utterance.text or "").split()
    if not shown:
        return 0
    edits = jiwer.process_words(" ".join(shown), " ".join(text) or "-")
    return edits.substitutions + edits.deletions


async def against_file(client: AsyncOpenAI, waveform: np.ndarray, text: str) -> float:
    """Word error rate of a text against the transcript of the waveform as a file."""
    file = BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format="FLAC")
    written = await client.audio.transcriptions.create(file=("a.flac", file.getvalue()), model="whisper-1")
    normalize = get_profile("whisper-en").normalize
    return float(jiwer.wer(normalize(written.text), normalize(text)))


def in_words(seconds: list[float]) -> str:
    if not seconds:
        return "–"
    return f"{statistics.median(seconds):.2f} s (median; at most {max(seconds):.2f} s)"


if __name__ == "__main__":
    asyncio.run(main())
