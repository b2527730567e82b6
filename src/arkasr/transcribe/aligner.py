"""Word times from an aligner: Qwen3's forced aligner, a class of Transformers, or a Whisper model.

In: the audio of a segment and its text. Out: begin and end of each word.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForTokenClassification, AutoProcessor
from transformers.models.qwen3_asr.processing_qwen3_asr import FORCED_ALIGNER_LANGUAGES

from arkasr.data.audio import SAMPLE_RATE
from arkasr.errors import InputError, first_line_of
from arkasr.model.frames import clip_of
from arkasr.recognizers.load import load_complete
from arkasr.transcribe.transcript import Segment, Word
from arkasr.transcribe.whisper_aligner import WhisperAligner

REMEDY = "give a Qwen3 forced aligner or a Whisper model"


def open_aligner(name: str | Path, *, device: str, dtype: Any) -> "Aligner | WhisperAligner":
    """The aligner of a model.

    Args:
        name: folder or hub name of a Qwen3 forced aligner or a Whisper model.
        device: of the model.
        dtype: of the weights.

    Raises:
        InputError: the model cannot be loaded, or is neither of them.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"aligner {name}: {first_line_of(error)}; {REMEDY}") from error
    kind = WhisperAligner if config.model_type == "whisper" else Aligner
    return kind(name, device=device, dtype=dtype)


class Aligner:
    """Aligns the words of a text with its audio.

    Args:
        name: folder or hub name of a Qwen3 forced aligner.
        device: of the model.
        dtype: of the weights.

    Raises:
        InputError: the model cannot be loaded, or is no forced aligner.
    """

    def __init__(self, name: str | Path, *, device: str, dtype: Any) -> None:
        try:
            self.processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
            model = load_complete(AutoModelForTokenClassification, name, dtype=dtype, trust_remote_code=False)
        except InputError as error:
            raise InputError(f"aligner: {error}; {REMEDY}") from error
        except (OSError, ValueError) as error:
            raise InputError(f"aligner {name}: {first_line_of(error)}; {REMEDY}") from error
        if not hasattr(self.processor, "prepare_forced_aligner_inputs"):
            raise InputError(f"aligner {name}: is not a Qwen3 forced aligner; {REMEDY}")
        self.model = model.to(device).eval()

    @torch.no_grad()
    def align(self, segment: Segment, waveform: np.ndarray, language: str | None) -> Segment:
        """The segment with word times; unchanged if the aligner does not support the language or finds no words.

        Args:
            segment: a segment of the recording.
            waveform: float32 `[samples]`, 16 kHz mono, the audio of the segment.
            language: by name; None = words are separated by spaces, and each Chinese character is a word.
        """
        if not segment.text or (language is not None and language not in FORCED_ALIGNER_LANGUAGES):
            return segment
        inputs, words = self.processor.prepare_forced_aligner_inputs(
            audio=clip_of(waveform), transcript=segment.text, language=language
        )
        if not words[0]:
            return segment
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        found = self.processor.decode_forced_alignment(
            self.model(**inputs).logits,
            inputs["input_ids"],
            words,
            timestamp_token_id=self.model.config.timestamp_token_id,
        )[0]
        seconds = len(waveform) / SAMPLE_RATE
        timed = tuple(
            Word(
                word["text"],
                segment.begin + min(word["start_time"], seconds),
                segment.begin + min(word["end_time"], seconds),
            )
            for word in found
        )
        return replace(segment, words=timed)
