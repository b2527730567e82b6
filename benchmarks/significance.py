"""Simulated evaluations: how often intervals cover the truth, and how often two equal recipes seem to differ.

    python -m benchmarks.significance --draws 2000

Both recipes have the same true error rate, so every p < 0.05 is an error of the first kind. "Before" averages the
errors of an utterance over the seeds and treats the mean as one model, which this project did until it counted seeds.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arkasr.evaluate.significance import bootstrap_interval, mean_over_seeds, paired_comparison

# Standard deviations of an utterance's error probability, as a share: what a recipe finds hard, what a training finds
# hard, and how hard a speaker is, for all recipes and for one of them.
RECIPE, TRAINING, SPEAKER, RECIPE_AND_SPEAKER = 0.05, 0.05, 0.1, 0.04
# The same on a hard test set, in logits; and the words that a looping transcript adds, the last one left out.
HARDNESS, RECIPE_LOGIT, TRAINING_LOGIT, LOOP = 1.0, 0.3, 0.3, (20, 100)
SAMPLES = 200  # of bootstrap and permutation: p is compared with 0.05 only


@dataclass(frozen=True)
class TestSet:
    """Its size; without speakers, every utterance is of another one."""

    utterances: int
    speakers: int | None = None

    def __str__(self) -> str:
        return f"{self.utterances} utterances" + (f", {self.speakers} speakers" if self.speakers else "")

    @property
    def groups(self) -> list[int] | None:
        """Who speaks."""
        return [place % self.speakers for place in range(self.utterances)] if self.speakers else None


@dataclass(frozen=True)
class Draw:
    """An evaluation of two equal recipes: `errors` `[2, seeds, U]`, `tokens` `[U]`, and the luck `[2, seeds]`."""

    errors: NDArray[Any]
    tokens: NDArray[Any]
    luck: NDArray[Any]


@dataclass(frozen=True)
class HardSet:
    """A test set that intervals find hard.

    Attributes:
        name: in the table.
        centre: error probability of a word in the middle utterance.
        long: utterances of 100 to 299 words, beside 120 of 2 to 5; 0 = 130 utterances of 3 to 9 words.
        looping: share of transcripts that repeat themselves, for 20 to 99 words.
        luck: standard deviation over seeds, in logits.
    """

    name: str
    centre: float
    long: int = 0
    looping: float = 0.0
    luck: float = 0.1

    def tokens(self, generator: np.random.Generator) -> NDArray[Any]:
        """Words of each utterance, `[U]`."""
        if not self.long:
            return generator.integers(3, 10, 130)
        return np.concatenate([generator.integers(2, 6, 120), generator.integers(100, 300, self.long)])


HARD = [
    HardSet("120 short and 6 long utterances", 0.15, long=6),
    HardSet("130 utterances, 0.5% of words wrong", 0.003, luck=0.0),
    HardSet("130 utterances, 0.4% of transcripts loop", 0.1, looping=0.004),
]
AN4 = TestSet(130)
SPEAKERS = TestSet(400, 10)
CELLS = [
    *((AN4, seeds, spread) for seeds in (2, 3, 5, 10) for spread in (0.0, 0.02, 0.06)),
    (TestSet(2000), 3, 0.02),
    *((SPEAKERS, seeds, spread) for seeds in (3, 10) for spread in (0.0, 0.02, 0.06)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000, help="simulated evaluations of each line")
    draws = parser.parse_args().draws
    print("Coverage: of the 95% interval of a recipe's rate. Type I: p < 0.05 between two equal recipes.\n")
    print("| test set | seeds | spread over seeds | coverage | type I | before: coverage | type I |")
    print("|---|---|---|---|---|---|---|")
    for cell in CELLS:
        print(line(*cell, draws), flush=True)
    print("\nHard test sets\n")
    print("| test set | seeds | coverage | type I |")
    print("|---|---|---|---|")
    for hard in HARD:
        for seeds in (2, 3, 10):
            coverage, type_one = hard_set(hard, seeds, draws)
            print(f"| {hard.name} | {seeds} | {coverage:.1%} | {type_one:.1%} |", flush=True)
    print("\nOne seed: the interval of the difference covers that of\n")
    print("| test set | spread over seeds | these two models | their recipes |")
    print("|---|---|---|---|")
    for test_set in (AN4, SPEAKERS):
        for spread in (0.0, 0.02, 0.06):
            models, recipes = one_seed(test_set, spread, draws)
            print(f"| {test_set} | {100 * spread:g} points | {models:.1%} | {recipes:.1%} |", flush=True)
    whole, split = four_speakers()
    print(f"\nFour speakers in two sets, each better under one recipe: p = {whole:.3f}; before: {split:.3f}")


def line(test_set: TestSet, seeds: int, spread: float, draws: int) -> str:
    """A line of the table; the bootstrap of before is left out where it would take minutes."""
    figures = [f"{share:.1%}" for share in several_seeds(test_set, seeds, spread, draws)]
    before = ["–", "–"]
    if test_set.utterances <= 400:
        before = [f"{share:.1%}" for share in averaged_seeds(test_set, seeds, spread, draws)]
    return "| " + " | ".join([str(test_set), str(seeds), f"{100 * spread:g} points", *figures, *before]) + " |"


def several_seeds(test_set: TestSet, seeds: int, spread: float, draws: int) -> tuple[float, float]:
    """Coverage and type I error of the t interval and test over seeds and utterances (or speakers)."""
    return shares(simulated(test_set, seeds, spread, draws), true_rate(test_set, spread), test_set.groups)


def hard_set(hard: HardSet, seeds: int, draws: int) -> tuple[float, float]:
    """The same on a hard test set."""
    return shares(hard_draws(hard, seeds, draws), true_hard_rate(hard), None)


def shares(evaluations: Iterable[Draw], truth: float, groups: list[int] | None) -> tuple[float, float]:
    """How often the interval of a recipe's rate covers the truth, and how often p < 0.05 between the two recipes."""
    covered, found = [], []
    for draw in evaluations:
        interval = mean_over_seeds(draw.errors[0], draw.tokens, groups=groups).ci95
        p = paired_comparison(*draw.errors, draw.tokens, groups=groups).p
        assert interval is not None
        assert p is not None
        covered.append(interval[0] <= truth <= interval[1])
        found.append(p < 0.05)
    return float(np.mean(covered)), float(np.mean(found))


def averaged_seeds(test_set: TestSet, seeds: int, spread: float, draws: int) -> tuple[float, float]:
    """The same of what was done before."""
    truth = true_rate(test_set, spread)
    covered = found = 0
    for draw in simulated(test_set, seeds, spread, draws):
        a, b = draw.errors.mean(1)
        interval = bootstrap_interval(a, draw.tokens, groups=test_set.groups, samples=SAMPLES)
        assert interval is not None
        covered += interval[0] <= truth <= interval[1]
        p = paired_comparison(a, b, draw.tokens, groups=test_set.groups, samples=SAMPLES).p
        assert p is not None
        found += p < 0.05
    return covered / draws, found / draws


def one_seed(test_set: TestSet, spread: float, draws: int) -> tuple[float, float]:
    """How often the interval of a difference covers that of the two models, and that of their recipes, which is 0."""
    lucks = np.linspace(-5 * spread, 5 * spread, 41)
    rates = [true_rate(test_set, 0.0, luck) for luck in lucks] if spread else [0.0] * len(lucks)
    of_models = of_recipes = 0
    for draw in simulated(test_set, 1, spread, draws):
        a, b = np.interp(draw.luck[:, 0], lucks, rates)
        comparison = paired_comparison(*draw.errors, draw.tokens, groups=test_set.groups, samples=SAMPLES)
        assert comparison.ci95 is not None
        low, high = comparison.ci95
        of_models += low <= a - b <= high
        of_recipes += low <= 0 <= high
    return of_models / draws, of_recipes / draws


def four_speakers() -> tuple[float, float]:
    """The p of four speakers in two sets, each flipped as a whole, and as two speakers, one a set."""
    speakers = [1, 2, 3, 4] * 2
    sets = ["a"] * 4 + ["b"] * 4
    a, b, tokens = [2] * 8, [3] * 8, [10] * 8
    whole = paired_comparison(a, b, tokens, groups=speakers, strata=sets)
    split = paired_comparison(a, b, tokens, groups=list(zip(speakers, sets, strict=True)))
    assert whole.p is not None
    assert split.p is not None
    return whole.p, split.p


def simulated(test_set: TestSet, seeds: int, spread: float, draws: int) -> Iterator[Draw]:
    """Independent evaluations; the same ones for the same arguments."""
    generator = np.random.default_rng([test_set.utterances, seeds, round(1000 * spread)])
    for _ in range(draws):
        luck = generator.normal(0, spread, (2, seeds))
        tokens = generator.integers(3, 10, test_set.utterances)
        errors = generator.binomial(tokens, probabilities(test_set, luck, generator))
        yield Draw(errors, tokens, luck)


def hard_draws(hard: HardSet, seeds: int, draws: int) -> Iterator[Draw]:
    """Independent evaluations on a hard test set; the same ones for the same arguments."""
    generator = np.random.default_rng([seeds, round(1e4 * hard.centre)])
    for _ in range(draws):
        tokens = hard.tokens(generator)
        luck = generator.normal(0, hard.luck, (2, seeds))
        shape = (2, seeds, len(tokens))
        logits = np.log(hard.centre / (1 - hard.centre)) + generator.normal(0, HARDNESS, len(tokens))
        logits = logits + generator.normal(0, RECIPE_LOGIT, (2, 1, len(tokens))) + luck[..., None]
        logits = logits + generator.normal(0, TRAINING_LOGIT, shape)
        errors = generator.binomial(tokens, 1 / (1 + np.exp(-logits)))
        loops = generator.random(shape) < hard.looping
        yield Draw(errors + loops * generator.integers(*LOOP, shape), tokens, luck)


def probabilities(test_set: TestSet, luck: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """Of an error in a word, `[2, seeds, U]`: an utterance's difficulty, and what two recipes and their seeds add."""
    count = test_set.utterances
    hard = generator.beta(2, 4, count) + generator.normal(0, RECIPE, (2, 1, count))
    if test_set.speakers:
        who = np.array(test_set.groups)
        hard = hard + generator.normal(0, SPEAKER, test_set.speakers)[who]
        hard = hard + generator.normal(0, RECIPE_AND_SPEAKER, (2, 1, test_set.speakers))[..., who]
    trained = luck[:, :, None] + generator.normal(0, TRAINING, (*luck.shape, count))
    return np.clip(hard + trained, 0, 1)


def true_rate(test_set: TestSet, spread: float, luck: float = 0.0) -> float:
    """A recipe's error rate over endless seeds, speakers and utterances; with `spread` 0, that of one model."""
    generator = np.random.default_rng(0)
    endless = TestSet(1_000_000, 1_000_000 if test_set.speakers else None)
    deviation = np.sqrt(RECIPE**2 + TRAINING**2 + spread**2)
    hard = generator.beta(2, 4, endless.utterances) + luck + generator.normal(0, deviation, endless.utterances)
    if test_set.speakers:
        hard += generator.normal(0, np.hypot(SPEAKER, RECIPE_AND_SPEAKER), endless.utterances)
    return float(np.clip(hard, 0, 1).mean())


def true_hard_rate(hard: HardSet) -> float:
    """Over endless seeds and utterances; loops add their words to an utterance of 6, the mean length."""
    deviation = np.sqrt(HARDNESS**2 + RECIPE_LOGIT**2 + TRAINING_LOGIT**2 + hard.luck**2)
    logits = np.log(hard.centre / (1 - hard.centre)) + np.random.default_rng(0).normal(0, deviation, 1_000_000)
    return float((1 / (1 + np.exp(-logits))).mean()) + hard.looping * (sum(LOOP) - 1) / 2 / 6


if __name__ == "__main__":
    main()
