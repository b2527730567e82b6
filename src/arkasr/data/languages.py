"""Names and codes of languages. Every name or code in a manifest becomes one English name."""

import difflib

from arkasr.errors import InputError

# The 30 languages of the Qwen3-ASR teacher and the 19 of the Ark-ASR students; ISO 639-1 codes where there are any.
LANGUAGE_CODES = {
    "Arabic": "ar",
    "Cantonese": "yue",
    "Chinese": "zh",
    "Croatian": "hr",
    "Czech": "cs",
    "Danish": "da",
    "Dutch": "nl",
    "English": "en",
    "Estonian": "et",
    "Filipino": "fil",
    "Finnish": "fi",
    "French": "fr",
    "German": "de",
    "Greek": "el",
    "Hindi": "hi",
    "Hungarian": "hu",
    "Indonesian": "id",
    "Italian": "it",
    "Japanese": "ja",
    "Korean": "ko",
    "Lithuanian": "lt",
    "Macedonian": "mk",
    "Malay": "ms",
    "Persian": "fa",
    "Polish": "pl",
    "Portuguese": "pt",
    "Romanian": "ro",
    "Russian": "ru",
    "Slovak": "sk",
    "Slovenian": "sl",
    "Spanish": "es",
    "Swedish": "sv",
    "Thai": "th",
    "Turkish": "tr",
    "Vietnamese": "vi",
}
# By code; the languages of the published checkpoints.
STUDENT_LANGUAGES = {
    LANGUAGE_CODES[name]: name
    for name in (
        *("Chinese", "English", "German", "Japanese", "French", "Korean", "Spanish", "Polish", "Italian", "Romanian"),
        *("Hungarian", "Czech", "Dutch", "Finnish", "Croatian", "Slovak", "Slovenian", "Estonian", "Lithuanian"),
    )
}
# Written without spaces between words, so errors are counted in characters. Korean has spaces.
UNSPACED_LANGUAGES = frozenset({"Chinese", "Cantonese", "Japanese", "Thai"})
_NAMES = (
    {name.lower(): name for name in LANGUAGE_CODES}
    | {code: name for name, code in LANGUAGE_CODES.items()}
    | {"mandarin": "Chinese", "cmn": "Chinese", "zh-hk": "Cantonese", "zh-yue": "Cantonese"}
    | {"farsi": "Persian", "tagalog": "Filipino", "tl": "Filipino"}
)


def canonical_language(name_or_code: str) -> str:
    """The English name of a language given by name or code, with or without a region (`en`, `en-US`, `english`).

    Raises:
        InputError: the language is unknown; the message suggests the nearest name.
    """
    key = name_or_code.strip().lower().replace("_", "-")
    name = _NAMES.get(key) or _NAMES.get(key.split("-")[0])
    if name is None:
        nearest = difflib.get_close_matches(key.title(), LANGUAGE_CODES, n=1)
        advice = (
            f"did you mean {nearest[0]!r}?" if nearest else "use an English name or a code, such as 'German' or 'de'"
        )
        raise InputError(f"language {name_or_code!r} is not known; {advice}")
    return name
