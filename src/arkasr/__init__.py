"""Data-efficient speech recognition by on-policy distillation."""

from arkasr.model import ArkAsrConfig, ArkAsrForConditionalGeneration, ArkAsrProcessor
from arkasr.transcribe.transcriber import Transcriber, TranscriptionSettings

__version__ = "0.1.0"
__all__ = ["ArkAsrConfig", "ArkAsrForConditionalGeneration", "ArkAsrProcessor", "Transcriber", "TranscriptionSettings"]
