"""Commands that use a model outside a recipe: label, transcribe, evaluate, compare, convert."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from arkasr.cli.app import BatchSeconds, app
from arkasr.errors import InputError


@app.command()
def label(
    manifest: Annotated[Path, typer.Argument(help="Manifest of the audio to label; its `text` is ignored.")],
    teacher: Annotated[str, typer.Option(help="Folder or hub name of the teacher.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Manifest to write.")],
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of a label.")] = 256,
    batch_seconds: BatchSeconds = 120.0,
    engine: Annotated[str, typer.Option(help="own, or vllm: run the teacher in vLLM.")] = "own",
    cache_gib: Annotated[float, typer.Option(help="With vllm: memory for keys and values, GiB.")] = 4.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
) -> None:
    """Label a manifest with a teacher. Obvious failures go to a second file, with reasons."""
    from arkasr.recipe.load import parse
    from arkasr.recognizers.inference import RecognitionSettings
    from arkasr.run.label_command import label_manifest
    from arkasr.train.settings import EngineSettings

    decoding = parse(EngineSettings, {"engine": engine, "cache_gib": cache_gib}, "label")
    settings = RecognitionSettings(batch_seconds, max_new_tokens)
    counts = label_manifest(manifest, teacher, output, settings, decoding, overwrite=overwrite)
    print(" ".join(f"{reason}={count}" for reason, count in counts.items()))


@app.command()
def transcribe(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Audio files, folders, manifests (.jsonl), or - for standard input."),
    ],
    model: Annotated[str, typer.Option(help="Folder or hub name.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="File, or DIR/ for one file per recording; default: print.")
    ] = None,
    format_name: Annotated[
        str | None, typer.Option("--format", help="jsonl, json, txt, srt or vtt; default: by the suffix of -o.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Language of recordings that name none. Qwen3-ASR needs one, Whisper detects it.")
    ] = None,
    vad: Annotated[
        bool | None,
        typer.Option(
            "--vad/--no-vad",
            help="Detect speech also in recordings of up to 30 s, or the model's window; default: in files, not in "
            "manifests. Longer recordings are always cut at pauses.",
        ),
    ] = None,
    piece_seconds: Annotated[
        float | None,
        typer.Option(
            help="Longest piece of a recording that is cut; default 30, for srt and vtt 10, or a shorter window of the "
            "model."
        ),
    ] = None,
    word_times: Annotated[
        str | None,
        typer.Option(metavar="ALIGNER", help="Folder or hub name of a Qwen3 forced aligner or a Whisper model."),
    ] = None,
    batch_seconds: BatchSeconds = 120.0,
    batch_size: Annotated[int | None, typer.Option(help="Most pieces in a batch.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of a piece.")] = 256,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; default: the accelerator if there is one.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16 or auto; default float32 on the CPU, else bfloat16.")
    ] = None,
    attention: Annotated[str | None, typer.Option(help="sdpa, eager or flash_attention_2.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of a hub name.")] = None,
) -> None:
    """Transcribe recordings of any length."""
    from arkasr.data.audio import LONGEST_CLIP_SECONDS
    from arkasr.data.replacing import files_of_model, reserve_outputs
    from arkasr.transcribe.inputs import open_inputs, path_or_descriptor

    with ExitStack() as stack:
        inputs = stack.enter_context(open_inputs(sources, find_speech=vad))
        # These import PyTorch: a wrong path is reported before.
        from arkasr.progress import Progress
        from arkasr.recognizers.precision import dtype_named
        from arkasr.transcribe import command
        from arkasr.transcribe.transcriber import Transcriber, TranscriptionSettings

        models = [path for name in (model, word_times) if name for path in files_of_model(name)]
        target = command.target_of(output, format_name, inputs, [*map(path_or_descriptor, sources), *models])
        stack.enter_context(reserve_outputs(target.locked))
        default_seconds = 10.0 if target.format_name in ("srt", "vtt") else LONGEST_CLIP_SECONDS
        transcriber = Transcriber(
            model,
            revision=revision,
            device=device,
            dtype=dtype_named(dtype) if dtype else None,
            attention=attention,
            language=language,
            aligner=word_times,
            settings=TranscriptionSettings(piece_seconds, batch_seconds, batch_size, max_new_tokens, default_seconds),
        )
        name = f"{model}@{revision}" if revision else model
        with Progress().audio("transcribe", len(inputs)) as on_progress:
            outcome = command.transcribe_inputs(transcriber, inputs, target, name, on_progress)
    if warning := outcome.warning(target.format_name, max_new_tokens):
        print(f"arkasr: {warning}", file=sys.stderr)
    if problems := outcome.problems:
        raise InputError(
            f"{len(problems)} of {len(inputs)} recordings not transcribed, or not completely; the first: {problems[0]}"
        )


@app.command()
def evaluate(
    manifest: Annotated[Path, typer.Argument(help="Audio with reference text.")],
    model: Annotated[str, typer.Option(help="Folder or hub name.")],
    normalizer: Annotated[str, typer.Option(help="Normaliser profile.")] = "basic",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for the transcripts, JSON Lines.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of a transcript.")] = 256,
    batch_seconds: BatchSeconds = 120.0,
) -> None:
    """Transcribe a manifest and print its error rate with a 95% interval."""
    from arkasr.recognizers.device import default_device
    from arkasr.recognizers.inference import RecognitionSettings
    from arkasr.run.evaluate_command import evaluate_manifest

    settings = RecognitionSettings(batch_seconds, max_new_tokens)
    for line in evaluate_manifest(manifest, model, normalizer, output, settings, default_device()):
        print(line)


@app.command()
def compare(
    transcripts: Annotated[list[Path], typer.Argument(help="Two or more outputs of `evaluate -o`.")],
    normalizer: Annotated[str, typer.Option(help="Normaliser profile.")] = "basic",
) -> None:
    """Compare the first system with each of the others on the same utterances."""
    from arkasr.run.compare_command import compare_transcripts

    for line in compare_transcripts(transcripts, normalizer):
        print(line)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Folder or hub name of an Ark-ASR or Whisper model.")],
    destination: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    layout: Annotated[
        str | None,
        typer.Option(help="Of Ark-ASR: published or transformers; default: the one that the source does not have."),
    ] = None,
    window_seconds: Annotated[
        float | None, typer.Option(help="Of Whisper: a window shorter than 30 s, in whole seconds.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.")] = "auto",
    max_shard_size: Annotated[str, typer.Option(help="Largest file.")] = "5GB",
) -> None:
    """Convert an Ark-ASR checkpoint to the other layout, or a Whisper model to a shorter window."""
    from arkasr.recognizers.convert import convert as convert_checkpoint
    from arkasr.recognizers.convert import convert_window

    if window_seconds is None:
        written_layout = convert_checkpoint(source, destination, layout, dtype, max_shard_size)
        print(f"{destination}: {written_layout} layout")
        return
    if layout is not None:
        raise InputError("--layout and --window-seconds: give one; only Ark-ASR has layouts, and only Whisper a window")
    convert_window(source, destination, window_seconds, dtype, max_shard_size)
    print(f"{destination}: window of {window_seconds:g} s")
