"""A check that a tokenizer can write its own tokens.

A file that lost a merge decodes rightly and tokenises wrongly: without the merge of " t", " the" becomes two tokens.
Training on such tokens makes a model worse.
"""

import json
from typing import Any

from arkasr.errors import InputError


def check_tokenizer(tokenizer: Any, owner: str) -> None:
    """Check that every token of a BPE vocabulary is made by a merge of two other tokens.

    Args:
        tokenizer: a tokenizer of Transformers. Only a BPE that writes all tokens by merges is checked.
        owner: the model of the tokenizer, for the message.

    Raises:
        InputError: a token is made by no merge; names it and counts the tokens that need it.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] != "BPE" or model.get("ignore_merges"):
        return
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    made = {left + right: (left, right) for left, right in merges}
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    lost = {token for token in model["vocab"] if len(token) > 1 and token not in made and token not in added}
    if not lost:
        return
    dependent = set(lost)
    for whole, parts in made.items():
        if dependent & set(parts):
            dependent.add(whole)
    first = min(lost, key=lambda token: model["vocab"][token])
    text = tokenizer.convert_tokens_to_string([first])
    raise InputError(
        f"tokenizer of {owner}: no merge makes the token {text!r}, so it cannot write it, nor {len(dependent) - 1} "
        "others that need it; its tokenizer.json has lost a merge, so download the tokenizer again"
    )
