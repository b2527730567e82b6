"""A draft of one transcript: proposes the next tokens, and finds its place again after a wrong one.

In: the tokens that the model predicts along a proposal. Out: the next proposal. A draft decides how many tokens are
verified in one pass, never which tokens are written.
"""

from collections.abc import Sequence

import numpy as np

# Length of a proposal after a wrong token. It doubles when the whole proposal is accepted and the model's next token
# also equals the draft.
PROPOSAL_AFTER_REJECTION = 16
# The draft is given up after this many proposals in a row without an accepted token.
PATIENCE = 12
# After a pass that writes more tokens than this, the edit distances restart from the place after the accepted tokens,
# and only the last token is aligned. Otherwise every token is aligned.
MAX_ALIGNED_TOKENS = 4
# When the next place is chosen, a place whose preceding draft token equals the last written token counts as this many
# edits closer.
LAST_TOKEN_BONUS = 2.5


class Draft:
    """The draft of one transcript and the place reached in it.

    The written tokens are aligned with the draft by edit distance. An inserted or missing word therefore moves the
    place in the draft and does not spoil the words after it.

    Args:
        tokens: the draft, cut at its first stop token; empty = no proposals.
        stop_token_id: ends a transcript.
    """

    def __init__(self, tokens: Sequence[int], stop_token_id: int) -> None:
        tokens = list(tokens)
        self._tokens = tokens[: tokens.index(stop_token_id)] if stop_token_id in tokens else tokens
        self._ids = np.array(self._tokens, dtype=np.int64)
        self._place = 0
        self._places = self._edits = np.arange(len(self._tokens) + 1)
        self._failures = 0
        self._longest_proposal = len(self._tokens)

    def propose(self, limit: int) -> list[int]:
        """The next tokens of the draft, at most `limit`, without the stop token."""
        return self._tokens[self._place : self._place + min(limit, self._longest_proposal)]

    def verify(self, proposal: Sequence[int], predicted: list[int]) -> int:
        """Compare a proposal with the model's predictions, and move to the place after the model's next token.

        Args:
            proposal: `[m]`, from `propose`.
            predicted: `[m + 1]`, the model's token in place of each proposed one, and the one after the last.

        Returns:
            How many tokens are accepted. The next token of the transcript is the prediction after them.
        """
        accepted = next((index for index, token in enumerate(proposal) if token != predicted[index]), len(proposal))
        if not self._tokens:
            return accepted
        next_token, expected_place = predicted[accepted], self._place + accepted
        self._align(predicted[: accepted + 1], expected_place)
        self._failures = 0 if accepted or not proposal else self._failures + 1
        all_right = expected_place < len(self._tokens) and next_token == self._tokens[expected_place]
        self._longest_proposal = 2 * self._longest_proposal if all_right else PROPOSAL_AFTER_REJECTION
        if self._failures == PATIENCE:
            self._tokens = []
        elif all_right:
            self._place = expected_place + 1
        else:
            self._place = self._likeliest_place(expected_place + 1, next_token)
        return accepted

    def _likeliest_place(self, expected_place: int, last_token: int) -> int:
        cost = self._edits + LAST_TOKEN_BONUS
        cost[1:] -= LAST_TOKEN_BONUS * (self._ids == last_token)
        return min(np.flatnonzero(cost == cost.min()).tolist(), key=lambda place: abs(place - expected_place))

    def _align(self, written: Sequence[int], accepted_to: int) -> None:
        """For every place: update the edit distance between the transcript so far and the draft up to that place.

        Args:
            written: the accepted tokens of a proposal and the token after them.
            accepted_to: the place in the draft after the accepted tokens.
        """
        if len(written) > MAX_ALIGNED_TOKENS:
            self._edits = abs(self._places - accepted_to)
            written = written[-1:]
        for token in written:
            change = self._edits + 1
            change[1:] = np.minimum(change[1:], self._edits[:-1] + (self._ids != token))
            self._edits = np.minimum.accumulate(change - self._places) + self._places
