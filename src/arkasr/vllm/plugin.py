"""Registers Ark-ASR with vLLM, which calls `register` in each of its processes.

The entry point is in pyproject.toml (group `vllm.general_plugins`). vLLM imports the model class only when a checkpoint
names it.
"""

import arkasr.model  # noqa: F401  (registers configuration, tokenizer and processor with the Auto classes)
from arkasr.model.layout import PUBLISHED_ARCHITECTURE
from arkasr.vllm.engine_process import follow_trainer

MODEL = "arkasr.vllm.model:VllmArkAsr"
ARCHITECTURES = ("ArkAsrForConditionalGeneration", PUBLISHED_ARCHITECTURE)


def register() -> None:
    """Register the model class for both checkpoint layouts, and tie an engine's process to its trainer."""
    from vllm import ModelRegistry

    for architecture in ARCHITECTURES:
        ModelRegistry.register_model(architecture, MODEL)
    follow_trainer()
