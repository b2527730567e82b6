"""Text as plain text: a transcript that spells a special token, such as `<|im_end|>`, does not contain that token."""

import json
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

_plain_tokenizers: WeakKeyDictionary[Any, Tokenizer] = WeakKeyDictionary()


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text, without special tokens.

    Args:
        tokenizer: a tokenizer of Transformers.
        text: any.
    """
    return list(plain_tokenizer(tokenizer).encode(text, add_special_tokens=False).ids)


def plain_lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Number of ids of each text; one call is much faster than many."""
    encodings = plain_tokenizer(tokenizer).encode_batch_fast(list(texts), add_special_tokens=False)
    return [len(encoding) for encoding in encodings]


def plain_tokenizer(tokenizer: Any) -> Tokenizer:
    """The tokenizer without its added tokens, which it would find in a text before it splits the text."""
    if tokenizer not in _plain_tokenizers:
        description = json.loads(tokenizer.backend_tokenizer.to_str())
        description |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        _plain_tokenizers[tokenizer] = Tokenizer.from_str(json.dumps(description))
    return _plain_tokenizers[tokenizer]
