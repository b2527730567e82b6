"""What the student wrote the last time it heard an utterance: the best draft of what it writes the next time.

Kept by utterance id, saved with a checkpoint as tensors, so that a resumed run has the drafts of an undisturbed one.
"""

from array import array
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

MOST_UTTERANCES = 1_000_000


class RolloutMemory:
    """The newest rollouts; the oldest make room.

    Args:
        most: utterances that are kept.
    """

    def __init__(self, most: int = MOST_UTTERANCES) -> None:
        self._most = most
        self._written: dict[str, array[int]] = {}
        self._news: dict[str, list[int]] = {}

    def get(self, utterance: str) -> list[int] | None:
        """The tokens of the newest rollout of an utterance; None where there is none."""
        written = self._written.get(utterance)
        return None if written is None else written.tolist()

    def add(self, utterance: str, tokens: list[int]) -> None:
        """Have a rollout as news, to be learned when the step is done."""
        self._news[utterance] = tokens

    def take_news(self) -> dict[str, list[int]]:
        """The rollouts added since this was last asked, by utterance."""
        taken, self._news = self._news, {}
        return taken

    def learn(self, news: Mapping[str, list[int]]) -> None:
        """Keep what a process has added, in place of what was there before."""
        for utterance, tokens in news.items():
            self._written.pop(utterance, None)
            self._written[utterance] = array("i", tokens)
            if len(self._written) > self._most:
                del self._written[next(iter(self._written))]

    def tensors(self) -> dict[str, Tensor]:
        """All that is kept: ids in UTF-8 as uint8 `names`, rollouts as int32 `tokens`, and the lengths of both."""
        names = [name.encode() for name in self._written]
        tokens = array("i")
        for written in self._written.values():
            tokens.extend(written)
        return {
            "names": torch.from_numpy(np.frombuffer(b"".join(names), dtype=np.uint8).copy()),
            "name_lengths": torch.tensor([len(name) for name in names], dtype=torch.int32),
            "tokens": torch.from_numpy(np.array(tokens, dtype=np.int32)),
            "token_lengths": torch.tensor([len(written) for written in self._written.values()], dtype=torch.int32),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        names = tensors["names"].numpy().tobytes()
        pieces = tensors["tokens"].split(tensors["token_lengths"].tolist())
        self._written, first = {}, 0
        for length, tokens in zip(tensors["name_lengths"].tolist(), pieces, strict=True):
            self._written[names[first : first + length].decode()] = array("i", tokens.tolist())
            first += length
