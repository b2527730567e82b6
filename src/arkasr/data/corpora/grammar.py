"""A small context-free grammar: rules go in, random sentences and the grammar's size come out.

A rule is a list of alternatives. An alternative is a string of symbols separated by spaces. A symbol in CAPITALS
refers to a rule; every other symbol is a terminal. The module is independent of the language.
"""

import random
from collections.abc import Mapping, Sequence
from functools import cache

START = "SENTENCE"


class Grammar:
    """Sentences that can be derived from the rule `SENTENCE`.

    Args:
        rules: alternatives of every rule, equally probable; an alternative listed twice is twice as likely.
        max_characters: longer sentences are rejected and sampled again.
        separator: between two terminals; empty for scripts without spaces.

    Raises:
        ValueError: an alternative refers to a missing rule.
    """

    def __init__(self, rules: Mapping[str, Sequence[str]], *, max_characters: int, separator: str = " ") -> None:
        self._rules = {name: [tuple(line.split()) for line in lines] for name, lines in rules.items()}
        self._max_characters = max_characters
        self._separator = separator
        for name, alternatives in self._rules.items():
            for symbol in {symbol for alternative in alternatives for symbol in alternative}:
                if symbol.isupper() and symbol not in self._rules:
                    raise ValueError(f"rule {name} names {symbol}, which is not a rule")

    def sample(self, rng: random.Random) -> str:
        """One random sentence."""
        while True:
            sentence = self._separator.join(self._expand(START, rng))
            if len(sentence) <= self._max_characters:
                return sentence

    def _expand(self, symbol: str, rng: random.Random) -> list[str]:
        if symbol not in self._rules:
            return [symbol]
        return [word for part in rng.choice(self._rules[symbol]) for word in self._expand(part, rng)]

    @property
    def terminals(self) -> set[str]:
        """Every terminal of the rules."""
        symbols = {symbol for lines in self._rules.values() for line in lines for symbol in line}
        return symbols - self._rules.keys()

    def derivations(self) -> int:
        """Number of derivations of any length; two derivations of the same words count twice."""

        @cache
        def count(symbol: str) -> int:
            if symbol not in self._rules:
                return 1
            total = 0
            for alternative in set(self._rules[symbol]):
                product = 1
                for part in alternative:
                    product *= count(part)
                total += product
            return total

        return count(START)
