"""A guess at what a recogniser will write, and the place in it once the recogniser is seen to write something else.

A draft decides only how much is asked for at once, never what is written. In: what the model says at every place of a
guess. Out: the next guess. Knows nothing of models.
"""

from collections.abc import Sequence

import numpy as np

# After a mistake so many tokens are guessed, then twice as many with each guess that was all right, the token behind it
# included, and none any more after so many guesses in a row of which nothing was right.
TOKENS_AFTER_A_MISTAKE = 16
PATIENCE = 12
# So many tokens in a row that are all right stand in the right place of the draft, and need not be aligned one by one.
RUN_THAT_ANCHORS = 4
# Standing behind the token just written makes a place of the draft as likely as so many edits make it unlikely.
EDITS_OF_THE_LAST_TOKEN = 2.5


class Draft:
    """The draft of one transcript and the place reached in it.

    What was written is aligned with the draft by edit distance, so that a word more or less moves the place and not
    the words after it.

    Args:
        tokens: the draft; what follows the first stop token is left out. Empty = no guess.
        stop_token_id: ends a transcript.
    """

    def __init__(self, tokens: Sequence[int], stop_token_id: int) -> None:
        tokens = list(tokens)
        self._tokens = tokens[: tokens.index(stop_token_id)] if stop_token_id in tokens else tokens
        self._ids = np.array(self._tokens, dtype=np.int64)
        self._place = 0
        self._places = self._edits = np.arange(len(self._tokens) + 1)
        self._failures = 0
        self._longest_guess = len(self._tokens)

    def guess(self, most: int) -> list[int]:
        """The next tokens as far as they can be guessed, at most so many; the stop token is never among them."""
        return self._tokens[self._place : self._place + min(most, self._longest_guess)]

    def see(self, guess: Sequence[int], said: list[int]) -> int:
        """Take in what the model says, and go to the place behind its own next token.

        Args:
            guess: `[m]`, what `guess` gave.
            said: `[m + 1]`, the model's token at the place of each token of the guess, and the one after the last.

        Returns:
            How many tokens of the guess the model agrees with; its own next token is the one said behind them.
        """
        agreed = next((place for place, token in enumerate(guess) if token != said[place]), len(guess))
        if not self._tokens:
            return agreed
        own, expected = said[agreed], self._place + agreed
        self._align(said[: agreed + 1], expected)
        self._failures = 0 if agreed or not guess else self._failures + 1
        all_right = expected < len(self._tokens) and own == self._tokens[expected]
        self._longest_guess = 2 * self._longest_guess if all_right else TOKENS_AFTER_A_MISTAKE
        if self._failures == PATIENCE:
            self._tokens = []
        elif all_right:
            self._place = expected + 1
        else:
            self._place = self._likeliest_place(expected + 1, own)
        return agreed

    def _likeliest_place(self, expected: int, own: int) -> int:
        cost = self._edits + EDITS_OF_THE_LAST_TOKEN
        cost[1:] -= EDITS_OF_THE_LAST_TOKEN * (self._ids == own)
        return min(np.flatnonzero(cost == cost.min()).tolist(), key=lambda place: abs(place - expected))

    def _align(self, said: Sequence[int], agreed_to: int) -> None:
        """Count the edits from all that is written to the draft up to every place.

        Args:
            said: what is newly written: what agrees with the draft up to the place `agreed_to`, and one more token.
            agreed_to: a place of the draft.
        """
        if len(said) > RUN_THAT_ANCHORS:
            self._edits = abs(self._places - agreed_to)
            said = said[-1:]
        for token in said:
            change = self._edits + 1
            change[1:] = np.minimum(change[1:], self._edits[:-1] + (self._ids != token))
            self._edits = np.minimum.accumulate(change - self._places) + self._places
