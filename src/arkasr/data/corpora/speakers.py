"""Speakers of the built-in corpus: espeak-ng accents and voice variants, split into train, dev and test.

Train, dev and test share no voice variant, in either language. A test speaker therefore has a new vocal tract, not only
a new pitch. Every accent is in train. Sentences and recordings are left to others.
"""

import random
from dataclasses import dataclass
from itertools import cycle

from arkasr.data.corpora.espeak import Voice
from arkasr.data.seeds import stable_seed

# Left out: whispers, robots, variants with a formant that no human has, near-duplicates of a chosen variant.
_TRAIN_VARIANTS = [
    *("m1", "f1", "m2", "f3", "m4", "Andrea", "shelby", "belinda", "m6", "aunty", "m7", "grandma"),
    *("Denis", "anika", "Michael", "edward", "marcelo", "pablo", "sandro", "klatt4"),
    *("victor", "antonio", "Hugo", "pedro"),
]
_DEV_VARIANTS = ["max", "linda", "Mario", "paul"]
_TEST_VARIANTS = ["m3", "f2", "robert", "f5", "michel", "Annie", "m5", "f4"]
_HARD_VARIANTS = ["m8", "steph", "grandpa", "klatt6", "Storm", "Alicia", "ed", "Tweaky"]

_ENGLISH_ACCENTS = ("en-US", "en", "en-GB-x-rp")


@dataclass(frozen=True, slots=True)
class Speaker:
    """One speaker of the corpus; every utterance varies its rate and pitch a little.

    Attributes:
        id: the speaker's name in the manifests.
        language: canonical English name of the language spoken.
        voice: with this speaker's average rate, pitch and pitch range.
    """

    id: str
    language: str
    voice: Voice

    def vary(self, rng: random.Random, *, rate_scale: float = 1.0) -> Voice:
        """The voice for one utterance, with random rate and pitch."""
        return Voice(
            self.voice.language,
            self.voice.variant,
            rate=round(self.voice.rate * rate_scale * rng.uniform(0.93, 1.07)),
            pitch=self.voice.pitch + rng.randint(-5, 5),
            pitch_range=self.voice.pitch_range + rng.randint(-8, 8),
        )


def _speakers(split: str, language: str, variants: list[str]) -> list[Speaker]:
    accents = [f"gmw/{accent}" for accent in _ENGLISH_ACCENTS] if language == "English" else ["sit/cmn"]
    code = "en" if language == "English" else "zh"
    speakers = []
    for number, (variant, accent) in enumerate(zip(variants, cycle(accents), strict=False)):
        name = f"{code}-{split}-{number:02d}"
        rng = random.Random(stable_seed("speaker", name))
        voice = Voice(accent, variant, rng.randint(170, 200), rng.randint(38, 62), rng.randint(40, 60))
        speakers.append(Speaker(name, language, voice))
    return speakers


def _speakers_by_language(split: str, variants: list[str]) -> dict[str, list[Speaker]]:
    return {language: _speakers(split, language, variants) for language in ("English", "Chinese")}


TRAIN_SPEAKERS = _speakers_by_language("train", _TRAIN_VARIANTS)
DEV_SPEAKERS = _speakers_by_language("dev", _DEV_VARIANTS)
TEST_SPEAKERS = _speakers_by_language("test", _TEST_VARIANTS)
HARD_SPEAKERS = _speakers_by_language("hard", _HARD_VARIANTS)
