"""The Typer application and the options that several commands share."""

from typing import Annotated, Any

import typer

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

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.SUB=VALUE", help="Override a key of the file; may be repeated."),
]
BatchSeconds = Annotated[float, typer.Option(help="Audio seconds decoded at once.")]
