"""Checks a manifest before training: a summary, and every problem with its line number."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from arkasr.data.audio import LONGEST_CLIP_SECONDS, duration_of, is_silent
from arkasr.data.manifests.durations import check_duration
from arkasr.data.manifests.manifest import DURATION_TOLERANCE, Problem, Utterance, parse_manifest
from arkasr.errors import InputError


@dataclass(frozen=True)
class ManifestReport:
    """Summary of a manifest.

    Attributes:
        utterances: number of lines that could be parsed.
        seconds: duration of each utterance that passed the check.
        without_text: utterances without a transcript; OPD and TD can use them.
        languages: number of utterances by language; None = no language given.
        speakers: number of different speakers.
        problems: every bad line, in order.
    """

    utterances: int
    seconds: list[float]
    without_text: int
    languages: dict[str | None, int]
    speakers: int
    problems: list[Problem]


def check_manifest(path: str | Path, *, decode_audio: bool = False) -> ManifestReport:
    """Check every line of a manifest against the header of its audio file.

    Args:
        path: the manifest.
        decode_audio: also decode every file and report those that are silent.

    Raises:
        InputError: the manifest does not exist or is empty.
    """
    parsed, problems = parse_manifest(path)
    problems = list(problems)
    seconds = []
    for line, utterance in parsed.items():
        try:
            seconds.append(_measure(utterance, decode_audio))
        except InputError as error:
            problems.append(Problem(line, str(error)))
    utterances = list(parsed.values())
    return ManifestReport(
        utterances=len(utterances),
        seconds=seconds,
        without_text=sum(utterance.text is None for utterance in utterances),
        languages=dict(Counter(utterance.language for utterance in utterances).most_common()),
        speakers=len({utterance.speaker for utterance in utterances if utterance.speaker is not None}),
        problems=sorted(problems, key=lambda problem: problem.line),
    )


def render(report: ManifestReport) -> RenderableType:
    """The report for a terminal."""
    table = Table(show_header=False, box=None)
    table.add_row("utterances", str(report.utterances))
    if report.seconds:
        low, fifth, median, ninety_fifth, high = np.quantile(report.seconds, [0, 0.05, 0.5, 0.95, 1])
        table.add_row("hours", f"{sum(report.seconds) / 3600:.3f}")
        table.add_row(
            "seconds",
            f"{median:.1f} median, {fifth:.1f} to {ninety_fifth:.1f} for 90%, {low:.1f} to {high:.1f} for all",
        )
    languages = ", ".join(f"{language or 'not given'} {count}" for language, count in report.languages.items())
    table.add_row("languages", languages)
    table.add_row("speakers", str(report.speakers))
    table.add_row("without text", str(report.without_text))
    too_long = sum(seconds > LONGEST_CLIP_SECONDS for seconds in report.seconds)
    consequence = " (training and scoring refuse them)" if too_long else ""
    table.add_row(f"over {LONGEST_CLIP_SECONDS:g} s", f"{too_long}{consequence}")
    table.add_row("bad lines", str(len(report.problems)))
    lines = [Text(f"line {problem.line}: {problem.message}", style="red") for problem in report.problems]
    return Group(table, *lines)


def _measure(utterance: Utterance, decode_audio: bool) -> float:
    """Seconds of the utterance's audio, after checking it."""
    file_seconds = duration_of(utterance.audio)
    begin = utterance.begin_time or 0.0
    end = utterance.end_time if utterance.end_time is not None else file_seconds
    if begin >= file_seconds or end > file_seconds + DURATION_TOLERANCE:
        raise InputError(
            f"the piece from {begin:g} to {end:g} s is not in the file, which is {file_seconds:.2f} s long; "
            "correct `begin_time` and `end_time`"
        )
    check_duration(utterance.duration, end - begin, str(utterance.audio))
    # Silence with an empty text is intended.
    if decode_audio and is_silent(utterance.audio, begin, end) and utterance.text != "":
        raise InputError("every sample is zero; leave out the line, or give it an empty `text`")
    return end - begin
