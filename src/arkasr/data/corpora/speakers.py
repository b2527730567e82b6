"""Who speaks in the built-in corpus: espeak-ng accents and voice variants, as train, dev and test speakers.

No variant is heard in two of train, dev and test, in either language, so that an unknown speaker is an
unknown vocal tract and not only another pitch. Every accent is heard in training. Knows nothing of sentences
or recordings.
"""

import random
from dataclasses import dataclass
from itertools import cycle

from arkasr.data.corpora.espeak import Voice
from arkasr.data.corpora.seeds import seed_of

# Left out: whispers, robots, variants with a formant where no human has one, near-twins of a chosen variant.
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
    """One voice of the corpus; every utterance varies its rate and pitch a little.

    Attributes:
        id: the speaker's name in the manifests.
        language: canonical English name of the language spoken.
        voice: rate, pitch and pitch range are this speaker's usual ones.
    """

    id: str
    language: str
    voice: Voice

    def vary(self, rng: random.Random, *, haste: float = 1.0) -> Voice:
        """The voice for one utterance; `haste` multiplies the rate."""
        return Voice(
            self.voice.language,
            self.voice.variant,
            rate=round(self.voice.rate * haste * rng.uniform(0.93, 1.07)),
            pitch=self.voice.pitch + rng.randint(-5, 5),
            pitch_range=self.voice.pitch_range + rng.randint(-8, 8),
        )


def _speakers(split: str, language: str, variants: list[str]) -> list[Speaker]:
    accents = [f"gmw/{accent}" for accent in _ENGLISH_ACCENTS] if language == "English" else ["sit/cmn"]
    code = "en" if language == "English" else "zh"
    speakers = []
    for number, (variant, accent) in enumerate(zip(variants, cycle(accents), strict=False)):
        name = f"{code}-{split}-{number:02d}"
        rng = random.Random(seed_of("speaker", name))
        voice = Voice(accent, variant, rng.randint(170, 200), rng.randint(38, 62), rng.randint(40, 60))
        speakers.append(Speaker(name, language, voice))
    return speakers


def _of_both(split: str, variants: list[str]) -> dict[str, list[Speaker]]:
    return {language: _speakers(split, language, variants) for language in ("English", "Chinese")}


TRAIN_SPEAKERS = _of_both("train", _TRAIN_VARIANTS)
DEV_SPEAKERS = _of_both("dev", _DEV_VARIANTS)
TEST_SPEAKERS = _of_both("test", _TEST_VARIANTS)
HARD_SPEAKERS = _of_both("hard", _HARD_VARIANTS)
