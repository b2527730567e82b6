"""The blank that some models write before a transcript, and the cleaning of raw transcripts.

Cleaning removes control tokens, surplus blanks and leading punctuation. Its rules are those of the published evaluation
code (AutoArk/open-audio-opd), to make scores comparable.
"""

import re
from collections.abc import Callable

from arkasr.recognizers.loops import is_unspaced

TURN_ENDS = ("<|user|>", "<|assistant|>", "<|im_end|>")
TEXT_MARK = "<|text|>"
CODEC_TOKENS = re.compile(
    r"<\|bicodec_(?:semantic|global)_\d+\|>|<\|(?:start|end)_(?:global_token|glm_token|semantic_token|content)\|>"
)
LEADING_PUNCTUATION = re.compile(r"^[\s,.;:!?-]+")


# What a model family writes before a text, such as a blank.
Prefix = Callable[[str], str]


def clean_transcript(raw: str) -> str:
    """The words of a transcript that was decoded with its special tokens kept."""
    for end in TURN_ENDS:
        raw = raw.split(end, 1)[0]
    text = raw.rsplit(TEXT_MARK, 1)[-1]
    text = " ".join(CODEC_TOKENS.sub("", text).split())
    return LEADING_PUNCTUATION.sub("", text)


def no_prefix(text: str) -> str:
    """Nothing before a transcript."""
    return ""


def blank_before(text: str) -> str:
    """Whisper's blank before a transcript.

    Empty before a text whose first letter is of a script without blanks between words, before a text that begins with a
    blank, and before an empty text.
    """
    if not text.strip() or text[0].isspace():
        return ""
    first_letter = next((character for character in text if character.isalpha()), "")
    return "" if is_unspaced(first_letter) else " "
