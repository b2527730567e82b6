"""Names and codes of languages: whatever a manifest says becomes one English name."""

from arkasr.errors import InputError

# The languages of the Qwen3-ASR teacher and of the Ark-ASR students, with ISO 639 codes.
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
_NAMES = (
    {name.lower(): name for name in LANGUAGE_CODES}
    | {code: name for name, code in LANGUAGE_CODES.items()}
    | {"mandarin": "Chinese", "cmn": "Chinese"}
)


def canonical_language(name_or_code: str) -> str:
    """The English name of a language given by name or code, with or without a region (`en`, `en-US`, `english`).

    Raises:
        InputError: the language is not known.
    """
    key = name_or_code.strip().lower()
    name = _NAMES.get(key) or _NAMES.get(key.replace("_", "-").split("-")[0])
    if name is None:
        raise InputError(
            f"language {name_or_code!r} is not known; use an English name or an ISO 639 code, such as 'en'"
        )
    return name
