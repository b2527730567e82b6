"""Which words of a growing hypothesis are shown. In: hypotheses of an open utterance. Out: words that are shown once.

A word is shown when two hypotheses in a row begin with the same words up to it (LocalAgreement-2; Liu et al.,
Interspeech 2020, arXiv 2005.11185). Shown words stay, whatever later hypotheses say.
"""

from itertools import pairwise

from arkasr.recognizers.loops import words_of


class Agreement:
    """The shown beginning of one utterance."""

    def __init__(self) -> None:
        self.shown = ""
        self._previous: list[str] = []

    def add(self, hypothesis: str) -> str:
        """The text by which the shown text grows; empty if nothing is new or if the hypothesis contradicts it."""
        pieces = _pieces(hypothesis)
        agreed = 0
        while agreed < min(len(pieces), len(self._previous)) and pieces[agreed] == self._previous[agreed]:
            agreed += 1
        self._previous = pieces
        # The last word may be cut in the middle.
        text = "".join(pieces[: min(agreed, len(pieces) - 1)]) if pieces else ""
        if not text.startswith(self.shown):
            return ""
        delta = text[len(self.shown) :]
        self.shown = text
        return delta


def _pieces(text: str) -> list[str]:
    """The text in pieces: each word with the spaces before it."""
    ends = [0, *(begin + len(word) for word, begin in words_of(text))]
    return [text[first:last] for first, last in pairwise(ends)]
