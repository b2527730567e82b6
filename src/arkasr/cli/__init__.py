"""The command line: parse, call, print. Each file holds one group of commands."""

from arkasr.cli.entry import main

__all__ = ["main"]
