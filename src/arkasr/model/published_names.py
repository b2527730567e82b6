"""Aliases with the class names of the published checkpoints.

Their `processor_config.json` names a processor class. Without a class of that name, Transformers asks to run remote
code.
"""

from transformers import AutoProcessor

from arkasr.model.config import ArkAsrConfig
from arkasr.model.processor import ArkAsrProcessor


class ArkasrConfig(ArkAsrConfig):
    """`ArkAsrConfig` under its published name."""


class ArkasrProcessor(ArkAsrProcessor):
    """`ArkAsrProcessor` under its published name."""


AutoProcessor.register(ArkasrConfig, ArkasrProcessor)
