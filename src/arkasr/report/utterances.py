"""The utterances of a test set: reference, every variant's transcript with its errors marked, and audio.

In: a `Run`, and limits on the size of the page. Out: aligned texts and audio clips.
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
from arkasr.evaluate.error_rate import AlignedToken, align_tokens
from arkasr.evaluate.normalize import Profile, Unit, get_profile
from arkasr.report.clips import Clip, embedded_clip
from arkasr.report.run_folder import Run

Row = Mapping[str, Any]  # one utterance of a transcript file


@dataclass(frozen=True)
class Limits:
    """Limits on the size of a page. Utterances with the most errors, summed over variants, are kept.

    Attributes:
        utterances_per_set: utterances shown per test set.
        clips_per_set: recordings embedded per test set.
        clip_seconds: longer recordings are not embedded.
    """

    utterances_per_set: int = 300
    clips_per_set: int = 40
    clip_seconds: float = 30.0


@dataclass(frozen=True)
class AlignmentChunk:
    """Consecutive aligned tokens of one kind, joined as text.

    Attributes:
        kind: `equal`, `substitute`, `delete` or `insert`.
        reference: empty for an insertion.
        hypothesis: empty for a deletion.
    """

    kind: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class AlignedTranscript:
    """One variant's transcript of an utterance, aligned with the reference.

    Attributes:
        variant: name in the recipe.
        chunks: the alignment; empty if the transcription failed.
        errors: substitutions, deletions and insertions; None if the transcription failed or there is no reference.
        reference_tokens: words or characters of the reference.
        failure: why there is no transcript.
    """

    variant: str
    chunks: list[AlignmentChunk]
    errors: int | None = None
    reference_tokens: int = 0
    failure: str | None = None


@dataclass(frozen=True)
class ShownUtterance:
    """One utterance of a test set.

    Attributes:
        id: of the manifest.
        facts: speaker, language and length, if known.
        language_code: ISO 639; None if unknown.
        reference: normalised text; None if the manifest has none.
        transcripts: of the variants, in the recipe's order.
        clip: the recording; None if it is over `Limits.clips_per_set`.
    """

    id: str
    facts: list[str]
    language_code: str | None
    reference: str | None
    transcripts: list[AlignedTranscript]
    clip: Clip | None

    def errors_of(self, variant: str) -> int:
        """Errors of one variant; 0 if its transcription failed or is missing."""
        return sum(transcript.errors or 0 for transcript in self.transcripts if transcript.variant == variant)


@dataclass(frozen=True)
class ShownTestSet:
    """The utterances of a test set on the page, in the manifest's order.

    Attributes:
        name: of the set.
        unit: `word` or `character`.
        utterances: at most `Limits.utterances_per_set`.
        total: number of utterances in the test set.
        seed: training seed of the transcripts.
    """

    name: str
    unit: Unit
    utterances: list[ShownUtterance]
    total: int
    seed: int

    @property
    def left_out(self) -> int:
        """Number of utterances that are not on the page."""
        return self.total - len(self.utterances)

    @property
    def without_clip(self) -> int:
        """Number of utterances over `Limits.clips_per_set`."""
        return sum(item.clip is None for item in self.utterances)

    @property
    def clips(self) -> int:
        """Number of embedded recordings."""
        return sum(item.clip is not None and item.clip.uri is not None for item in self.utterances)


def load_shown_test_set(run: Run, name: str, limits: Limits) -> ShownTestSet:
    """Read every variant's transcripts of a test set, of the run's first seed, and encode the recordings."""
    score = next(score for score in run.scores if score.set == name)
    profile = get_profile(score.normalizer)
    unit: Unit = "word" if score.metric == "wer" else "character"
    seed = run.seeds[0]
    rows: dict[str, dict[str, Row]] = {}
    for variant in run.variants:
        for row in run.transcripts(variant, seed, name):
            rows.setdefault(str(row.get("id")), {})[variant] = row
    shown = _hardest(rows, list(rows), limits.utterances_per_set)
    with_clip = _hardest(rows, shown, limits.clips_per_set)
    recordings = [_any_row(rows[key]) for key in with_clip]
    # Threads help because encoding releases the GIL.
    with ThreadPoolExecutor() as pool:
        encoded = pool.map(partial(embedded_clip, max_seconds=limits.clip_seconds), recordings)
        clips = dict(zip(with_clip, encoded, strict=True))
    utterances = [_utterance(key, rows[key], profile, unit, clips.get(key)) for key in shown]
    return ShownTestSet(name, unit, utterances, len(rows), seed)


def _hardest(rows: Mapping[str, Mapping[str, Row]], keys: Sequence[str], limit: int) -> list[str]:
    """The `limit` utterances with the most errors over all variants, in the order of `keys`."""
    errors = {key: sum(row.get("errors") or 0 for row in rows[key].values()) for key in keys}
    kept = set(sorted(keys, key=lambda key: -errors[key])[:limit])
    return [key for key in keys if key in kept]


def _any_row(rows: Mapping[str, Row]) -> Row:
    """The row of any variant; the manifest's fields are the same in all of them."""
    return next(iter(rows.values()))


def _utterance(key: str, rows: Mapping[str, Row], profile: Profile, unit: Unit, clip: Clip | None) -> ShownUtterance:
    row = _any_row(rows)
    text = row.get("text")
    reference = None if text is None else profile(text)
    transcripts = [_transcript(variant, row, reference, profile, unit) for variant, row in rows.items()]
    return ShownUtterance(key, _facts(row), _language_code(row), reference, transcripts, clip)


def _transcript(variant: str, row: Row, reference: str | None, profile: Profile, unit: Unit) -> AlignedTranscript:
    if row.get("pred_text") is None:
        return AlignedTranscript(variant, [], failure=str(row.get("error") or "no transcript"))
    hypothesis = profile(row["pred_text"])
    if reference is None:
        return AlignedTranscript(variant, [AlignmentChunk("equal", hypothesis, hypothesis)])
    tokens = align_tokens(reference, hypothesis, unit)
    chunks = [_chunk(kind, list(same), unit) for kind, same in groupby(tokens, key=attrgetter("kind"))]
    errors = sum(token.kind != "equal" for token in tokens)
    return AlignedTranscript(variant, chunks, errors, sum(token.kind != "insert" for token in tokens))


def _chunk(kind: str, tokens: Sequence[AlignedToken], unit: Unit) -> AlignmentChunk:
    separator = " " if unit == "word" else ""
    reference = separator.join(token.reference for token in tokens if token.reference is not None)
    hypothesis = separator.join(token.hypothesis for token in tokens if token.hypothesis is not None)
    return AlignmentChunk(kind, reference, hypothesis)


def _facts(row: Row) -> list[str]:
    facts = [str(row[name]) for name in ("speaker", "language") if row.get(name)]
    seconds = row.get("duration")
    return [*facts, f"{seconds:.1f} s"] if isinstance(seconds, (int, float)) else facts


def _language_code(row: Row) -> str | None:
    try:
        return LANGUAGE_CODES[canonical_language(str(row.get("language")))]
    except InputError:
        return None
