"""The command line: parse, call, print. Bad input is one line on standard error and exit code 2."""

import signal
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from transformers.utils import logging as transformers_logging

from arkasr.errors import InputError, Interrupted, ToldByFirst, nearest_of

# Typer carries a click of its own and does not name this class; it is what its BadParameter is derived from.
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="arkasr",
    help="Data-efficient speech recognition by on-policy distillation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Check and prepare manifests.", no_args_is_help=True)
app.add_typer(data_app, name="data")

INTERRUPTED = 130  # what Typer, too, makes of a keyboard interrupt
FIRST_SIGNAL_STATUS = 128  # a process that a signal ends has this exit status and the signal's number on top
TRAINING_KINDS = ("ctc", "sft", "opd")
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.SUB=VALUE", help="Override a key of the file; may be repeated."),
]
BATCH_SECONDS = Annotated[float, typer.Option(help="Audio seconds decoded at once.")]


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that is there.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny models, data and step counts; same code.")] = False,
    overrides: Overrides = None,
) -> None:
    """Run a recipe from its first stage to the report."""
    from arkasr import processes
    from arkasr.recipe.load import load_settings
    from arkasr.recipe.progress import Progress
    from arkasr.recipe.run import run_recipe
    from arkasr.recipe.settings import Recipe
    from arkasr.recipe.smoke import shrink
    from arkasr.report.terminal import print_results

    settings = load_settings(Recipe, recipe, overrides or [])
    if smoke:
        settings = shrink(settings)
    processes.start()
    folder = run_recipe(settings, output or Path("runs") / settings.name, resume=resume, progress=Progress())
    if settings.evaluation.sets and processes.is_first():
        print_results(folder.path, Console())
        print(f"report: {folder.path / 'report.html'}")
    processes.finish()


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    gpus: Annotated[int | None, typer.Option(min=1, help="Say what it costs on so many devices.")] = None,
    hours: Annotated[float, typer.Option(min=0, help="Hours of audio that the days are for.")] = 100_000,
    device: Annotated[str, typer.Option(help="h100, h200, a100, or a file of `python -m benchmarks.plan`.")] = "h100",
    utterance_seconds: Annotated[float, typer.Option(min=0.1, max=30, help="Length of an utterance.")] = 10,
    tokens_per_second: Annotated[float, typer.Option(min=0, help="Of a transcript, for a second of audio.")] = 4,
    draft_error: Annotated[float, typer.Option(min=0, max=1, help="Wrong words in a draft, share of 1.")] = 0.05,
    smoke: Annotated[bool, typer.Option("--smoke", help="What `run --smoke` would do.")] = False,
    overrides: Overrides = None,
) -> None:
    """Check a recipe and print its stages, and with --gpus their cost, without data or models."""
    from arkasr.recipe.load import load_settings
    from arkasr.recipe.plan import plan_table, variants_table
    from arkasr.recipe.settings import Recipe
    from arkasr.recipe.smoke import shrink

    settings = load_settings(Recipe, recipe, overrides or [])
    if smoke:
        settings = shrink(settings)
    console = Console()
    console.print(plan_table(settings))
    console.print(variants_table(settings))
    if gpus is None:
        return
    from arkasr.cost import tables
    from arkasr.cost.assumptions import Assumptions
    from arkasr.cost.device import device_called
    from arkasr.cost.estimate import Cluster, stage_costs

    cluster = Cluster(device_called(device), gpus)
    assumed = Assumptions(utterance_seconds, tokens_per_second, draft_error)
    costs = stage_costs(settings, cluster, assumed)
    console = Console(width=max(console.width, tables.WIDTH))
    console.print(tables.time_table(costs, cluster))
    console.print(tables.speed_table(costs, hours))
    console.print(tables.memory_table(costs, cluster.device))
    stages = [*tables.fits(costs, cluster.device), *tables.not_counted(settings)]
    for line in [*stages, "", *tables.basis(cluster.device, assumed)]:
        console.print(line, highlight=False, soft_wrap=True)


@app.command()
def train(
    kind: Annotated[str, typer.Argument(help="ctc, sft or opd.")],
    config: Annotated[Path, typer.Argument(help="Recipe file with one stage of that kind.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that is there.")] = False,
    stage: Annotated[str | None, typer.Option(help="Which stage, when there are several of the kind.")] = None,
    overrides: Overrides = None,
) -> None:
    """Run one training stage of a recipe file, and nothing else."""
    from arkasr import processes
    from arkasr.recipe.load import load_settings
    from arkasr.recipe.progress import Progress
    from arkasr.recipe.run import run_one_stage
    from arkasr.recipe.settings import Recipe

    settings = load_settings(Recipe, config, overrides or [])
    name = the_stage(settings.stages, kind, stage, config)
    processes.start()
    place = run_one_stage(settings, name, output or Path("runs") / settings.name, resume=resume, progress=Progress())
    if processes.is_first():
        print(f"model: {place}")
    processes.finish()


@app.command()
def calibrate(
    config: Annotated[Path, typer.Argument(help="Recipe file with an opd stage.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the run that holds earlier stages.")] = None,
    stage: Annotated[str | None, typer.Option(help="Which opd stage, when there are several.")] = None,
    overrides: Overrides = None,
) -> None:
    """Measure rollouts and support without an optimizer step, and say whether OPD is likely to work."""
    from arkasr.recipe.load import load_settings
    from arkasr.recipe.run import calibrate_stage
    from arkasr.recipe.settings import Recipe

    settings = load_settings(Recipe, config, overrides or [])
    name = the_stage(settings.stages, "opd", stage, config)
    calibration = calibrate_stage(settings, name, output or Path("runs") / settings.name)
    console = Console()
    for metric, value in sorted(calibration.metrics.items()):
        console.print(f"{metric:<36} {value:.4f}", highlight=False)
    for warning in calibration.warnings:
        console.print(f"doubtful: {warning}", highlight=False, soft_wrap=True)
    if not calibration.warnings:
        console.print("verdict: nothing seen speaks against OPD", highlight=False)


def the_stage(stages: dict[str, Any], kind: str, name: str | None, source: Path) -> str:
    """The one stage of a kind, or the one asked for.

    Raises:
        InputError: no such kind trains, no stage is of it, or there are several to choose from.
    """
    if kind not in TRAINING_KINDS:
        raise InputError(f"train {kind}: {nearest_of(kind, TRAINING_KINDS)}")
    names = [stage for stage, settings in stages.items() if settings.kind == kind]
    if name is not None:
        names = [stage for stage in names if stage == name]
    if len(names) == 1:
        return names[0]
    if not names:
        raise InputError(f"{source}: no stage of kind {kind}" + (f" called {name!r}" if name else ""))
    raise InputError(f"{source}: several stages of kind {kind}; choose with --stage: {', '.join(names)}")


@app.command()
def label(
    manifest: Annotated[Path, typer.Argument(help="Audio to label; its own text is not looked at.")],
    teacher: Annotated[str, typer.Option(help="Folder or hub name of the teacher.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Manifest to write.")],
    max_new_tokens: Annotated[int, typer.Option(help="Cap on the tokens of a label.")] = 256,
    batch_seconds: BATCH_SECONDS = 120.0,
    engine: Annotated[str, typer.Option(help="own, or vllm: the teacher in vLLM, beside this process.")] = "own",
    cache_gib: Annotated[float, typer.Option(help="vllm: memory for keys and values, GiB.")] = 4.0,
) -> None:
    """Write a teacher's transcripts as labels, less its obvious failures (kept beside, with reasons)."""
    from arkasr.data.manifest import read_manifest, write_manifest
    from arkasr.data.replacing import files_of_model, refuse_to_replace
    from arkasr.model.device import default_device
    from arkasr.model.recognize import RecognitionSettings
    from arkasr.recipe.engines import engine_while_needed
    from arkasr.recipe.load import parse
    from arkasr.recipe.progress import Progress
    from arkasr.teacher.label import label as label_utterances
    from arkasr.teacher.load import load_recognizer
    from arkasr.train.settings import EngineSettings

    decoding = parse(EngineSettings, {"engine": engine, "cache_gib": cache_gib}, "label")
    utterances = read_manifest(manifest)
    dropped = output.with_suffix(".dropped.jsonl")
    audio = (utterance.audio for utterance in utterances)
    refuse_to_replace([manifest, *files_of_model(teacher), *audio], [output, dropped])
    # The accelerator is vLLM's, where vLLM writes.
    recognizer = load_recognizer(teacher, device=str(default_device()) if engine == "own" else "cpu")
    settings = RecognitionSettings(batch_seconds, max_new_tokens)
    with (
        engine_while_needed(recognizer, decoding, max_new_tokens) as writer,
        Progress().count("label", len(utterances)) as advance,
    ):
        labels = label_utterances(recognizer, utterances, settings, engine=writer, on_batch=advance)
    write_manifest(output, labels.rows)
    write_manifest(dropped, labels.dropped)
    print(" ".join(f"{reason}={count}" for reason, count in labels.counts.items()))


@app.command()
def transcribe(
    sources: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Audio files, folders, manifests (.jsonl), or - .")
    ],
    model: Annotated[str, typer.Option(help="Folder or hub name.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="File, or folder (DIR/) for a file each; default: print.")
    ] = None,
    format_name: Annotated[
        str | None, typer.Option("--format", help="jsonl, json, txt, srt or vtt; default: as -o is called.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Of recordings that name none; Qwen3-ASR needs it.")] = None,
    vad: Annotated[
        bool | None,
        typer.Option(
            "--vad/--no-vad",
            help="Look for speech in recordings of up to 30 s too; default: in files, not in manifests. "
            "Longer ones are always cut at pauses.",
        ),
    ] = None,
    piece_seconds: Annotated[
        float | None, typer.Option(help="Longest piece of what is cut; default 30, for srt and vtt 10.")
    ] = None,
    word_times: Annotated[
        str | None, typer.Option(metavar="ALIGNER", help="Folder or hub name of a Qwen3 forced aligner.")
    ] = None,
    batch_seconds: BATCH_SECONDS = 120.0,
    batch_size: Annotated[int | None, typer.Option(help="Pieces decoded at once, at most.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Cap on the tokens of a piece.")] = 256,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; default: the accelerator if there is one.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16 or auto; default float32 on the CPU, else bfloat16.")
    ] = None,
    attention: Annotated[str | None, typer.Option(help="sdpa, eager or flash_attention_2.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of a hub name.")] = None,
) -> None:
    """Write down what is said in recordings of any length."""
    from arkasr.data.replacing import files_of_model
    from arkasr.recipe.progress import Progress
    from arkasr.teacher.load import dtype_named
    from arkasr.transcribe import command
    from arkasr.transcribe.inputs import opened, read_at
    from arkasr.transcribe.transcriber import Transcriber, TranscriptionSettings

    with opened(sources, find_speech=vad) as inputs:
        models = [path for name in (model, word_times) if name for path in files_of_model(name)]
        target = command.target_of(output, format_name, inputs, [*map(read_at, sources), *models])
        seconds = piece_seconds or (10.0 if target.format_name in ("srt", "vtt") else 30.0)
        transcriber = Transcriber(
            model,
            revision=revision,
            device=device,
            dtype=dtype_named(dtype) if dtype else None,
            attention=attention,
            language=language,
            aligner=word_times,
            settings=TranscriptionSettings(seconds, batch_seconds, batch_size, max_new_tokens),
        )
        with Progress().audio("transcribe", len(inputs)) as on_progress:
            problems = command.run(transcriber, inputs, target, f"{model}@{revision or ''}", on_progress)
    if problems:
        raise InputError(f"{len(problems)} of {len(inputs)} recordings not (wholly) transcribed; first: {problems[0]}")


@app.command()
def evaluate(
    manifest: Annotated[Path, typer.Argument(help="Audio with reference text.")],
    model: Annotated[str, typer.Option(help="Folder or hub name.")],
    normalizer: Annotated[str, typer.Option(help="Profile for text before scoring.")] = "basic",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Transcripts, JSON Lines.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Cap on the tokens of a transcript.")] = 256,
    batch_seconds: BATCH_SECONDS = 120.0,
) -> None:
    """Transcribe a manifest and print its error rate with a 95% interval."""
    from arkasr.model.device import default_device
    from arkasr.model.recognize import RecognitionSettings
    from arkasr.recipe.single import evaluate_manifest

    settings = RecognitionSettings(batch_seconds, max_new_tokens)
    for line in evaluate_manifest(manifest, model, normalizer, output, settings, default_device()):
        print(line)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Folder or hub name of an Ark-ASR model.")],
    destination: Annotated[Path, typer.Argument(help="Folder to write; must not be there yet.")],
    layout: Annotated[str | None, typer.Option(help="published or transformers; default: the other one.")] = None,
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.")] = "auto",
    max_shard_size: Annotated[str, typer.Option(help="Largest file.")] = "5GB",
) -> None:
    """Turn the published checkpoint layout into a plain Transformers folder, or back."""
    from arkasr.convert import convert as convert_checkpoint

    written = convert_checkpoint(source, destination, layout, dtype, max_shard_size)
    print(f"{destination}: {written} layout")


@app.command()
def compare(
    transcripts: Annotated[list[Path], typer.Argument(help="Two or more outputs of `evaluate -o`.")],
    normalizer: Annotated[str, typer.Option(help="Profile for text before scoring.")] = "basic",
) -> None:
    """Test the first system against each of the others on the same utterances."""
    from arkasr.recipe.single import compare_transcripts

    for line in compare_transcripts(transcripts, normalizer):
        print(line)


@data_app.command("check")
def data_check(
    manifest: Annotated[Path, typer.Argument(help="Manifest to check.")],
    decode: Annotated[bool, typer.Option("--decode", help="Decode every file as well.")] = False,
) -> None:
    """Validate every line of a manifest and summarise it."""
    from arkasr.data.check import check_manifest, render

    report = check_manifest(manifest, decode_audio=decode)
    Console().print(render(report))
    if report.problems:
        raise InputError(f"{manifest}: {len(report.problems)} problems; mend the lines listed above")


@data_app.command("prepare")
def data_prepare(
    corpus: Annotated[str, typer.Argument(help="an4, dspspeech20 or spoken-digits.")],
    source: Annotated[Path | None, typer.Option("--from", help="Folder of the corpus or of its manifests.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the manifests.")] = Path("data"),
) -> None:
    """Turn a corpus into normalised manifests with its official split."""
    from arkasr.data.prepare import prepare_corpus

    if source is None:
        raise InputError(f"data prepare {corpus}: say where the corpus is with --from DIR")
    prepared = prepare_corpus(corpus, source, output)
    print(prepared.summary())


@data_app.command("index")
def data_index(manifest: Annotated[Path, typer.Argument(help="Manifest to index.")]) -> None:
    """Write the index of a manifest that is too large to be read each time, anew if there is one."""
    from arkasr.recipe.sets import index_with_progress

    index = index_with_progress(manifest, anew=True)
    print(
        f"{manifest}: {len(index)} utterances, languages: {', '.join(name or 'not said' for name in index.languages)}"
    )


@data_app.command("shards")
def data_shards(
    sources: Annotated[
        list[Path], typer.Argument(metavar="TAR...", help="Uncompressed tar shards, or folders of them.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Manifest to write.")],
) -> None:
    """Write the manifest of tar shards (WebDataset); the audio stays in them."""
    from arkasr.data.manifest import write_manifest
    from arkasr.data.replacing import refuse_to_replace
    from arkasr.data.shards import find_shards, rows_of_shards
    from arkasr.recipe.progress import Progress

    shards = find_shards(sources)
    refuse_to_replace(shards, [output])
    unheard: list[str] = []
    with Progress().count("shards", len(shards)) as advance:
        write_manifest(output, rows_of_shards(shards, output.parent, advance, unheard.append))
    print(f"{output}: the samples of {len(shards)} shards")
    if unheard:
        print(f"{len(unheard)} of them cannot be heard, and training sets them aside; the first: {unheard[0]}")


def main() -> None:
    """Entry point of the `arkasr` command."""
    quieten_libraries()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _interrupted)
    try:
        status = app(standalone_mode=False) or 0
    except ToldByFirst:
        sys.exit(2)
    except InputError as error:
        print(f"arkasr: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"arkasr: {error.filename}: {error.strerror}; check path, permissions and space", file=sys.stderr)
        sys.exit(2)
    except UsageError as error:
        if message := " ".join(error.format_message().split()):
            print(f"arkasr: {message} (see --help)", file=sys.stderr)
        sys.exit(2)
    except Interrupted as interruption:
        print(f"arkasr: {interruption}; continue with --resume", file=sys.stderr)
        sys.exit(FIRST_SIGNAL_STATUS + interruption.signal)
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    if status == INTERRUPTED:
        print("arkasr: interrupted; `run` and `train` continue with --resume, `transcribe` as it is", file=sys.stderr)
    sys.exit(status)


def _interrupted(number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does: what is half written is removed on the way out, and what is finished stays."""
    raise Interrupted(number, f"stopped by {signal.Signals(number).name}")


def quieten_libraries() -> None:
    """Keep other libraries' bars and advice off the terminal; their errors stay."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="torch|transformers|accelerate")
