"""The command line: a thin user of the library."""

from localgrad.cli.main import main

__all__ = ["main"]
