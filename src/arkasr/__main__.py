"""`python -m arkasr` is the `arkasr` command."""

from arkasr.cli import main

main()
