"""What every variant wrote for the utterances of a test set, beside the reference, errors marked.

In: a `Run`, and limits on what a page may hold. Out: utterances with aligned words and sound. Knows nothing of
HTML.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

from arkasr.data.languages import LANGUAGE_CODES, canonical_language
from arkasr.errors import InputError
from arkasr.evaluate.error_rate import AlignedToken, align
from arkasr.evaluate.normalize import Profile, Unit, get_profile
from arkasr.report.clips import Clip, clip_of
from arkasr.report.run_folder import Run

Row = Mapping[str, Any]  # a line of a transcripts file


@dataclass(frozen=True)
class Limits:
    """What keeps a page small enough to open.

    Attributes:
        utterances_per_set: utterances shown of each test set: those with the most errors, all variants added up.
        clips_per_set: of these, how many can be listened to: again those with the most errors.
        clip_seconds: longer recordings are not embedded.
    """

    utterances_per_set: int = 300
    clips_per_set: int = 40
    clip_seconds: float = 30.0


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of one kind, `equal`, `substitute`, `delete` or `insert`, joined as text.

    Attributes:
        kind: how the two sides differ.
        reference: what was said; empty for an insertion.
        written: what was written; empty for a deletion.
    """

    kind: str
    reference: str
    written: str


@dataclass(frozen=True)
class Attempt:
    """What one variant made of an utterance.

    Attributes:
        variant: name in the recipe.
        pieces: what it wrote beside what was said.
        errors: substitutions, deletions and insertions; None where it failed or there is no reference.
        reference_tokens: words or characters of the reference.
        failure: why nothing was written.
    """

    variant: str
    pieces: list[Piece]
    errors: int | None = None
    reference_tokens: int = 0
    failure: str | None = None


@dataclass(frozen=True)
class Item:
    """One utterance of a test set.

    Attributes:
        id: of the manifest.
        facts: speaker, language and length, where known.
        language_code: ISO 639, where known.
        reference: normalised text, or None.
        attempts: of the variants, in the recipe's order.
        clip: the recording; None where the page has no room for it.
    """

    id: str
    facts: list[str]
    language_code: str | None
    reference: str | None
    attempts: list[Attempt]
    clip: Clip | None

    def errors_of(self, variant: str) -> int:
        """Of one variant; 0 where it failed or is missing."""
        return sum(attempt.errors or 0 for attempt in self.attempts if attempt.variant == variant)


@dataclass(frozen=True)
class ShownSet:
    """The utterances of a test set that a page shows, in the manifest's order.

    Attributes:
        name: of the set.
        unit: `word` or `character`.
        items: at most `Limits.utterances_per_set`.
        total: utterances of the whole set.
        seed: whose transcripts these are.
    """

    name: str
    unit: Unit
    items: list[Item]
    total: int
    seed: int

    @property
    def left_out(self) -> int:
        """Utterances that are not among the items."""
        return self.total - len(self.items)

    @property
    def without_clip(self) -> int:
        """Items whose recording the page has no room for."""
        return sum(item.clip is None for item in self.items)

    @property
    def clips(self) -> int:
        """Items that can be listened to."""
        return sum(item.clip is not None and item.clip.uri is not None for item in self.items)


def load_shown_set(run: Run, name: str, limits: Limits) -> ShownSet:
    """Read what every variant wrote for a test set under the run's first seed, and embed recordings."""
    score = next(score for score in run.scores if score.set == name)
    profile = get_profile(score.normalizer.partition("@")[0])
    unit: Unit = "word" if score.metric == "wer" else "character"
    seed = run.seeds[0]
    rows: dict[str, dict[str, Row]] = {}
    for variant in run.variants:
        for row in run.transcripts(variant, seed, name):
            rows.setdefault(str(row.get("id")), {})[variant] = row
    shown = _hardest(rows, list(rows), limits.utterances_per_set)
    heard = _hardest(rows, shown, limits.clips_per_set)
    recordings = [_any_row(rows[key]) for key in heard]
    # Encoding releases the interpreter's lock.
    with ThreadPoolExecutor() as pool:
        encoded = pool.map(partial(clip_of, longest=limits.clip_seconds), recordings)
        clips = dict(zip(heard, encoded, strict=True))
    items = [_item(key, rows[key], profile, unit, clips.get(key)) for key in shown]
    return ShownSet(name, unit, items, len(rows), seed)


def _hardest(rows: Mapping[str, Mapping[str, Row]], keys: Sequence[str], most: int) -> list[str]:
    """The `most` utterances with the most errors over all variants, in the order they came in."""
    errors = {key: sum(row.get("errors") or 0 for row in rows[key].values()) for key in keys}
    kept = set(sorted(keys, key=lambda key: -errors[key])[:most])
    return [key for key in keys if key in kept]


def _any_row(rows: Mapping[str, Row]) -> Row:
    """What the manifest says of an utterance is the same in every variant's row."""
    return next(iter(rows.values()))


def _item(key: str, rows: Mapping[str, Row], profile: Profile, unit: Unit, clip: Clip | None) -> Item:
    row = _any_row(rows)
    text = row.get("text")
    reference = None if text is None else profile(text)
    attempts = [_attempt(variant, written, reference, profile, unit) for variant, written in rows.items()]
    return Item(key, _facts(row), _language_code(row), reference, attempts, clip)


def _attempt(variant: str, row: Row, reference: str | None, profile: Profile, unit: Unit) -> Attempt:
    if row.get("pred_text") is None:
        return Attempt(variant, [], failure=str(row.get("error") or "no transcript"))
    written = profile(row["pred_text"])
    if reference is None:
        return Attempt(variant, [Piece("equal", written, written)])
    tokens = align(reference, written, unit)
    pieces = [_piece(kind, list(same), unit) for kind, same in groupby(tokens, key=attrgetter("kind"))]
    errors = sum(token.kind != "equal" for token in tokens)
    return Attempt(variant, pieces, errors, sum(token.kind != "insert" for token in tokens))


def _piece(kind: str, tokens: Sequence[AlignedToken], unit: Unit) -> Piece:
    between = " " if unit == "word" else ""
    reference = between.join(token.reference for token in tokens if token.reference is not None)
    return Piece(kind, reference, between.join(token.hypothesis for token in tokens if token.hypothesis is not None))


def _facts(row: Row) -> list[str]:
    facts = [str(row[name]) for name in ("speaker", "language") if row.get(name)]
    seconds = row.get("duration")
    return [*facts, f"{seconds:.1f} s"] if isinstance(seconds, (int, float)) else facts


def _language_code(row: Row) -> str | None:
    try:
        return LANGUAGE_CODES[canonical_language(str(row.get("language")))]
    except InputError:
        return None
