"""Normaliser profiles: functions that remove the differences between texts that must not count as errors.

A score means nothing without its profile, so a profile has a name and a version and is printed beside every score.
A profile never changes; a better one gets a new version.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from arkasr.data.languages import UNSPACED_LANGUAGES
from arkasr.errors import InputError, nearest_of
from arkasr.evaluate.chinese import as_read, verbalizer
from arkasr.evaluate.spelling import one_spelling, visible

Unit = Literal["word", "character"]
IDEOGRAPH = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
SPACE_BETWEEN_IDEOGRAPHS = re.compile(rf"(?<=[{IDEOGRAPH}]) +(?=[{IDEOGRAPH}])")
FULL_WIDTH_DIGITS = str.maketrans("０１２３４５６７８９", "0123456789")


@dataclass(frozen=True)
class Profile:
    """A named and versioned normaliser."""

    name: str
    version: int
    normalize: Callable[[str], str]

    @property
    def label(self) -> str:
        """Name and version, such as `basic@1`."""
        return f"{self.name}@{self.version}"

    def __call__(self, text: str) -> str:
        """The normalised text."""
        return self.normalize(text)


def unit_for(language: str | None) -> Unit:
    """The unit of a language's error rate: characters (CER) if it is written without spaces, else words (WER)."""
    return "character" if language in UNSPACED_LANGUAGES else "word"


def get_profile(name: str) -> Profile:
    """The profile called `name`, such as `basic` (its newest version) or `basic@1`.

    Raises:
        InputError: no such profile; the message suggests the nearest name.
    """
    profile = NEWEST.get(name) or PROFILES.get(name)
    if profile is None:
        raise InputError(f"normalizer {name!r} does not exist; {nearest_of(name, PROFILES if '@' in name else NEWEST)}")
    return profile


def _identity(text: str) -> str:
    return text


def _basic(text: str) -> str:
    return _words_of(unicodedata.normalize("NFKC", text).lower().replace("’", "'"))


def _words_of(text: str) -> str:
    return " ".join("".join(_letter_or_space(text, index) for index in range(len(text))).split())


def _letter_or_space(text: str, index: int) -> str:
    character = text[index]
    if unicodedata.category(character)[0] in "LNM":
        return character
    inside_word = 0 < index < len(text) - 1 and text[index - 1].isalpha() and text[index + 1].isalpha()
    return "'" if character == "'" and inside_word else " "


def _whisper_english(text: str) -> str:
    return str(_whisper_normalizer()(text))


@lru_cache(maxsize=1)
def _whisper_normalizer() -> Any:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    # The table of British spellings is part of the Whisper checkpoints. Without it, both spellings stay.
    return EnglishTextNormalizer({})


def _chinese(text: str) -> str:
    spoken = verbalizer().normalize(unicodedata.normalize("NFKC", text))
    return SPACE_BETWEEN_IDEOGRAPHS.sub("", _basic(spoken))


def _basic_2(text: str) -> str:
    return _words_of(one_spelling(text))


def _whisper_english_2(text: str) -> str:
    return _whisper_english(visible(text))


def _chinese_2(text: str) -> str:
    return SPACE_BETWEEN_IDEOGRAPHS.sub("", _basic_2(as_read(visible(text))))


def _upstream_ark(text: str) -> str:
    text = text.translate(FULL_WIDTH_DIGITS).lower()
    kept = (character for character in text if not unicodedata.category(character).startswith("P"))
    return " ".join("".join(kept).split())


PROFILES = {
    profile.label: profile
    for profile in (
        Profile("identity", 1, _identity),
        Profile("basic", 1, _basic),
        Profile("basic", 2, _basic_2),
        Profile("whisper-en", 1, _whisper_english),
        Profile("whisper-en", 2, _whisper_english_2),
        Profile("zh", 1, _chinese),
        Profile("zh", 2, _chinese_2),
        Profile("upstream-ark", 1, _upstream_ark),
    )
}
NEWEST = {profile.name: profile for profile in PROFILES.values()}
