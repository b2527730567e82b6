"""The Typer application and the options that several commands share."""

from typing import Annotated, Any

import typer

from arkasr import __version__

# Typer vendors click and does not export UsageError, the base class of its BadParameter.
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="arkasr",
    help="Data-efficient speech recognition by on-policy distillation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"arkasr {__version__}")
        raise typer.Exit


@app.callback()
def arkasr(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Data-efficient speech recognition by on-policy distillation."""


data_app = typer.Typer(help="Check and prepare manifests.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.SUB=VALUE", help="Override a key of the recipe; may be repeated."),
]
BatchSeconds = Annotated[float, typer.Option(help="Audio seconds in a batch.")]
