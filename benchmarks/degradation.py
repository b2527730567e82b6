"""What each effect of a stage's `degradation` costs, and the bit rates of its codecs.

    python -m benchmarks.degradation
    python -m benchmarks.degradation --audio speech.flac

Prints the processor time of degrading ten seconds of audio, and the size of what each codec writes. Without `--audio`,
the audio is noise with syllables; speech needs other bit rates.
"""

import argparse
import io
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from benchmarks.timing import median_and_range
from rich.console import Console
from rich.table import Table

from arkasr.data.audio import SAMPLE_RATE, decode_audio
from arkasr.data.degradation import effects
from arkasr.data.degradation.degradation import BABBLERS, CODECS, Degradation
from arkasr.data.degradation.settings import DegradationSettings
from arkasr.data.degradation.sounds import Sounds
from arkasr.data.manifests.manifest import Utterance

SECONDS = 10
COMPRESSIONS = (0.9, 0.98)
ALWAYS = {"probability": 1}
EFFECTS = {
    "speed": {"speed": ALWAYS},
    "reverberation": {"reverberation": ALWAYS},
    "noise: pink": {"noise": {**ALWAYS, "kinds": ["pink"]}},
    "noise: music": {"noise": {**ALWAYS, "kinds": ["music"]}},
    "noise: babble of FLAC files": {"noise": {**ALWAYS, "kinds": ["babble"]}},
    "level": {"level": ALWAYS},
    "telephone": {"telephone": ALWAYS},
} | {f"codec: {kind}": {"codec": {**ALWAYS, "kinds": [kind]}} for kind in CODECS}


def syllables() -> np.ndarray:
    noise = effects.coloured_noise(SECONDS * SAMPLE_RATE, np.random.default_rng(0), 1.0)
    return effects.normalise(noise * np.abs(np.sin(np.arange(len(noise)) / 1_300)).astype(np.float32), -6)


def voices(clip: np.ndarray, folder: Path) -> Sounds:
    """More voices than babble needs, all the same."""
    utterances = []
    for number in range(BABBLERS + 1):
        path = folder / f"{number}.flac"
        soundfile.write(path, clip, SAMPLE_RATE)
        utterances.append(Utterance(path, None, None, None, None, str(number), None, None, {}))
    return Sounds(utterances, [len(clip) / SAMPLE_RATE] * len(utterances), is_training_set=True)


def milliseconds(clip: np.ndarray, keys: dict, background: Sounds, repeats: int) -> list[float]:
    settings = DegradationSettings.model_validate(keys)
    degrade = Degradation(settings, 0, longest_seconds=30, voices=background)
    utterance = Utterance(Path("clip"), None, None, None, None, "clip", None, None, {})
    times = []
    for epoch in range(repeats):
        started = time.process_time()
        degrade(clip, utterance, epoch)
        times.append(time.process_time() - started)
    return [1_000 * taken * SECONDS * SAMPLE_RATE / len(clip) for taken in times]


def kilobits_per_second(clip: np.ndarray, kind: str, compression: float) -> float:
    file = io.BytesIO()
    container, codec = CODECS[kind]
    soundfile.write(file, clip, SAMPLE_RATE, format=container, subtype=codec, compression_level=compression)
    return 8 * len(file.getvalue()) / len(clip) * SAMPLE_RATE / 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, help="a recording of at least ten seconds")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    clip = syllables() if options.audio is None else decode_audio(options.audio)[: SECONDS * SAMPLE_RATE]
    times = Table("effect", "ms", title=f"processor time for {SECONDS} s of audio")
    with TemporaryDirectory() as folder:
        background = voices(clip, Path(folder))
        for name, keys in EFFECTS.items():
            times.add_row(name, median_and_range(milliseconds(clip, keys, background, options.repeats), 1))
    rates = Table("compression", *CODECS, title="kbit/s")
    for compression in COMPRESSIONS:
        rates.add_row(f"{compression:g}", *(f"{kilobits_per_second(clip, kind, compression):.0f}" for kind in CODECS))
    Console().print(times, rates)


if __name__ == "__main__":
    main()
