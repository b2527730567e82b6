"""Layout of each known corpus as it is distributed: audio, transcripts, speakers and split."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from arkasr.data.audio import SAMPLE_RATE
from arkasr.errors import InputError


@dataclass(frozen=True)
class CorpusRecording:
    """One recording of a corpus, with its text before normalisation."""

    audio: Path
    text: str
    speaker: str


@dataclass(frozen=True)
class Corpus:
    """How to read a corpus.

    Attributes:
        language: of every recording.
        licence: short name and owner.
        read: takes the source and output folders, returns recordings by split; may write converted audio to the output.
    """

    language: str
    licence: str
    read: Callable[[Path, Path], dict[str, list[CorpusRecording]]]


# AN4 has no development set; these training speakers are held out as one.
AN4_DEV_SPEAKERS = frozenset({"ftmj", "fwxs", "mtxj", "mtos", "mtcv", "mtje", "mwhw"})
AN4_LINE = re.compile(r"^(?:<s>)?\s*(?P<text>.*?)\s*(?:</s>)?\s*\((?P<name>[^()]+)\)\s*$")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_FILE = re.compile(r"^(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<take>\d+)$")
DIGIT_TEST_TAKES = 5  # the authors test on the first five takes of each digit and speaker


def read_an4(source: Path, output: Path) -> dict[str, list[CorpusRecording]]:
    """AN4 as CMU distributes it: `etc/an4_{train,test}.transcription` and `wav/**/NAME.{raw,sph,wav}`.

    Raises:
        InputError: transcripts or recordings are missing.
    """
    rows: dict[str, list[CorpusRecording]] = {"train": [], "dev": [], "test": []}
    for part in ("train", "test"):
        transcription = source / "etc" / f"an4_{part}.transcription"
        if not transcription.is_file():
            raise InputError(f"{source}: expected AN4 with etc/an4_{part}.transcription, or a folder with train.jsonl")
        recordings = {path.stem: path for path in sorted((source / "wav").rglob("*")) if path.is_file()}
        for number, line in enumerate(transcription.read_text().splitlines(), start=1):
            match = AN4_LINE.match(line)
            if match is None or match["name"] not in recordings:
                raise InputError(f"{transcription}:{number}: no recording under wav/ for this line; unpack all of AN4")
            name = match["name"]
            speaker = name.split("-")[1]
            split = "dev" if part == "train" and speaker in AN4_DEV_SPEAKERS else part
            rows[split].append(CorpusRecording(_readable(recordings[name], output), match["text"], speaker))
    return rows


def read_librispeech(source: Path, output: Path) -> dict[str, list[CorpusRecording]]:
    """LibriSpeech, or some of its parts: `PART/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt` and FLAC files beside it.

    The parts `train-*`, `dev-*` and `test-*` become the splits.

    Raises:
        InputError: the folder has no part, or a recording of a transcript is missing.
    """
    rows: dict[str, list[CorpusRecording]] = {}
    for transcription in sorted(source.glob("*-*/*/*/*.trans.txt")):
        split = transcription.relative_to(source).parts[0].split("-")[0]
        if split not in ("train", "dev", "test"):
            continue
        for number, line in enumerate(transcription.read_text().splitlines(), start=1):
            name, _, text = line.partition(" ")
            recording = transcription.with_name(f"{name}.flac")
            if not recording.is_file():
                raise InputError(f"{transcription}:{number}: there is no {recording.name} beside it; unpack all of it")
            rows.setdefault(split, []).append(CorpusRecording(recording, text, name.split("-")[0]))
    if not rows:
        raise InputError(
            f"{source}: expected librispeech with a folder such as train-clean-5, or a folder with train.jsonl"
        )
    return rows


def read_spoken_digits(source: Path, output: Path) -> dict[str, list[CorpusRecording]]:
    """The Free Spoken Digit Dataset: `recordings/DIGIT_SPEAKER_TAKE.wav`, split by take as its authors do.

    Raises:
        InputError: the folder has no such recordings.
    """
    rows: dict[str, list[CorpusRecording]] = {"train": [], "test": []}
    for path in sorted((source / "recordings").glob("*.wav")):
        if match := DIGIT_FILE.match(path.stem):
            split = "test" if int(match["take"]) < DIGIT_TEST_TAKES else "train"
            rows[split].append(CorpusRecording(path, DIGITS[int(match["digit"])], match["speaker"]))
    if not rows["train"]:
        raise InputError(f"{source}: expected spoken-digits with recordings/0_NAME_0.wav, or a folder with train.jsonl")
    return rows


def read_dspspeech20(source: Path, output: Path) -> dict[str, list[CorpusRecording]]:
    """dspspeech20 can be prepared from manifests only: its distribution has no transcripts.

    Raises:
        InputError: always.
    """
    raise InputError(f"{source}: expected train.jsonl and dev.jsonl of dspspeech20; write manifests for it first")


def _readable(recording: Path, output: Path) -> Path:
    """The recording, or a FLAC copy if libsndfile cannot read it (headerless big-endian PCM)."""
    if recording.suffix != ".raw":
        return recording
    converted = output / "flac" / recording.parent.name / f"{recording.stem}.flac"
    if not converted.exists():
        converted.parent.mkdir(parents=True, exist_ok=True)
        writing = converted.with_name(f".{converted.name}")
        samples = np.fromfile(recording, dtype=">i2").astype(np.int16)
        soundfile.write(writing, samples, SAMPLE_RATE, format="FLAC")
        writing.replace(converted)
    return converted


CORPORA = {
    "an4": Corpus("English", "BSD-style, Carnegie Mellon University", read_an4),
    "dspspeech20": Corpus("Chinese", "MIT", read_dspspeech20),
    "librispeech": Corpus("English", "CC BY 4.0, LibriSpeech", read_librispeech),
    "spoken-digits": Corpus("English", "CC BY-SA 4.0", read_spoken_digits),
}
