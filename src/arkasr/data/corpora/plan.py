"""The built-in corpus before it is spoken: every utterance's text, speaker, voice and recording condition.

A configuration goes in, the lines of all sets come out, the same ones everywhere. Sentences and speakers of
dev and of the tests are never in train. Knows nothing of audio or files.
"""

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass

from arkasr.data.corpora import conditions
from arkasr.data.corpora.conditions import Condition
from arkasr.data.corpora.espeak import Voice
from arkasr.data.corpora.grammar_en import ENGLISH
from arkasr.data.corpora.grammar_zh import MANDARIN
from arkasr.data.corpora.seeds import seed_of
from arkasr.data.corpora.speakers import DEV_SPEAKERS, HARD_SPEAKERS, TEST_SPEAKERS, TRAIN_SPEAKERS, Speaker
from arkasr.errors import InputError

LANGUAGES = {"en": "English", "zh": "Chinese"}

_TEST_CONDITIONS = {
    "en-clean": (conditions.CLEAN,),
    "en-other": conditions.OTHER_CONDITIONS,
    "zh-read": (conditions.CLEAN,),
    "zh-meeting": conditions.MEETING_CONDITIONS,
    "zh-net": conditions.NET_CONDITIONS,
}
TEST_SETS = tuple(_TEST_CONDITIONS)

_GRAMMARS = {"English": ENGLISH, "Chinese": MANDARIN}
_CLEAN_SHARE_OF_TRAIN = 0.6
_HASTE_OF_HARD_SPEAKERS = (1.05, 1.15)
_SENTENCES_PER_BABBLER = 2


@dataclass(frozen=True, slots=True)
class SyntheticCorpusConfig:
    """How much built-in speech, and which. The same configuration is the same corpus, byte for byte."""

    seed: int = 0
    """Another seed gives another corpus: other sentences, other voices, other recording conditions."""

    train_utterances: int = 6000
    """Training utterances, English and Mandarin in turns. A larger number adds to those of a smaller one. At least
    1."""

    dev_utterances: int = 60
    """Development utterances of each language. At least 1."""

    test_utterances: int = 100
    """Utterances of each of the five test sets. At least 1."""

    def __post_init__(self) -> None:
        for name in ("train_utterances", "dev_utterances", "test_utterances"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; the built-in corpus needs at least 1")


@dataclass(frozen=True, slots=True)
class Line:
    """One utterance to be spoken and recorded.

    Attributes:
        id: unique in the corpus; begins with its set's name.
        text: what is said, as the manifest has it.
        speaker: who says it.
        voice: how it is said this time.
        condition: how it is recorded.
        seed: of everything random in the recording.
    """

    id: str
    text: str
    speaker: Speaker
    voice: Voice
    condition: Condition
    seed: int


@dataclass(frozen=True, slots=True)
class SetPlan:
    """The lines of one manifest, and what is heard when others babble in them: a text and who says it."""

    lines: list[Line]
    babble: list[tuple[str, Speaker]]


def plan_corpus(config: SyntheticCorpusConfig) -> dict[str, SetPlan]:
    """Every set of the corpus by name: `train`, `dev` and the five test sets."""
    held_out: dict[str, set[str]] = {language: set() for language in LANGUAGES.values()}
    plans = {name: _plan_test(config, name, held_out) for name in TEST_SETS}
    plans["dev"] = _plan_dev(config, held_out)
    return {"train": _plan_train(config, held_out)} | plans


def _plan_test(config: SyntheticCorpusConfig, name: str, held_out: dict[str, set[str]]) -> SetPlan:
    language = LANGUAGES[name[:2]]
    possible = _TEST_CONDITIONS[name]
    hard = name == "en-other"
    speakers = (HARD_SPEAKERS if hard else TEST_SPEAKERS)[language]
    lines = []
    for number in range(config.test_utterances):
        line_id = f"{name}-{number:06d}"
        rng = random.Random(seed_of(config.seed, line_id))
        text = _new_sentence(language, rng, held_out[language])
        held_out[language].add(text)
        speaker = speakers[number % len(speakers)]
        voice = speaker.vary(rng, haste=rng.uniform(*_HASTE_OF_HARD_SPEAKERS) if hard else 1.0)
        condition = possible[number // len(speakers) % len(possible)]
        lines.append(Line(line_id, text, speaker, voice, condition, rng.getrandbits(64)))
    return SetPlan(lines, _babble(config, name, speakers, set()))


def _plan_dev(config: SyntheticCorpusConfig, held_out: dict[str, set[str]]) -> SetPlan:
    lines = []
    for number in range(2 * config.dev_utterances):
        line = _mixed_line(config, "dev", number, DEV_SPEAKERS, held_out)
        held_out[line.speaker.language].add(line.text)
        lines.append(line)
    return SetPlan(lines, _babble(config, "dev", _both(DEV_SPEAKERS), set()))


def _plan_train(config: SyntheticCorpusConfig, held_out: dict[str, set[str]]) -> SetPlan:
    lines = [
        _mixed_line(config, "train", number, TRAIN_SPEAKERS, held_out) for number in range(config.train_utterances)
    ]
    return SetPlan(lines, _babble(config, "train", _both(TRAIN_SPEAKERS), set().union(*held_out.values())))


def _mixed_line(
    config: SyntheticCorpusConfig,
    name: str,
    number: int,
    speakers_of: dict[str, list[Speaker]],
    held_out: dict[str, set[str]],
) -> Line:
    """Line `number` of train or dev: languages in turns, every speaker once a round, half of it clean."""
    code, language = list(LANGUAGES.items())[number % 2]
    line_id = f"{name}-{code}-{number:06d}"
    rng = random.Random(seed_of(config.seed, line_id))
    speakers = list(speakers_of[language])
    this_round, place = divmod(number // 2, len(speakers))
    random.Random(seed_of(config.seed, name, code, this_round)).shuffle(speakers)
    speaker = speakers[place]
    text = _new_sentence(language, rng, held_out[language])
    clean = rng.random() < _CLEAN_SHARE_OF_TRAIN
    condition = conditions.CLEAN if clean else rng.choice(conditions.TRAIN_CONDITIONS)
    return Line(line_id, text, speaker, speaker.vary(rng), condition, rng.getrandbits(64))


def _babble(
    config: SyntheticCorpusConfig, name: str, speakers: Sequence[Speaker], held_out: Set[str]
) -> list[tuple[str, Speaker]]:
    rng = random.Random(seed_of(config.seed, name, "babble"))
    return [
        (_new_sentence(speaker.language, rng, held_out), speaker)
        for speaker in speakers
        for _ in range(_SENTENCES_PER_BABBLER)
    ]


def _new_sentence(language: str, rng: random.Random, taken: Set[str]) -> str:
    while (text := _GRAMMARS[language].sample(rng)) in taken:
        pass
    return text


def _both(speakers_of: dict[str, list[Speaker]]) -> list[Speaker]:
    return [speaker for speakers in speakers_of.values() for speaker in speakers]
