"""From what settings say of an engine to the engine itself."""

from collections.abc import Iterator
from contextlib import contextmanager

from arkasr.recognizers.engine import Engine
from arkasr.recognizers.recognizer import Recognizer
from arkasr.train.settings import EngineSettings
from arkasr.vllm.engine import VllmEngine


def engine_for(
    recognizer: Recognizer,
    settings: EngineSettings,
    max_new_tokens: int,
    *,
    dtype: str = "float32",
) -> Engine | None:
    """What writes in a recogniser's place; None where it writes itself.

    Args:
        recognizer: whose weights the engine has.
        settings: which engine, and how.
        max_new_tokens: the highest cap that will be asked for.
        dtype: what the engine computes in if the settings do not say.

    Raises:
        InputError: the engine is not installed or cannot start.
    """
    if settings.engine == "own":
        return None
    return VllmEngine(
        recognizer,
        max_new_tokens=max_new_tokens,
        dtype=settings.dtype or dtype,
        cache_gib=settings.cache_gib,
    )


@contextmanager
def engine_while_needed(
    recognizer: Recognizer, settings: EngineSettings, max_new_tokens: int
) -> Iterator[Engine | None]:
    """As `engine_for`, closed behind the block."""
    engine = engine_for(recognizer, settings, max_new_tokens)
    try:
        yield engine
    finally:
        if engine is not None:
            engine.close()
