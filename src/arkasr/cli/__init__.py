"""The command line, thin: parse, call, print. One file a group of commands."""

from arkasr.cli.entry import main

__all__ = ["main"]
