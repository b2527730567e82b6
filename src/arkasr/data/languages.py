"""Names and codes of languages. Every name or code in a manifest becomes one English name."""

import difflib

from arkasr.errors import InputError

# The languages of the Qwen3-ASR teacher, the Ark-ASR students and Whisper; ISO 639-1 codes where there are any.
LANGUAGE_CODES = {
    "Afrikaans": "af",
    "Albanian": "sq",
    "Amharic": "am",
    "Arabic": "ar",
    "Armenian": "hy",
    "Assamese": "as",
    "Azerbaijani": "az",
    "Bashkir": "ba",
    "Basque": "eu",
    "Belarusian": "be",
    "Bengali": "bn",
    "Bosnian": "bs",
    "Breton": "br",
    "Bulgarian": "bg",
    "Burmese": "my",
    "Cantonese": "yue",
    "Catalan": "ca",
    "Chinese": "zh",
    "Croatian": "hr",
    "Czech": "cs",
    "Danish": "da",
    "Dutch": "nl",
    "English": "en",
    "Estonian": "et",
    "Faroese": "fo",
    "Filipino": "fil",
    "Finnish": "fi",
    "French": "fr",
    "Galician": "gl",
    "Georgian": "ka",
    "German": "de",
    "Greek": "el",
    "Gujarati": "gu",
    "Haitian Creole": "ht",
    "Hausa": "ha",
    "Hawaiian": "haw",
    "Hebrew": "he",
    "Hindi": "hi",
    "Hungarian": "hu",
    "Icelandic": "is",
    "Indonesian": "id",
    "Italian": "it",
    "Japanese": "ja",
    "Javanese": "jv",
    "Kannada": "kn",
    "Kazakh": "kk",
    "Khmer": "km",
    "Korean": "ko",
    "Lao": "lo",
    "Latin": "la",
    "Latvian": "lv",
    "Lingala": "ln",
    "Lithuanian": "lt",
    "Luxembourgish": "lb",
    "Macedonian": "mk",
    "Malagasy": "mg",
    "Malay": "ms",
    "Malayalam": "ml",
    "Maltese": "mt",
    "Maori": "mi",
    "Marathi": "mr",
    "Mongolian": "mn",
    "Nepali": "ne",
    "Norwegian": "no",
    "Nynorsk": "nn",
    "Occitan": "oc",
    "Pashto": "ps",
    "Persian": "fa",
    "Polish": "pl",
    "Portuguese": "pt",
    "Punjabi": "pa",
    "Romanian": "ro",
    "Russian": "ru",
    "Sanskrit": "sa",
    "Serbian": "sr",
    "Shona": "sn",
    "Sindhi": "sd",
    "Sinhala": "si",
    "Slovak": "sk",
    "Slovenian": "sl",
    "Somali": "so",
    "Spanish": "es",
    "Sundanese": "su",
    "Swahili": "sw",
    "Swedish": "sv",
    "Tajik": "tg",
    "Tamil": "ta",
    "Tatar": "tt",
    "Telugu": "te",
    "Thai": "th",
    "Tibetan": "bo",
    "Turkish": "tr",
    "Turkmen": "tk",
    "Ukrainian": "uk",
    "Urdu": "ur",
    "Uzbek": "uz",
    "Vietnamese": "vi",
    "Welsh": "cy",
    "Yiddish": "yi",
    "Yoruba": "yo",
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
UNSPACED_LANGUAGES = frozenset({"Chinese", "Cantonese", "Japanese", "Thai", "Lao", "Khmer", "Burmese", "Tibetan"})
_NAMES = (
    {name.lower(): name for name in LANGUAGE_CODES}
    | {code: name for name, code in LANGUAGE_CODES.items()}
    | {"mandarin": "Chinese", "cmn": "Chinese", "zh-hk": "Cantonese", "zh-yue": "Cantonese"}
    | {"farsi": "Persian", "tagalog": "Filipino", "tl": "Filipino"}
    | {"myanmar": "Burmese", "haitian": "Haitian Creole", "jw": "Javanese", "iw": "Hebrew"}
    | {"nb": "Norwegian", "bokmål": "Norwegian", "flemish": "Dutch", "moldovan": "Romanian", "valencian": "Catalan"}
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
