"""Data-efficient speech recognition by on-policy distillation."""

from arkasr.model import ArkAsrConfig, ArkAsrForConditionalGeneration, ArkAsrProcessor

__version__ = "0.1.0"
__all__ = ["ArkAsrConfig", "ArkAsrForConditionalGeneration", "ArkAsrProcessor"]
