"""The bytes of the tokens of a byte-level BPE."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from arkasr.errors import InputError


def token_bytes(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[bytes]:
    """The bytes that each token adds to the decoded text. A token may be part of a UTF-8 character.

    Raises:
        InputError: the tokenizer is not byte-level.
    """
    added = tokenizer.added_tokens_decoder
    pieces = []
    for token_id, token in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True):
        if token_id in added:
            pieces.append(b"" if added[token_id].special else added[token_id].content.encode())
        elif token is not None and _BYTE_OF.keys() >= set(token):
            pieces.append(bytes(_BYTE_OF[character] for character in token))
        else:
            raise InputError(f"token {token_id} ({token!r}) is not of a byte-level BPE; use two models that have one")
    return pieces


def _byte_alphabet() -> dict[str, int]:
    """The byte of each character: printable bytes stand for themselves, the others are numbered from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    substitutes = {chr(0x100 + number): byte for number, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | substitutes


_BYTE_OF = _byte_alphabet()
SYMBOL_OF = {byte: symbol for symbol, byte in _BYTE_OF.items()}
