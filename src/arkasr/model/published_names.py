"""The names that the published checkpoints give to their own classes, so that their files find ours.

`processor_config.json` names its class; without one of that name Transformers would ask to run remote code.
"""

from transformers import AutoProcessor

from arkasr.model.config import ArkAsrConfig
from arkasr.model.processor import ArkAsrProcessor


class ArkasrConfig(ArkAsrConfig):
    """`ArkAsrConfig` under its published name."""


class ArkasrProcessor(ArkAsrProcessor):
    """`ArkAsrProcessor` under its published name."""


AutoProcessor.register(ArkasrConfig, ArkasrProcessor)
