"""Simulated evaluations with known error rates: coverage of confidence intervals, and type I error of tests.

    python -m benchmarks.significance --draws 2000

Prints the tables of docs/evaluation.md. Coverage is the share of intervals that contain the true rate. Two recipes with
the same true rate are compared, so that the share of p < 0.05 is the type I error. No data is needed.

"Before" is the earlier method of this project: errors were averaged over seeds and treated as those of one model.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arkasr.evaluate.significance import bootstrap_interval, mean_over_seeds, paired_comparison

# Standard deviations of an utterance's error probability: its difficulty for one recipe and for one training run, and a
# speaker's difficulty for all recipes and for one of them.
RECIPE, TRAINING, SPEAKER, RECIPE_AND_SPEAKER = 0.05, 0.05, 0.1, 0.04
# The same on a hard test set, in logits; and the words that a looping transcript adds, 20 to 99.
HARDNESS, RECIPE_LOGIT, TRAINING_LOGIT, LOOP = 1.0, 0.3, 0.3, (20, 100)
MANY = 1_000_000  # utterances of a true rate
SAMPLES = 200  # of bootstrap and permutation; enough to compare p with 0.05


@dataclass(frozen=True)
class TestSet:
    """Its size; without `speakers`, every utterance has another speaker."""

    utterances: int
    speakers: int | None = None

    def __str__(self) -> str:
        return f"{self.utterances} utterances" + (f", {self.speakers} speakers" if self.speakers else "")

    @property
    def groups(self) -> list[int] | None:
        """The speaker of each utterance."""
        return [number % self.speakers for number in range(self.utterances)] if self.speakers else None


@dataclass(frozen=True)
class Draw:
    """One simulated evaluation of two equal recipes."""

    errors: NDArray[Any]  # [2, seeds, U]
    tokens: NDArray[Any]  # [U]
    seed_effects: NDArray[Any]  # [2, seeds], added to the error probability of all words


@dataclass(frozen=True)
class HardSet:
    """A test set for which intervals are hard to compute.

    Attributes:
        name: in the table.
        median: error probability of a word in the median utterance.
        long: number of utterances of 100 to 299 words, besides 120 of 2 to 5; 0 = 130 utterances of 3 to 9 words.
        looping: share of transcripts with a loop of 20 to 99 words.
        seed_deviation: standard deviation over seeds, in logits.
    """

    name: str
    median: float
    long: int = 0
    looping: float = 0.0
    seed_deviation: float = 0.1

    def tokens(self, generator: np.random.Generator) -> NDArray[Any]:
        """Words of each utterance, `[U]`."""
        if not self.long:
            return generator.integers(3, 10, 130)
        return np.concatenate([generator.integers(2, 6, 120), generator.integers(100, 300, self.long)])


HARD = [
    HardSet("120 short and 6 long utterances", 0.15, long=6),
    HardSet("130 utterances, 0.5% of words wrong", 0.003, seed_deviation=0.0),
    HardSet("130 utterances, 0.4% of transcripts loop", 0.1, looping=0.004),
]
AN4 = TestSet(130)
SPEAKERS = TestSet(400, 10)
CELLS = [
    *((AN4, seeds, seed_deviation) for seeds in (2, 3, 5, 10) for seed_deviation in (0.0, 0.02, 0.06)),
    (TestSet(2000), 3, 0.02),
    *((SPEAKERS, seeds, seed_deviation) for seeds in (3, 10) for seed_deviation in (0.0, 0.02, 0.06)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000, help="simulated evaluations of each row")
    draws = parser.parse_args().draws
    print("Coverage: of the 95% interval of a recipe's rate. Type I: p < 0.05 between two equal recipes.\n")
    print("| test set | seeds | spread over seeds | coverage | type I | before: coverage | type I |")
    print("|---|---|---|---|---|---|---|")
    for cell in CELLS:
        print(row(*cell, draws), flush=True)
    print("\nHard test sets\n")
    print("| test set | seeds | coverage | type I |")
    print("|---|---|---|---|")
    for test_set in HARD:
        for seeds in (2, 3, 10):
            coverage, type_one = hard_set(test_set, seeds, draws)
            print(f"| {test_set.name} | {seeds} | {coverage:.1%} | {type_one:.1%} |", flush=True)
    print("\nOne seed: the interval of the difference contains the true difference of\n")
    print("| test set | spread over seeds | these two models | their recipes |")
    print("|---|---|---|---|")
    for test_set in (AN4, SPEAKERS):
        for seed_deviation in (0.0, 0.02, 0.06):
            models, recipes = one_seed(test_set, seed_deviation, draws)
            print(f"| {test_set} | {100 * seed_deviation:g} points | {models:.1%} | {recipes:.1%} |", flush=True)
    together, split = four_speakers()
    print(f"\nFour speakers in two sets, each better under one recipe: p = {together:.3f}; before: {split:.3f}")


def row(test_set: TestSet, seeds: int, seed_deviation: float, draws: int) -> str:
    """One row; the earlier method is left out for large test sets, because its bootstrap takes minutes."""
    figures = [f"{share:.1%}" for share in several_seeds(test_set, seeds, seed_deviation, draws)]
    before = ["–", "–"]
    if test_set.utterances <= 400:
        before = [f"{share:.1%}" for share in averaged_seeds(test_set, seeds, seed_deviation, draws)]
    return "| " + " | ".join([str(test_set), str(seeds), f"{100 * seed_deviation:g} points", *figures, *before]) + " |"


def several_seeds(test_set: TestSet, seeds: int, seed_deviation: float, draws: int) -> tuple[float, float]:
    """Coverage and type I error of the t interval and test over seeds and utterances (or speakers)."""
    evaluations = simulated(test_set, seeds, seed_deviation, draws)
    return coverage_and_type_one(evaluations, true_rate(test_set, seed_deviation), test_set.groups)


def hard_set(test_set: HardSet, seeds: int, draws: int) -> tuple[float, float]:
    """The same on a hard test set."""
    return coverage_and_type_one(hard_draws(test_set, seeds, draws), true_hard_rate(test_set), None)


def coverage_and_type_one(
    evaluations: Iterable[Draw], true_rate: float, groups: list[int] | None
) -> tuple[float, float]:
    """Share of intervals of a recipe's rate that contain the true one, and share of p < 0.05 between the recipes."""
    covered, significant = [], []
    for draw in evaluations:
        interval = mean_over_seeds(draw.errors[0], draw.tokens, groups=groups).ci95
        p = paired_comparison(*draw.errors, draw.tokens, groups=groups).p
        assert interval is not None
        assert p is not None
        covered.append(interval[0] <= true_rate <= interval[1])
        significant.append(p < 0.05)
    return float(np.mean(covered)), float(np.mean(significant))


def averaged_seeds(test_set: TestSet, seeds: int, seed_deviation: float, draws: int) -> tuple[float, float]:
    """The same of the earlier method: errors averaged over seeds."""
    expected = true_rate(test_set, seed_deviation)
    covered = significant = 0
    for draw in simulated(test_set, seeds, seed_deviation, draws):
        a, b = draw.errors.mean(1)
        interval = bootstrap_interval(a, draw.tokens, groups=test_set.groups, samples=SAMPLES)
        assert interval is not None
        covered += interval[0] <= expected <= interval[1]
        p = paired_comparison(a, b, draw.tokens, groups=test_set.groups, samples=SAMPLES).p
        assert p is not None
        significant += p < 0.05
    return covered / draws, significant / draws


def one_seed(test_set: TestSet, seed_deviation: float, draws: int) -> tuple[float, float]:
    """Share of intervals with the true difference of the two models, and with that of their recipes, which is 0."""
    effects = np.linspace(-5 * seed_deviation, 5 * seed_deviation, 41)
    rates = [true_rate(test_set, 0.0, effect) for effect in effects] if seed_deviation else [0.0] * len(effects)
    of_models = of_recipes = 0
    for draw in simulated(test_set, 1, seed_deviation, draws):
        a, b = np.interp(draw.seed_effects[:, 0], effects, rates)
        comparison = paired_comparison(*draw.errors, draw.tokens, groups=test_set.groups, samples=SAMPLES)
        assert comparison.ci95 is not None
        low, high = comparison.ci95
        of_models += low <= a - b <= high
        of_recipes += low <= 0 <= high
    return of_models / draws, of_recipes / draws


def four_speakers() -> tuple[float, float]:
    """The p of four speakers in two sets: if each is flipped in both sets at once, and if each counts as two."""
    speakers = [1, 2, 3, 4] * 2
    sets = ["a"] * 4 + ["b"] * 4
    a, b, tokens = [2] * 8, [3] * 8, [10] * 8
    together = paired_comparison(a, b, tokens, groups=speakers, strata=sets)
    split = paired_comparison(a, b, tokens, groups=list(zip(speakers, sets, strict=True)))
    assert together.p is not None
    assert split.p is not None
    return together.p, split.p


def simulated(test_set: TestSet, seeds: int, seed_deviation: float, draws: int) -> Iterator[Draw]:
    """Independent evaluations; the same ones for the same arguments."""
    generator = np.random.default_rng([test_set.utterances, seeds, round(1000 * seed_deviation)])
    for _ in range(draws):
        seed_effects = generator.normal(0, seed_deviation, (2, seeds))
        tokens = generator.integers(3, 10, test_set.utterances)
        errors = generator.binomial(tokens, probabilities(test_set, seed_effects, generator))
        yield Draw(errors, tokens, seed_effects)


def hard_draws(test_set: HardSet, seeds: int, draws: int) -> Iterator[Draw]:
    """Independent evaluations on a hard test set; the same ones for the same arguments."""
    generator = np.random.default_rng([seeds, round(1e4 * test_set.median)])
    for _ in range(draws):
        tokens = test_set.tokens(generator)
        seed_effects = generator.normal(0, test_set.seed_deviation, (2, seeds))
        shape = (2, seeds, len(tokens))
        logits = np.log(test_set.median / (1 - test_set.median)) + generator.normal(0, HARDNESS, len(tokens))
        logits = logits + generator.normal(0, RECIPE_LOGIT, (2, 1, len(tokens))) + seed_effects[..., None]
        logits = logits + generator.normal(0, TRAINING_LOGIT, shape)
        errors = generator.binomial(tokens, 1 / (1 + np.exp(-logits)))
        loops = generator.random(shape) < test_set.looping
        yield Draw(errors + loops * generator.integers(*LOOP, shape), tokens, seed_effects)


def probabilities(test_set: TestSet, seed_effects: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """Error probability of a word, `[2, seeds, U]`, by utterance, recipe, speaker and seed."""
    count = test_set.utterances
    difficulty = generator.beta(2, 4, count) + generator.normal(0, RECIPE, (2, 1, count))
    if test_set.speakers:
        speakers = np.array(test_set.groups)
        difficulty = difficulty + generator.normal(0, SPEAKER, test_set.speakers)[speakers]
        difficulty = difficulty + generator.normal(0, RECIPE_AND_SPEAKER, (2, 1, test_set.speakers))[..., speakers]
    of_training = seed_effects[:, :, None] + generator.normal(0, TRAINING, (*seed_effects.shape, count))
    return np.clip(difficulty + of_training, 0, 1)


def true_rate(test_set: TestSet, seed_deviation: float, seed_effect: float = 0.0) -> float:
    """A recipe's error rate, estimated on a million utterances; with `seed_deviation` 0, that of one model."""
    generator = np.random.default_rng(0)
    deviation = np.sqrt(RECIPE**2 + TRAINING**2 + seed_deviation**2)
    difficulty = generator.beta(2, 4, MANY) + seed_effect + generator.normal(0, deviation, MANY)
    if test_set.speakers:
        difficulty += generator.normal(0, np.hypot(SPEAKER, RECIPE_AND_SPEAKER), MANY)
    return float(np.clip(difficulty, 0, 1).mean())


def true_hard_rate(test_set: HardSet) -> float:
    """Error rate, estimated on a million utterances; loops are added to utterances of 6 words, the mean length."""
    deviation = np.sqrt(HARDNESS**2 + RECIPE_LOGIT**2 + TRAINING_LOGIT**2 + test_set.seed_deviation**2)
    logits = np.log(test_set.median / (1 - test_set.median)) + np.random.default_rng(0).normal(0, deviation, MANY)
    return float((1 / (1 + np.exp(-logits))).mean()) + test_set.looping * (sum(LOOP) - 1) / 2 / 6


if __name__ == "__main__":
    main()
