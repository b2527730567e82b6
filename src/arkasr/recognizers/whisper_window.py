"""A Whisper model with a shorter window: it encodes less silence, but was trained on 30 s.

In: a Whisper model. Out: the same model, whose encoder and feature extractor have the shorter window. Its folder is a
plain Whisper folder. Transformers stores the window in whole seconds.
"""

from torch import nn

from arkasr.data.audio import SAMPLE_RATE
from arkasr.model.frames import ENCODER_FRAME_SAMPLES
from arkasr.recognizers.whisper import Whisper


def with_window(whisper: Whisper, seconds: int) -> Whisper:
    """The model with another window. Only the number of encoder positions changes, not a weight that remains.

    Args:
        whisper: changed in place; the result replaces it.
        seconds: of the window, at most those of `whisper`.
    """
    assert 1 <= seconds <= whisper.window_seconds
    encoder, processor = whisper.model.model.encoder, whisper.processor
    positions = seconds * SAMPLE_RATE // ENCODER_FRAME_SAMPLES
    first = encoder.embed_positions.weight.detach()[:positions].clone()
    encoder.embed_positions = nn.Embedding.from_pretrained(first)
    encoder.max_source_positions = whisper.model.config.max_source_positions = positions
    extractor = processor.feature_extractor
    # `from_dict` computes the samples and the frames of the window from `chunk_length`.
    processor.feature_extractor = type(extractor).from_dict(extractor.to_dict() | {"chunk_length": seconds})
    return Whisper(whisper.model, processor)
