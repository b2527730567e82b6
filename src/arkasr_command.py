"""The `arkasr` command: a module of its own, so that the package knows that it is imported for the command."""


def main() -> None:
    """Entry point."""
    from arkasr.cli import main as run_command

    run_command()
