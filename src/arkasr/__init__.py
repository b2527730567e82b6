"""Data-efficient speech recognition by on-policy distillation.

Importing the package registers Ark-ASR with the Auto classes of Transformers. The `arkasr` command imports it without
PyTorch and Transformers, which take seconds, until a command needs them.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arkasr.model import ArkAsrConfig, ArkAsrForConditionalGeneration, ArkAsrProcessor
    from arkasr.transcribe.transcriber import Transcriber, TranscriptionSettings

__version__ = "0.1.0"
__all__ = ["ArkAsrConfig", "ArkAsrForConditionalGeneration", "ArkAsrProcessor", "Transcriber", "TranscriptionSettings"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("arkasr.model" if name.startswith("Ark") else "arkasr.transcribe.transcriber"), name)


# "-m": Python has not replaced it yet by the path of the module that it runs.
_is_command = "arkasr_command" in sys.modules or sys.argv[:1] == ["-m"]
if not _is_command:
    import_module("arkasr.model")
