"""The entry point. Bad input is one line on standard error and exit code 2."""

import signal
import sys
import warnings
from types import FrameType, ModuleType

import typer
import wrapt

from arkasr.cli import data, experiment, models, serving  # noqa: F401  (each registers its commands)
from arkasr.cli.app import UsageError, app
from arkasr.errors import InputError, Interrupted, ReportedByFirstRank

INTERRUPTED = 130  # Typer's exit status after Ctrl-C
HOW_TO_CONTINUE = "continue `run` and `train` with --resume, `transcribe` and `data cut` with the same command"
FIRST_SIGNAL_STATUS = 128  # a shell adds this to the number of the signal that ended a process


def main() -> None:
    """Entry point of the `arkasr` command."""
    silence_libraries()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _raise_interrupted)
    try:
        status = app(standalone_mode=False) or 0
    except ReportedByFirstRank:
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
        print(f"arkasr: {interruption}", file=sys.stderr)
        sys.exit(FIRST_SIGNAL_STATUS + interruption.signal)
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    if status == INTERRUPTED:
        print(f"arkasr: interrupted; {HOW_TO_CONTINUE}", file=sys.stderr)
    sys.exit(status)


def _raise_interrupted(number: int, frame: FrameType | None) -> None:
    """Stop like Ctrl-C: context managers remove unfinished files, and finished work stays."""
    raise Interrupted(number, f"stopped by {signal.Signals(number).name}; {HOW_TO_CONTINUE}")


def silence_libraries() -> None:
    """Silence warnings and progress bars of other libraries; their errors stay."""
    wrapt.register_post_import_hook(_silence_transformers, "transformers.utils.logging")
    warnings.filterwarnings("ignore", module="torch|transformers|accelerate")


def _silence_transformers(logging: ModuleType) -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
