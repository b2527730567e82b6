"""Cosine between the states of an Ark-ASR encoder and those of the Whisper encoder that it starts from.

    python -m benchmarks.whisper_states --whisper FOLDER --manifest FILE

Whisper's encoder reads the silence that fills a clip up to 30 s. Ark-ASR's reads the clip alone. Prints the mean cosine
over the frames of the clips, before the adapter: for the clip alone, and with seconds of silence after it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from arkasr.data.audio import decode_audio
from arkasr.data.manifests.manifest import read_manifest
from arkasr.model.frames import MAX_SAMPLES
from arkasr.recipe.settings import ModelSettings
from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.trained_vocabulary import load_vocabulary, prune
from arkasr.run.starting_points import new_model

SAMPLES_PER_STATE = 320


def whisper_states(whisper: Recognizer, clip: np.ndarray) -> Tensor:
    """Whisper's states `[1500, d]`."""
    features = whisper.pad_features([whisper.features(clip)])["input_features"]
    return whisper.model.model.encoder(features).last_hidden_state[0]


def student_states(student: Recognizer, clip: np.ndarray) -> Tensor:
    """The student's states before the adapter, `[T, d]`."""
    encoder = student.model.audio_encoder
    audio = student.pad_features([student.features(clip)])
    states, _ = encoder.whisper(audio["audios"], audio["audios_mask"].bool())
    return encoder.layer_norm(states)[0]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--whisper", required=True, help="folder or hub name of a Whisper model")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=40, help="number of clips, from the start of the manifest")
    parser.add_argument("--silence", type=float, nargs="*", default=[1.0, 4.0], help="seconds after the clip")
    arguments = parser.parse_args()
    whisper = load_recognizer(arguments.whisper)
    settings = ModelSettings(preset="ark-asr-tiny", encoder=arguments.whisper)
    vocabulary = prune(load_vocabulary(arguments.whisper), [])
    student = new_model("student", settings, vocabulary, 0, torch.device("cpu"))
    assert isinstance(student, ArkAsr)
    cosines: dict[float, list[float]] = {seconds: [] for seconds in (0.0, *arguments.silence)}
    utterances = read_manifest(arguments.manifest)[: arguments.clips]
    clips = [decode_audio(item.audio, item.begin_time, item.end_time) for item in utterances]
    for clip in clips:
        expected, count = whisper_states(whisper, clip), len(clip) // SAMPLES_PER_STATE
        for seconds, found in cosines.items():
            longer = np.pad(clip, (0, int(seconds * 16_000)))[:MAX_SAMPLES]
            states = student_states(student, longer)[:count]
            found.append(F.cosine_similarity(states, expected[:count], dim=-1).mean().item())
    print(f"{len(clips)} clips of {np.mean([len(clip) / 16_000 for clip in clips]):.1f} s on average")
    for seconds, found in cosines.items():
        print(f"{seconds:>4g} s of silence: mean cosine {np.mean(found):.3f}, lowest of a clip {min(found):.3f}")


if __name__ == "__main__":
    main()
