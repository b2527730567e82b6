"""A small context-free grammar: rules go in, random sentences and the grammar's size come out.

A rule is a list of alternatives, each a string of symbols between spaces; a symbol in CAPITALS is another
rule, everything else is spoken. Knows nothing of any language in particular.
"""

import random
from collections.abc import Mapping, Sequence
from functools import cache

START = "SENTENCE"


class Grammar:
    """Sentences that can be derived from the rule `SENTENCE`.

    Args:
        rules: alternatives of every rule, equally probable; one that is listed twice is twice as likely.
        longest: characters in the longest sentence wanted; a longer one is drawn again.
        separator: what stands between two spoken symbols: a space, or nothing where a script has none.

    Raises:
        ValueError: an alternative names a rule that is not there.
    """

    def __init__(self, rules: Mapping[str, Sequence[str]], *, longest: int, separator: str = " ") -> None:
        self._rules = {name: [tuple(line.split()) for line in lines] for name, lines in rules.items()}
        self._longest = longest
        self._separator = separator
        for name, alternatives in self._rules.items():
            for symbol in {symbol for alternative in alternatives for symbol in alternative}:
                if symbol.isupper() and symbol not in self._rules:
                    raise ValueError(f"rule {name} names {symbol}, which is not a rule")

    def sample(self, rng: random.Random) -> str:
        """One sentence, drawn with `rng`."""
        while True:
            sentence = self._separator.join(self._expand(START, rng))
            if len(sentence) <= self._longest:
                return sentence

    def _expand(self, symbol: str, rng: random.Random) -> list[str]:
        if symbol not in self._rules:
            return [symbol]
        return [word for part in rng.choice(self._rules[symbol]) for word in self._expand(part, rng)]

    @property
    def terminals(self) -> set[str]:
        """Every spoken symbol of the rules."""
        symbols = {symbol for lines in self._rules.values() for line in lines for symbol in line}
        return symbols - self._rules.keys()

    def derivations(self) -> int:
        """How many derivations of any length there are, counting apart two that give the same words."""

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
