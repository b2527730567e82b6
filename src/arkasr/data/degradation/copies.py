"""Degraded copies of a manifest's recordings, for test sets.

In: a manifest and a degradation. Out: FLAC files, 16 kHz, 24 bits, and a manifest of them.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from arkasr.data.audio import LONGEST_CLIP_SECONDS, SAMPLE_RATE
from arkasr.data.degradation.degradation import BABBLERS, Degradation
from arkasr.data.degradation.settings import DegradationSettings
from arkasr.data.degradation.sounds import Sounds
from arkasr.data.manifests.durations import decode_utterance, seconds_of
from arkasr.data.manifests.manifest import Utterance, read_manifest, write_manifest
from arkasr.data.replacing import refuse_to_replace
from arkasr.errors import InputError
from arkasr.files import atomic_path

TIMES = ("begin_time", "end_time")
# File systems allow names of 255 bytes.
LONGEST_STEM = 200


def write_degraded_copies(
    manifest: Path,
    output: Path,
    settings: DegradationSettings,
    *,
    seed: int = 0,
    on_utterance: Callable[[int], None] = lambda count: None,
) -> Path:
    """Write a degraded copy of every utterance, and the manifest `NAME.jsonl` of them into `output`.

    A copy depends only on the settings, the seed and the utterance's id. A copy that would clip is scaled down to full
    scale.

    Args:
        manifest: of the recordings; other fields are copied.
        output: folder of the copies; another seed or other settings need another folder.
        settings: of the degradation. `noise.voices` and `noise.recordings` are manifests. The voices in `babble` come
            from `manifest` if none are named.
        seed: of the random choices.
        on_utterance: called with the number of utterances done since the last call.

    Returns:
        The new manifest.

    Raises:
        InputError: a recording cannot be read, two ids would share a file, a set of background recordings is too small,
            or an output would replace an input.
    """
    utterances = read_manifest(manifest)
    folder, copy = output / "flac", output / manifest.name
    paths = {utterance.id: folder / f"{_file_stem(utterance.id)}.flac" for utterance in utterances}
    if len(set(paths.values())) < len(utterances):
        raise InputError(f"{manifest}: two ids differ only by `/` and `_`, or are equal; give every utterance its own")
    refuse_to_replace([manifest, *(utterance.audio for utterance in utterances)], [copy, *paths.values()])
    voices, recordings = _background(manifest, utterances, settings)
    degradation = Degradation(
        settings, seed, longest_seconds=LONGEST_CLIP_SECONDS, voices=voices, recordings=recordings
    )
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for utterance in utterances:
        samples = _write_copy(utterance, degradation, paths[utterance.id])
        rows.append(_row(utterance, paths[utterance.id], output, samples))
        on_utterance(1)
    write_manifest(copy, rows)
    return copy


def _file_stem(utterance_id: str) -> str:
    """The id without slashes. Of a long one, such as the path of a recording, a digest and the end."""
    stem = utterance_id.replace("/", "_")
    encoded = stem.encode()
    if len(encoded) <= LONGEST_STEM:
        return stem
    end = encoded[-LONGEST_STEM // 2 :].decode(errors="ignore")
    return f"{hashlib.sha256(encoded).hexdigest()[:16]}{end}"


def _write_copy(utterance: Utterance, degradation: Degradation, path: Path) -> int:
    """Write one copy and return its number of samples."""
    speech = decode_utterance(utterance)
    degraded = degradation(speech, utterance, 0)
    degraded = degraded / max(1.0, float(np.abs(degraded).max()))
    with atomic_path(path) as writing:
        soundfile.write(writing, degraded, SAMPLE_RATE, format="FLAC", subtype="PCM_24")
    return len(degraded)


def _row(utterance: Utterance, path: Path, output: Path, samples: int) -> dict[str, Any]:
    fields = {name: value for name, value in utterance.fields.items() if name not in TIMES}
    audio = str(path.relative_to(output))
    return fields | {"audio": audio, "id": utterance.id, "duration": round(samples / SAMPLE_RATE, 3)}


def _background(
    manifest: Path, utterances: Sequence[Utterance], settings: DegradationSettings
) -> tuple[Sounds | None, Sounds | None]:
    """The voices and the noise recordings that the settings need."""
    noise = settings.noise
    if noise is None:
        return None, None
    recordings = _sounds(read_manifest(Path(noise.recordings))) if noise.recordings else None
    if "babble" not in noise.kinds:
        return None, recordings
    voices = read_manifest(Path(noise.voices)) if noise.voices else utterances
    if len(voices) <= BABBLERS:
        source = noise.voices or manifest
        raise InputError(f"{source}: has {len(voices)} utterances, and `babble` needs at least {BABBLERS + 1}")
    return _sounds(voices), recordings


def _sounds(utterances: Sequence[Utterance]) -> Sounds:
    return Sounds(utterances, [seconds_of(utterance) for utterance in utterances], is_training_set=False)
