"""The command line; one file per group of commands."""

from costgraph.cli.entry import main

__all__ = ["main"]
