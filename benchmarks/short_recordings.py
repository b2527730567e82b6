"""Errors of voice activity detection: short recordings taken for silence, and noise taken for speech.

    python -m benchmarks.short_recordings MANIFEST ...

Prints the number and the ids of utterances in which no speech is found; all utterances of the manifests must contain
speech. Then prints how much speech is found in a minute each of silence, noises of three colours, hum, tone and clicks.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from arkasr.data.audio import SAMPLE_RATE, decode_audio
from arkasr.data.degradation.effects import coloured_noise
from arkasr.data.manifests.manifest import Utterance, read_manifest
from arkasr.transcribe.speech import SampleRange, speech_probabilities, speech_ranges

MINUTE = 60 * SAMPLE_RATE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+", type=Path, help="of recordings that contain speech")
    total, silent = 0, list[Utterance]()
    for manifest in parser.parse_args().manifests:
        utterances = read_manifest(manifest)
        waveforms = (decode_audio(item.audio, item.begin_time, item.end_time) for item in utterances)
        missed = [item for item, waveform in zip(utterances, waveforms, strict=True) if not find_speech(waveform)]
        print(f"{manifest}: {len(missed)} of {len(utterances)} taken for silence", flush=True)
        total, silent = total + len(utterances), silent + missed
    print(f"total: {len(silent)} of {total}: {', '.join(item.id for item in silent) or 'none'}")
    for name, noise in noises():
        seconds = sum(part.samples for part in find_speech(noise)) / SAMPLE_RATE
        print(f"a minute of {name}: {seconds:.1f} s taken for speech")


def find_speech(waveform: np.ndarray) -> list[SampleRange]:
    probabilities = speech_probabilities(lambda begin, end: waveform[begin:end], len(waveform))
    return speech_ranges(probabilities, len(waveform))


def noises() -> Iterator[tuple[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    seconds = np.arange(MINUTE) / SAMPLE_RATE
    yield "silence", np.zeros(MINUTE, dtype=np.float32)
    for colour, slope in {"white": 0.0, "pink": 1.0, "brown": 2.0}.items():
        yield f"{colour} noise", 0.1 * coloured_noise(MINUTE, generator, slope)
    yield "hum", sum(0.1 / n * np.sin(2 * np.pi * 50 * n * seconds) for n in (1, 2, 3)).astype(np.float32)
    yield "a tone", (0.1 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    clicks = np.zeros(MINUTE, dtype=np.float32)
    clicks[generator.integers(0, MINUTE, 200)] = 0.8
    yield "clicks", clicks


if __name__ == "__main__":
    main()
