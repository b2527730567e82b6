"""Builds the engine that decodes instead of a recogniser."""

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
    """The engine that decodes with a recogniser's weights; None if the recogniser decodes itself.

    Args:
        recognizer: the engine uses its weights.
        settings: settings of the engine.
        max_new_tokens: the highest limit of any later request.
        dtype: the engine's compute dtype if the settings give none.

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
def open_engine(recognizer: Recognizer, settings: EngineSettings, max_new_tokens: int) -> Iterator[Engine | None]:
    """`engine_for` as a context manager that closes the engine."""
    engine = engine_for(recognizer, settings, max_new_tokens)
    try:
        yield engine
    finally:
        if engine is not None:
            engine.close()
