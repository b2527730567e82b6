"""The latest rollout of every utterance. It is the best draft of the utterance's next rollout.

Rollouts are keyed by utterance id. A checkpoint saves them as tensors, so that a resumed run uses the same drafts.
"""

from array import array
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

MAX_UTTERANCES = 1_000_000


class RolloutCache:
    """The latest rollouts; the oldest are removed first.

    Args:
        max_utterances: largest number of utterances.
    """

    def __init__(self, max_utterances: int = MAX_UTTERANCES) -> None:
        self._max_utterances = max_utterances
        self._tokens: dict[str, array[int]] = {}
        self._new: dict[str, list[int]] = {}

    def get(self, utterance: str) -> list[int] | None:
        """The tokens of an utterance's latest rollout; None if there is none."""
        tokens = self._tokens.get(utterance)
        return None if tokens is None else tokens.tolist()

    def record(self, utterance: str, tokens: list[int]) -> None:
        """Hold a new rollout for `take_new`. `get` does not return it before `update`."""
        self._new[utterance] = tokens

    def take_new(self) -> dict[str, list[int]]:
        """The rollouts recorded since the last call, by utterance."""
        taken, self._new = self._new, {}
        return taken

    def update(self, rollouts: Mapping[str, list[int]]) -> None:
        """Store rollouts by utterance, in place of earlier ones."""
        for utterance, tokens in rollouts.items():
            self._tokens.pop(utterance, None)
            self._tokens[utterance] = array("i", tokens)
            if len(self._tokens) > self._max_utterances:
                del self._tokens[next(iter(self._tokens))]

    def tensors(self) -> dict[str, Tensor]:
        """The stored rollouts: ids in UTF-8 as uint8 `names`, rollouts as int32 `tokens`, and the lengths of both."""
        names = [name.encode() for name in self._tokens]
        flat = array("i")
        for tokens in self._tokens.values():
            flat.extend(tokens)
        return {
            "names": torch.from_numpy(np.frombuffer(b"".join(names), dtype=np.uint8).copy()),
            "name_lengths": torch.tensor([len(name) for name in names], dtype=torch.int32),
            "tokens": torch.from_numpy(np.array(flat, dtype=np.int32)),
            "token_lengths": torch.tensor([len(tokens) for tokens in self._tokens.values()], dtype=torch.int32),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `tensors` returned."""
        names = tensors["names"].numpy().tobytes()
        pieces = tensors["tokens"].split(tensors["token_lengths"].tolist())
        self._tokens, start = {}, 0
        for length, tokens in zip(tensors["name_lengths"].tolist(), pieces, strict=True):
            self._tokens[names[start : start + length].decode()] = array("i", tokens.tolist())
            start += length
