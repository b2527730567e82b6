"""Every utterance of the built-in corpus before synthesis: its text, speaker, voice and recording condition.

A configuration goes in, the specifications of all sets come out, the same on every machine. Train shares no sentence
and no speaker with dev or the test sets. Audio and files are left to others.
"""

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass

from arkasr.data.corpora import conditions
from arkasr.data.corpora.conditions import Condition
from arkasr.data.corpora.espeak import Voice
from arkasr.data.corpora.grammar_en import ENGLISH
from arkasr.data.corpora.grammar_zh import MANDARIN
from arkasr.data.corpora.speakers import DEV_SPEAKERS, HARD_SPEAKERS, TEST_SPEAKERS, TRAIN_SPEAKERS, Speaker
from arkasr.data.seeds import stable_seed
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
_RATE_SCALE_OF_HARD_SPEAKERS = (1.05, 1.15)
_SENTENCES_PER_BABBLER = 2


@dataclass(frozen=True, slots=True)
class SyntheticCorpusConfig:
    """Size and seed of the built-in corpus. Equal configurations give the same corpus, byte for byte."""

    seed: int = 0
    """Another seed gives another corpus: other sentences, other voices, other recording conditions."""

    train_utterances: int = 6000
    """Training utterances, English and Mandarin in turns. A larger number keeps the utterances of a smaller number and
    adds more. At least 1."""

    dev_utterances: int = 60
    """Development utterances of each language. At least 1."""

    test_utterances: int = 100
    """Utterances of each of the five test sets. At least 1."""

    def __post_init__(self) -> None:
        for name in ("train_utterances", "dev_utterances", "test_utterances"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; the built-in corpus needs at least 1")


@dataclass(frozen=True, slots=True)
class UtteranceSpec:
    """One utterance to be synthesised.

    Attributes:
        id: unique in the corpus; begins with the name of its set.
        text: as in the manifest.
        speaker: the speaker.
        voice: the speaker's voice, with the rate and pitch of this utterance.
        condition: the recording condition.
        seed: of everything random in the recording.
    """

    id: str
    text: str
    speaker: Speaker
    voice: Voice
    condition: Condition
    seed: int


@dataclass(frozen=True, slots=True)
class SetSpec:
    """The utterances of one manifest, and the sentences of background speakers, each with its speaker."""

    utterances: list[UtteranceSpec]
    babble: list[tuple[str, Speaker]]


def corpus_specs(config: SyntheticCorpusConfig) -> dict[str, SetSpec]:
    """Every set of the corpus by name: `train`, `dev` and the five test sets."""
    held_out: dict[str, set[str]] = {language: set() for language in LANGUAGES.values()}
    specs = {name: _test_spec(config, name, held_out) for name in TEST_SETS}
    specs["dev"] = _dev_spec(config, held_out)
    return {"train": _train_spec(config, held_out)} | specs


def _test_spec(config: SyntheticCorpusConfig, name: str, held_out: dict[str, set[str]]) -> SetSpec:
    """One test set; adds its sentences to `held_out`."""
    language = LANGUAGES[name[:2]]
    possible = _TEST_CONDITIONS[name]
    hard = name == "en-other"
    speakers = (HARD_SPEAKERS if hard else TEST_SPEAKERS)[language]
    utterances = []
    for number in range(config.test_utterances):
        utterance_id = f"{name}-{number:06d}"
        rng = random.Random(stable_seed(config.seed, utterance_id))
        text = _new_sentence(language, rng, held_out[language])
        held_out[language].add(text)
        speaker = speakers[number % len(speakers)]
        voice = speaker.vary(rng, rate_scale=rng.uniform(*_RATE_SCALE_OF_HARD_SPEAKERS) if hard else 1.0)
        condition = possible[number // len(speakers) % len(possible)]
        utterances.append(UtteranceSpec(utterance_id, text, speaker, voice, condition, rng.getrandbits(64)))
    return SetSpec(utterances, _babble(config, name, speakers, set()))


def _dev_spec(config: SyntheticCorpusConfig, held_out: dict[str, set[str]]) -> SetSpec:
    """The dev set; adds its sentences to `held_out`."""
    utterances = []
    for number in range(2 * config.dev_utterances):
        utterance = _mixed_utterance(config, "dev", number, DEV_SPEAKERS, held_out)
        held_out[utterance.speaker.language].add(utterance.text)
        utterances.append(utterance)
    return SetSpec(utterances, _babble(config, "dev", _all_speakers(DEV_SPEAKERS), set()))


def _train_spec(config: SyntheticCorpusConfig, held_out: dict[str, set[str]]) -> SetSpec:
    utterances = [
        _mixed_utterance(config, "train", number, TRAIN_SPEAKERS, held_out) for number in range(config.train_utterances)
    ]
    babble = _babble(config, "train", _all_speakers(TRAIN_SPEAKERS), set().union(*held_out.values()))
    return SetSpec(utterances, babble)


def _mixed_utterance(
    config: SyntheticCorpusConfig,
    name: str,
    number: int,
    speakers_by_language: dict[str, list[Speaker]],
    held_out: dict[str, set[str]],
) -> UtteranceSpec:
    """Utterance `number` of train or dev: languages take turns, and each speaker speaks once per round."""
    code, language = list(LANGUAGES.items())[number % 2]
    utterance_id = f"{name}-{code}-{number:06d}"
    rng = random.Random(stable_seed(config.seed, utterance_id))
    speakers = list(speakers_by_language[language])
    this_round, turn = divmod(number // 2, len(speakers))
    random.Random(stable_seed(config.seed, name, code, this_round)).shuffle(speakers)
    speaker = speakers[turn]
    text = _new_sentence(language, rng, held_out[language])
    clean = rng.random() < _CLEAN_SHARE_OF_TRAIN
    condition = conditions.CLEAN if clean else rng.choice(conditions.TRAIN_CONDITIONS)
    return UtteranceSpec(utterance_id, text, speaker, speaker.vary(rng), condition, rng.getrandbits(64))


def _babble(
    config: SyntheticCorpusConfig, name: str, speakers: Sequence[Speaker], held_out: Set[str]
) -> list[tuple[str, Speaker]]:
    rng = random.Random(stable_seed(config.seed, name, "babble"))
    return [
        (_new_sentence(speaker.language, rng, held_out), speaker)
        for speaker in speakers
        for _ in range(_SENTENCES_PER_BABBLER)
    ]


def _new_sentence(language: str, rng: random.Random, excluded: Set[str]) -> str:
    while (text := _GRAMMARS[language].sample(rng)) in excluded:
        pass
    return text


def _all_speakers(speakers_by_language: dict[str, list[Speaker]]) -> list[Speaker]:
    return [speaker for speakers in speakers_by_language.values() for speaker in speakers]
