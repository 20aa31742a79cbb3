"""The command line; one file per group of commands."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    try:
        # Loaded here, so that an interruption meanwhile is no traceback either.
        from costgraph.cli.entry import main as run
    except KeyboardInterrupt:
        import sys

        print("costgraph: interrupted", file=sys.stderr)
        return 130
    return run(argv)
