"""Recordings into the pieces that a model will hear. Reads audio, knows nothing of models."""

from dataclasses import dataclass

from arkasr.data.audio import LONGEST_CLIP_SECONDS, SAMPLE_RATE
from arkasr.errors import InputError
from arkasr.transcribe.pieces import pieces_of
from arkasr.transcribe.recording import Recording
from arkasr.transcribe.speech import Span, speech_probabilities, speech_spans


@dataclass(frozen=True)
class CutRecording:
    """What will be heard of a recording.

    Attributes:
        seconds: length of the recording.
        pieces: in order, in samples from the start of the recording.
        identity: names the recording as it is now; another one, or a changed file, has another identity.
        error: why nothing can be heard.
    """

    seconds: float
    pieces: tuple[Span, ...] = ()
    identity: str = ""
    error: str | None = None


def cut_recording(recording: Recording, piece_seconds: float) -> CutRecording:
    """Decide on the pieces of a recording: all of it where it is short, else what holds speech, cut at pauses.

    Args:
        recording: any length.
        piece_seconds: longest piece where a recording is cut. Recordings of up to 30 s in which no speech is looked for
            are never cut.
    """
    try:
        seconds, identity = recording.seconds(), recording.identity()
        samples = round(seconds * SAMPLE_RATE)
        if not recording.find_speech and samples <= LONGEST_CLIP_SECONDS * SAMPLE_RATE:
            return CutRecording(seconds, (Span(0, samples),), identity)
        probabilities = speech_probabilities(recording.read, samples)
    except InputError as error:
        return CutRecording(0.0, error=str(error))
    speech = speech_spans(probabilities, samples)
    pieces = pieces_of(speech, probabilities, round(piece_seconds * SAMPLE_RATE))
    return CutRecording(seconds, tuple(pieces), identity)
