"""Text to speech with espeak-ng, called through ctypes from the library in the wheel `espeakng-loader`.

The same text and voice always give the same samples: every call loads a fresh library. Corpora,
speakers and resampling are left to others.
"""

import _ctypes
import ctypes
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arkasr.errors import InputError

NOT_INSTALLED = "the built-in speech needs espeakng-loader; pip install 'arkasr[quickstart]'"
ESPEAK_SAMPLE_RATE = 22_050  # samples per second; espeak-ng has no other rate

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_POSITION_CHARACTER = 1
_CHARACTERS_UTF8 = 1
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4
_RANDOM_SEED = 1

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_c_library = ctypes.CDLL(None)
_library_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Voice:
    """Settings of espeak-ng for one utterance.

    Attributes:
        language: espeak-ng's language file, such as `gmw/en-US` or `sit/cmn`.
        variant: espeak-ng's voice variant, such as `m3` or `f2`: the vocal tract.
        rate: words per minute, 80 to 450.
        pitch: base pitch, 0 to 99; 50 is the variant's default.
        pitch_range: how far the pitch moves, 0 (monotone) to 99; 50 is the variant's default.
    """

    language: str
    variant: str
    rate: int = 175
    pitch: int = 50
    pitch_range: int = 50


def speak(text: str, voice: Voice) -> np.ndarray:
    """`text` spoken by `voice`.

    Returns:
        int16 `[samples]` at `ESPEAK_SAMPLE_RATE`, mono.

    Raises:
        InputError: espeakng-loader is not installed, or it has no such language or variant.
    """
    library_path, data_path = _installed()
    _require_file(data_path / "lang" / voice.language, "language")
    _require_file(data_path / "voices" / "!v" / voice.variant, "voice variant")
    with _library_lock:
        return _speak_with_fresh_library(text, voice, library_path, data_path)


def _installed() -> tuple[Path, Path]:
    """The library and its data folder."""
    try:
        import espeakng_loader
    except ImportError:
        raise InputError(NOT_INSTALLED) from None
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


def _require_file(file: Path, what: str) -> None:
    if not file.is_file():
        raise InputError(f"espeak-ng has no {what} {file.name!r}; choose a file in {file.parent}")


def _speak_with_fresh_library(text: str, voice: Voice, library_path: Path, data_path: Path) -> np.ndarray:
    # espeak-ng keeps the phases of its flutter, echo and wave in static variables. Neither a new voice nor
    # espeak_Terminate resets them, so an utterance would depend on earlier ones. Unloading the library resets them.
    # Breath noise comes from the C library's generator, which needs its own seed.
    _require_unloaded(library_path)
    library = ctypes.CDLL(str(library_path))
    chunks: list[bytes] = []

    def receive(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, count * np.dtype(np.int16).itemsize))
        return 0

    callback = _Callback(receive)
    try:
        _set_up(library, voice, data_path, callback)
        library.espeak_ng_SetRandSeed(ctypes.c_long(_RANDOM_SEED))
        _c_library.srand(_RANDOM_SEED)
        spoken = text.encode() + b"\0"
        size = ctypes.c_size_t(len(spoken))
        status = library.espeak_Synth(spoken, size, 0, _POSITION_CHARACTER, 0, _CHARACTERS_UTF8, None, None)
        _check(status, "espeak_Synth")
        _check(library.espeak_Synchronize(), "espeak_Synchronize")
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)
    return np.frombuffer(b"".join(chunks), dtype=np.int16)


def _set_up(library: ctypes.CDLL, voice: Voice, data_path: Path, callback: Any) -> None:
    rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(data_path), 0)
    if rate != ESPEAK_SAMPLE_RATE:
        raise RuntimeError(f"espeak_Initialize returned {rate} instead of {ESPEAK_SAMPLE_RATE} Hz")
    library.espeak_SetSynthCallback(callback)
    name = f"{voice.language}+{voice.variant}".encode()
    _check(library.espeak_SetVoiceByName(name), "espeak_SetVoiceByName")
    for parameter, value in (
        (_PARAMETER_RATE, voice.rate),
        (_PARAMETER_PITCH, voice.pitch),
        (_PARAMETER_RANGE, voice.pitch_range),
    ):
        _check(library.espeak_SetParameter(parameter, value, 0), "espeak_SetParameter")


def _require_unloaded(library_path: Path) -> None:
    try:
        loaded = ctypes.CDLL(str(library_path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return
    _ctypes.dlclose(loaded._handle)
    raise RuntimeError(f"{library_path} is in use elsewhere in this process; its speech would not be reproducible")


def _check(status: int, function: str) -> None:
    if status != 0:
        raise RuntimeError(f"{function} failed with status {status}")
