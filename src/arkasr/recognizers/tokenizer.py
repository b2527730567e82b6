"""Byte-level BPE tokenizers like Qwen's, trained from text, for models that start from random weights.

A base vocabulary is learned once. Each model family appends its own tokens to it, so families share the base ids, as
the published checkpoints do. The base vocabulary has all single bytes, so it can represent any text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from arkasr.errors import InputError
from arkasr.model.processor import STOP_TOKEN

BYTE_TOKENS = 256
PAD_TOKEN = "<|endoftext|>"


@dataclass(frozen=True)
class BaseVocabulary:
    """Tokens and merges of a byte-level BPE, without any added token."""

    token_to_id: dict[str, int]
    merges: list[tuple[str, str]]


def train_base_vocabulary(texts: Sequence[str], size: int, prompts: Sequence[str] = ()) -> BaseVocabulary:
    """Learn `size` tokens, or fewer if no pair of tokens is left to merge.

    Args:
        texts: transcripts, each counted once.
        size: number of tokens, including the 256 single bytes.
        prompts: texts of every prompt, each counted once per transcript, so that prompts become few tokens.

    Raises:
        InputError: `size` is smaller than the number of single bytes.
    """
    if size < BYTE_TOKENS:
        raise InputError(f"tokenizer.vocab_size is {size}; a byte-level vocabulary needs at least {BYTE_TOKENS}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *(list(prompts) * len(texts))], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return BaseVocabulary(model["vocab"], [tuple(pair) for pair in model["merges"]])


def build_tokenizer(
    base: BaseVocabulary,
    special_tokens: Sequence[str],
    *,
    named_tokens: dict[str, str] | None = None,
    added_tokens: Sequence[str] = (),
) -> Qwen2Tokenizer:
    """Append a model family's own tokens to a base vocabulary.

    Args:
        base: the learned tokens and merges; their ids are kept.
        special_tokens: tokens flagged special, in the order of their ids.
        named_tokens: special tokens that a processor looks up by attribute, such as `{"audio_token": "<|audio_pad|>"}`.
        added_tokens: tokens that are never split but not flagged special; their ids follow the special ones.
    """
    own_tokens = [*special_tokens, *added_tokens]
    first_id = len(base.token_to_id)
    tokenizer = Qwen2Tokenizer(
        vocab=base.token_to_id | {token: first_id + index for index, token in enumerate(own_tokens)},
        merges=list(base.merges),
        unk_token=None,
        eos_token=STOP_TOKEN,
        pad_token=PAD_TOKEN,
        extra_special_tokens=named_tokens or {},
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in added_tokens])
    return tokenizer
