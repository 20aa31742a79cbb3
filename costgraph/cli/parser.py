"""The parser of arguments: errors in one line, and options that mean one value take one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from costgraph.cli.output import fail


class _Once(argparse.Action):
    """Stores a value; a second one is refused, where the usual action drops the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        given: set[str] = namespace.__dict__.setdefault("_given", set())
        if option_string is not None and self.dest in given:
            raise argparse.ArgumentError(self, "is given twice, and takes one value")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """Errors in one line and exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in (None, "store"):
            self.register("action", name, _Once)

    def _print_message(self, message: str, file: Any = None) -> None:
        # The usual one drops what cannot be written in silence.
        if message:
            print(message, end="", file=file or sys.stderr)

    def error(self, message: str) -> NoReturn:
        fail(f"{message} (see: {self.prog} --help)")
