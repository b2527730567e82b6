"""The `data` commands: check, cut, prepare, degrade, index, shards."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from arkasr.cli.app import data_app
from arkasr.errors import InputError


@data_app.command("check")
def data_check(
    manifest: Annotated[Path, typer.Argument(help="Manifest to check.")],
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every file.")] = False,
) -> None:
    """Check every line of a manifest and summarise it."""
    from arkasr.data.manifests.check import check_manifest, render

    report = check_manifest(manifest, decode_audio=decode)
    Console().print(render(report))
    if report.problems:
        raise InputError(f"{manifest}: {len(report.problems)} problems; correct the lines listed above")


@data_app.command("cut")
def data_cut(
    sources: Annotated[
        list[str], typer.Argument(metavar="AUDIO...", help="Recordings, folders of them, or manifests.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Manifest to write.")],
    piece_seconds: Annotated[float, typer.Option(min=1, max=30, help="Longest piece.")] = 30.0,
    language: Annotated[str | None, typer.Option(help="Language of recordings that name none.")] = None,
) -> None:
    """Write a manifest of the speech in recordings of any length, in pieces that a model can hear."""
    from arkasr.data.languages import canonical_language
    from arkasr.data.manifests.manifest import write_manifest
    from arkasr.data.replacing import reserve_outputs
    from arkasr.progress import Progress
    from arkasr.transcribe.cut_manifest import CutManifest, summary_of
    from arkasr.transcribe.inputs import audio_files, is_pipe, open_inputs

    if pipe := next((source for source in sources if is_pipe(source)), None):
        raise InputError(f"{pipe}: a manifest cannot name audio from a pipe; save the audio to a file")
    known_language = {} if language is None else {"language": canonical_language(language)}
    with (
        open_inputs(sources, find_speech=None) as inputs,
        reserve_outputs([output], inputs=[*map(Path, sources), *audio_files(inputs)]),
    ):
        cut = CutManifest(output, piece_seconds)
        with Progress().count("cut", len(inputs)) as advance:
            rows = [known_language | row for row in cut.rows(inputs, advance)]
        write_manifest(output, rows)
        cut.remove_finished()
    print(f"{output}: {summary_of(rows)}")
    if cut.texts_left_out:
        print(f"{cut.texts_left_out} texts are left out, because their recordings were cut")
    if cut.problems:
        raise InputError(f"{len(cut.problems)} recordings cannot be read; the first: {cut.problems[0]}")


@data_app.command("prepare")
def data_prepare(
    corpus: Annotated[str, typer.Argument(help="an4, dspspeech20, librispeech or spoken-digits.")],
    source: Annotated[Path | None, typer.Option("--from", help="Folder of the corpus or of its manifests.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the manifests.")] = Path("data"),
) -> None:
    """Write manifests of a corpus, with normalised text and its official split."""
    from arkasr.data.corpora.prepare import prepare_corpus

    if source is None:
        raise InputError(f"data prepare {corpus}: give the folder of the corpus with --from DIR")
    prepared = prepare_corpus(corpus, source, output)
    print(prepared.summary())


@data_app.command("degrade")
def data_degrade(
    manifest: Annotated[Path, typer.Argument(help="Recordings to degrade.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the copies and their manifest.")],
    effects: Annotated[
        list[str],
        typer.Option("--set", help="A key of a recipe's `degradation`: --set 'telephone={probability: 1}'."),
    ],
    seed: Annotated[int, typer.Option(help="Seed of the random choices.")] = 0,
) -> None:
    """Write degraded copies of recordings, to test how a model copes with noise, rooms or codecs."""
    from arkasr.data.degradation.copies import write_degraded_copies
    from arkasr.data.degradation.settings import DegradationSettings
    from arkasr.data.manifests.manifest import read_manifest
    from arkasr.progress import Progress
    from arkasr.recipe.load import apply_overrides, parse

    settings = parse(DegradationSettings, apply_overrides({}, effects), "data degrade")
    with Progress().count("degrade", len(read_manifest(manifest))) as advance:
        copy = write_degraded_copies(manifest, output, settings, seed=seed, on_utterance=advance)
    print(copy)


@data_app.command("index")
def data_index(manifest: Annotated[Path, typer.Argument(help="Manifest to index.")]) -> None:
    """Write the index of a large manifest; an existing index is replaced."""
    from arkasr.run.sets import index_with_progress

    index = index_with_progress(manifest, anew=True)
    print(
        f"{manifest}: {len(index)} utterances, languages: {', '.join(name or 'none given' for name in index.languages)}"
    )


@data_app.command("shards")
def data_shards(
    sources: Annotated[
        list[Path], typer.Argument(metavar="TAR...", help="Uncompressed tar shards, or folders of them.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Manifest to write.")],
) -> None:
    """Write the manifest of tar shards (WebDataset); the audio stays in the shards."""
    from arkasr.data.manifests.manifest import write_manifest
    from arkasr.data.manifests.shards import find_shards, rows_of_shards
    from arkasr.data.replacing import reserve_outputs
    from arkasr.progress import Progress

    shards = find_shards(sources)
    unreadable: list[str] = []
    with reserve_outputs([output], inputs=shards), Progress().count("shards", len(shards)) as advance:
        write_manifest(output, rows_of_shards(shards, output.parent, advance, unreadable.append))
    print(f"{output}: the samples of {len(shards)} shards")
    if unreadable:
        print(f"{len(unreadable)} samples cannot be read, and training leaves them out; the first: {unreadable[0]}")
