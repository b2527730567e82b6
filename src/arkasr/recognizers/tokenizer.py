"""Byte-level BPE tokenizers for new models: a base vocabulary, and the tokens that a model family appends to it.

A base vocabulary is trained from text, with Qwen's rules, or taken from a trained model (`trained_vocabulary.py`), with
that model's rules. All families append to the same base, so they share its ids, as the published checkpoints do. The
base vocabulary has all single bytes, so it can represent any text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from arkasr.errors import InputError
from arkasr.model.processor import STOP_TOKEN

BYTE_SYMBOLS = frozenset(pre_tokenizers.ByteLevel.alphabet())  # one character for each of the 256 bytes
PAD_TOKEN = "<|endoftext|>"


@dataclass(frozen=True)
class BaseVocabulary:
    """Tokens and merges of a byte-level BPE, without any added token.

    Attributes:
        token_to_id: ids from 0 on, without gaps.
        merges: first merge first.
        rules: normaliser, pre-tokeniser and BPE options, as a `tokenizer.json` without tokens; None = Qwen2's.
        leading_blank: whether a transcript begins with a blank, because the model that the tokens come from writes it.
    """

    token_to_id: dict[str, int]
    merges: list[tuple[str, str]]
    rules: str | None = None
    leading_blank: bool = False


def train_base_vocabulary(texts: Sequence[str], size: int, prompts: Sequence[str] = ()) -> BaseVocabulary:
    """Learn `size` tokens, or fewer if no pair of tokens is left to merge.

    Args:
        texts: transcripts, each counted once.
        size: number of tokens, including the 256 single bytes.
        prompts: texts of every prompt, each counted once per transcript, so that prompts become few tokens.

    Raises:
        InputError: `size` is smaller than the number of single bytes.
    """
    if size < len(BYTE_SYMBOLS):
        raise InputError(f"tokenizer.vocab_size is {size}; a byte-level vocabulary needs at least {len(BYTE_SYMBOLS)}")
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
        initial_alphabet=sorted(BYTE_SYMBOLS),
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
) -> PreTrainedTokenizerFast:
    """Append a model family's own tokens to a base vocabulary.

    Args:
        base: the base tokens; their ids are kept.
        special_tokens: tokens flagged special, in the order of their ids.
        named_tokens: special tokens that a processor looks up by attribute, such as `{"audio_token": "<|audio_pad|>"}`.
        added_tokens: tokens that are never split but not flagged special; their ids follow the special ones.
    """
    own_tokens = [AddedToken(token, special=True, normalized=False) for token in special_tokens]
    own_tokens += [AddedToken(token, special=False, normalized=False) for token in added_tokens]
    options: dict[str, Any] = {
        "unk_token": None,
        "eos_token": STOP_TOKEN,
        "pad_token": PAD_TOKEN,
        "extra_special_tokens": named_tokens or {},
    }
    if base.rules is not None:
        backend = backend_of(base)
        backend.add_tokens(own_tokens)
        # Qwen2's class would replace the rules by its own when it is loaded.
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, model_input_names=Qwen2Tokenizer.model_input_names, **options
        )
    first_id = len(base.token_to_id)
    ids_of_own = {token.content: first_id + index for index, token in enumerate(own_tokens)}
    tokenizer = Qwen2Tokenizer(vocab=base.token_to_id | ids_of_own, merges=list(base.merges), **options)
    tokenizer.add_tokens(own_tokens)
    return tokenizer


def backend_of(base: BaseVocabulary) -> Tokenizer:
    """A tokenizer of the base tokens alone; `base` must have `rules`."""
    assert base.rules is not None
    document = json.loads(base.rules)
    document["model"] |= {"vocab": base.token_to_id, "merges": base.merges}
    return Tokenizer.from_str(json.dumps(document))


def follows_rules(tokenizer: PreTrainedTokenizerBase, base: BaseVocabulary) -> bool:
    """Whether a tokenizer has the normaliser and the pre-tokeniser of a base vocabulary, which must have `rules`."""
    assert base.rules is not None
    own, rules = json.loads(tokenizer.backend_tokenizer.to_str()), json.loads(base.rules)
    return all(own[part] == rules[part] for part in ("normalizer", "pre_tokenizer"))
