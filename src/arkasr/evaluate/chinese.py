"""Chinese texts as they are read aloud: numbers, hyphens and the two zeros."""

import re
import unicodedata
from functools import lru_cache
from typing import Any

from arkasr.errors import InputError

DATE = r"(?<!\d)\d{4}-\d{1,2}-\d{1,2}(?!\d)"
TELEPHONE = re.compile(r"(?<![\d.])(?:1[3-9]\d{9}|0\d{2,3}-?\d{7,8}|400-?\d{3}-?\d{4})(?![\d.])")
HYPHEN_OF_NAME = re.compile(r"(?<=[A-Za-z])-(?=\d)|(?<=\d)-(?=[A-Za-z])")
HYPHEN_OF_RANGE = re.compile(rf"{DATE}|(?<=[\d%])-(?=\d)")
DIGITS = str.maketrans("0123456789", "零一二三四五六七八九")
ONE_READING = str.maketrans("〇幺", "零一")


def as_read(text: str) -> str:
    """Numbers as words.

    Telephone numbers are read digit by digit, names such as `F-16` without a hyphen, and `50%-60%` as a range.

    Raises:
        InputError: WeText is not installed.
    """
    text = unicodedata.normalize("NFKC", text)
    text = TELEPHONE.sub(lambda found: found[0].replace("-", "").translate(DIGITS), text)
    text = HYPHEN_OF_NAME.sub("", text)
    text = HYPHEN_OF_RANGE.sub(lambda found: "到" if found[0] == "-" else found[0], text)
    return str(verbalizer().normalize(text)).translate(ONE_READING)


@lru_cache(maxsize=1)
def verbalizer() -> Any:
    """WeText's rules for Chinese.

    Raises:
        InputError: WeText is not installed.
    """
    try:
        from wetext import Normalizer
    except ImportError as error:
        raise InputError("normalizer 'zh' needs the package wetext; install arkasr[zh]") from error
    return Normalizer(lang="zh", operator="tn")
