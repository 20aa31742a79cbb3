"""``python -m costgraph``."""

from costgraph.cli import program

program()
