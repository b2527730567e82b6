"""Cutting of a recording into pieces that a model can decode. In: a recording. Out: sample ranges."""

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from arkasr.data.audio import SAMPLE_RATE
from arkasr.errors import InputError
from arkasr.transcribe.pieces import pieces_of
from arkasr.transcribe.recording import Recording
from arkasr.transcribe.speech import FRAME_SAMPLES, SampleRange, speech_probabilities_of_blocks, speech_ranges


@dataclass(frozen=True)
class CutRecording:
    """A recording's pieces.

    Attributes:
        seconds: length of the recording.
        pieces: in order, in samples from the start of the recording.
        speech_shares: of each piece, the mean probability of speech; empty if speech was not looked for.
        identity: `Recording.identity`.
        error: why the recording cannot be read; None if it can.
    """

    seconds: float
    pieces: tuple[SampleRange, ...] = ()
    speech_shares: tuple[float, ...] = ()
    identity: str = ""
    error: str | None = None


def cut_recording(recording: Recording, piece_seconds: float, longest_clip_seconds: float) -> CutRecording:
    """Cut a recording at its pauses and drop the parts without speech.

    A recording of up to `longest_clip_seconds` with `find_speech=False` is one piece.

    Args:
        recording: any length.
        piece_seconds: longest piece of a recording that is cut.
        longest_clip_seconds: longest clip that the model takes.
    """
    steps = cut_in_steps(recording, piece_seconds, longest_clip_seconds)
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            cut: CutRecording = finished.value
            return cut


def cut_in_steps(
    recording: Recording, piece_seconds: float, longest_clip_seconds: float, longest_seconds: float = math.inf
) -> Generator[None, None, CutRecording]:
    """As `cut_recording`, with a pause after each step, so that long recordings do not hold up short ones.

    The arguments are those of `cut_recording`, and `longest_seconds`: a longer recording is an error. It is counted no
    further than that, and its speech is not looked for.
    """
    try:
        seconds = 0.0
        for seconds in recording.seconds_in_steps():
            if seconds > longest_seconds:
                hours = longest_seconds / 3600
                raise InputError(f"{recording.name}: is longer than {hours:g} h, the limit; send parts")
            yield
        identity = recording.identity()
        samples = round(seconds * SAMPLE_RATE)
        if not recording.find_speech and samples <= longest_clip_seconds * SAMPLE_RATE:
            return CutRecording(seconds, (SampleRange(0, samples),), identity=identity)
        blocks = []
        for block in speech_probabilities_of_blocks(recording.read, samples):
            blocks.append(block)
            yield
    except InputError as error:
        return CutRecording(0.0, error=str(error))
    probabilities = np.concatenate([np.zeros(0, dtype=np.float32), *blocks])
    speech = speech_ranges(probabilities, samples)
    pieces = pieces_of(speech, probabilities, round(piece_seconds * SAMPLE_RATE))
    shares = (
        float(probabilities[piece.begin // FRAME_SAMPLES : -(-piece.end // FRAME_SAMPLES)].mean()) for piece in pieces
    )
    return CutRecording(seconds, tuple(pieces), tuple(shares), identity)
