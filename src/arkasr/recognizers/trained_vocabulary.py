"""The base vocabulary of a trained model, whole or pruned to the tokens that texts need.

Pruned tokens keep their strings, so a student with these tokens and a teacher with all tokens share every token of the
student. Special tokens are left to the families.
"""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from itertools import pairwise
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from arkasr.errors import InputError
from arkasr.recognizers.load import FAMILIES, input_errors, load_without_weights
from arkasr.recognizers.tokenizer import BYTE_SYMBOLS, BaseVocabulary, backend_of

TEXTS_AT_ONCE = 10_000


def load_vocabulary(name: str, revision: str | None = None) -> BaseVocabulary:
    """The base vocabulary of a trained model: a speech recogniser or a text model.

    Args:
        name: a folder, or a repository on the model hub.
        revision: commit, tag or branch of a hub repository.

    Raises:
        InputError: the name has no tokenizer that is a byte-level BPE.
    """
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    with input_errors(name):
        is_recognizer = AutoConfig.from_pretrained(name, **source).model_type in FAMILIES
    if is_recognizer:
        recognizer = load_without_weights(name, revision=revision)
        leading_blank = recognizer.transcript_prefix("word") != ""
        return base_vocabulary_of(recognizer.tokenizer, name, leading_blank=leading_blank)
    with input_errors(name):
        return base_vocabulary_of(AutoTokenizer.from_pretrained(name, **source), name)


def base_vocabulary_of(tokenizer: PreTrainedTokenizerBase, name: str, *, leading_blank: bool = False) -> BaseVocabulary:
    """The tokens of a trained model without its added tokens, in the order of their ids.

    Single bytes that the model lacks follow at the end. SmolLM2 lacks 21 that its training texts did not have.

    Args:
        tokenizer: of the model.
        name: of the model, for the message.
        leading_blank: whether the model begins a transcript with a blank.

    Raises:
        InputError: the tokenizer is no byte-level BPE.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    document: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {"type": None}}
    model: dict[str, Any] = document["model"]
    token_to_id: dict[str, int] = model["vocab"] if model["type"] == "BPE" else {}
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    has_affixes = any(map(model.get, ("continuing_subword_prefix", "end_of_word_suffix")))
    if has_affixes or not (_decodes_bytes(document) and BYTE_SYMBOLS.issuperset("".join(token_to_id.keys() - added))):
        raise InputError(f"model {name}: its tokenizer is not a byte-level BPE, such as that of Whisper or Qwen")
    rules = document | {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    rules["model"] = model | {"vocab": {}, "merges": [], "unk_token": None}
    missing_bytes = sorted(BYTE_SYMBOLS - token_to_id.keys())
    ids = token_to_id | {byte: max(token_to_id.values()) + 1 + number for number, byte in enumerate(missing_bytes)}
    whole = BaseVocabulary(ids, [tuple(pair) for pair in model["merges"]], json.dumps(rules), leading_blank)
    return _kept(whole, ids.keys() - added - {""})


def _decodes_bytes(document: Mapping[str, Any]) -> bool:
    """Whether a `tokenizer.json` describes a BPE whose symbols stand for bytes."""
    decoder = document.get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    return document["model"]["type"] == "BPE" and any(step.get("type") == "ByteLevel" for step in steps)


def prune(base: BaseVocabulary, texts: Sequence[str], size: int | None = None) -> BaseVocabulary:
    """The tokens that `texts` need: the texts get the same token strings as from the whole vocabulary.

    Kept are all single bytes, the tokens of the texts, and every token that the merges build on the way to these. Other
    texts are written with the kept tokens too.

    Args:
        base: of a trained model, from `base_vocabulary_of`.
        texts: every form in which a text will be tokenised.
        size: the most tokens; None = no limit. Kept are then the results of the first merges among those that the texts
            need, and the texts get more tokens than from the whole vocabulary.
    """
    backend = backend_of(base)
    needed: set[str] = set()
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        for encoding in backend.encode_batch(texts[first : first + TEXTS_AT_ONCE], add_special_tokens=False):
            needed.update(encoding.tokens)
    rank_of = {pair: rank for rank, pair in enumerate(base.merges)}
    kept = set(BYTE_SYMBOLS)
    for token in needed:
        kept.update(_merged_on_the_way(token, rank_of), {token})
    pruned = _kept(base, kept)
    if size is None or len(pruned.token_to_id) <= size:
        return pruned
    return _first_merges(pruned, size)


def _first_merges(base: BaseVocabulary, size: int) -> BaseVocabulary:
    """The single bytes and the results of the first merges, `size` tokens or fewer."""
    tokens = set(BYTE_SYMBOLS)
    for left, right in base.merges:
        if len(tokens) >= size:
            break
        tokens.add(left + right)
    return _kept(base, tokens)


def _merged_on_the_way(token: str, rank_of: Mapping[tuple[str, str], int]) -> Iterator[str]:
    """The tokens that the merges build from the bytes of a token, one after the other.

    No merge crosses the boundary of a final token. So these are also the tokens that a text with this token needs.
    """
    symbols = list(token)
    while len(symbols) > 1:
        rank, index = min((rank_of.get(pair, len(rank_of)), place) for place, pair in enumerate(pairwise(symbols)))
        if rank == len(rank_of):
            return
        symbols[index : index + 2] = [symbols[index] + symbols[index + 1]]
        yield symbols[index]


def _kept(base: BaseVocabulary, tokens: Set[str]) -> BaseVocabulary:
    """Some tokens of a vocabulary, with new ids in the old order, and the merges among them."""
    ordered = sorted(tokens, key=base.token_to_id.__getitem__)
    merges = [(left, right) for left, right in base.merges if {left, right, left + right} <= tokens]
    return replace(base, token_to_id={token: number for number, token in enumerate(ordered)}, merges=merges)
