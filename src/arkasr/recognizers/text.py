"""Cleaning of raw transcripts: control tokens, surplus blanks and leading punctuation are removed.

The rules are those of the published evaluation code (AutoArk/open-audio-opd), to make scores comparable.
"""

import re

TURN_ENDS = ("<|user|>", "<|assistant|>", "<|im_end|>")
TEXT_MARK = "<|text|>"
CODEC_TOKENS = re.compile(
    r"<\|bicodec_(?:semantic|global)_\d+\|>|<\|(?:start|end)_(?:global_token|glm_token|semantic_token|content)\|>"
)
LEADING_PUNCTUATION = re.compile(r"^[\s,.;:!?-]+")


def clean_transcript(raw: str) -> str:
    """The words of a transcript that was decoded with its special tokens kept."""
    for end in TURN_ENDS:
        raw = raw.split(end, 1)[0]
    text = raw.rsplit(TEXT_MARK, 1)[-1]
    text = " ".join(CODEC_TOKENS.sub("", text).split())
    return LEADING_PUNCTUATION.sub("", text)
