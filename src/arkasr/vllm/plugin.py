"""Makes Ark-ASR known to vLLM, which calls `register` in every process of its own that it starts.

The entry point stands in pyproject.toml (group `vllm.general_plugins`). Knows nothing of the model; vLLM imports that
when a checkpoint names it.
"""

import arkasr.model  # noqa: F401  (registers configuration, tokenizer and processor with the Auto classes)
from arkasr.model.layout import PUBLISHED_ARCHITECTURE
from arkasr.vllm.engine_process import follow_trainer

MODEL = "arkasr.vllm.model:VllmArkAsr"
ARCHITECTURES = ("ArkAsrForConditionalGeneration", PUBLISHED_ARCHITECTURE)


def register() -> None:
    """Tell vLLM which class reads checkpoints of either layout, and an engine's process whose it is."""
    from vllm import ModelRegistry

    for architecture in ARCHITECTURES:
        ModelRegistry.register_model(architecture, MODEL)
    follow_trainer()
