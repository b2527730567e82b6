"""The tokens that a transcript may hold: the sets A_S and A_T of the objective."""

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arkasr.errors import InputError


def allowed_tokens(
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    stop_token_id: int,
    *,
    first_blocked_id: int | None = None,
) -> Tensor:
    """All tokens except special tokens, added tokens written `<…>`, and ids without a token; plus the stop token.

    Args:
        tokenizer: the model's tokenizer.
        vocab_size: V, width of the model's logits; may exceed the tokenizer.
        stop_token_id: ends a transcript.
        first_blocked_id: this id and all above it are excluded too; None = no limit.

    Returns:
        bool `[V]`.

    Raises:
        InputError: the stop token is outside the logits.
    """
    check_stop_token(stop_token_id, vocab_size)
    blocked = set(tokenizer.all_special_ids)
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.special or (token.content.startswith("<") and token.content.endswith(">")):
            blocked.add(token_id)
    limit = vocab_size if first_blocked_id is None else min(first_blocked_id, vocab_size)
    allowed = torch.zeros(vocab_size, dtype=torch.bool)
    allowed[sorted(set(tokens_within(tokenizer, limit).values()) - blocked)] = True
    allowed[stop_token_id] = True
    return allowed


def tokens_within(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> dict[str, int]:
    """Ids of the tokens that have a logit, by token string."""
    return {token: token_id for token, token_id in tokenizer.get_vocab().items() if token_id < vocab_size}


def check_stop_token(stop_token_id: int, vocab_size: int) -> None:
    """Check that a stop token has a logit.

    Raises:
        InputError: it is outside the logits.
    """
    if not 0 <= stop_token_id < vocab_size:
        raise InputError(
            f"stop token id {stop_token_id} is outside the model's {vocab_size} logits; "
            "give the id that the model's own tokenizer has for its stop token"
        )
