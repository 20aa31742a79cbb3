"""Runs commands in forks of one process: what each wrote, byte by byte, and how it ended.

``python answering.py COMMAND…`` runs the commands to have all that is shipped at hand, prints an
empty line, then reads cases, a line of JSON each, and answers each with one.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import pty
import sys
import tempfile
import termios
from typing import Any

from costgraph import cli
from costgraph.cli import answers

WARM = ("cli.entry", "compiling.compilation", "asking.comparison", "asking.explaining", "models",
        "hardware", "passes", "showing.export.terminal", "showing.export.comparison")  # fmt: skip


def ask(
    argv: list[str], place: str, folder: str, *, terminal: tuple[int, int] | None = None,
    encoding: str = "utf-8", environment: dict[str, str] | None = None, kept: bool = False,
    leaves: bool = False,
) -> list[Any]:  # fmt: skip
    """Exit code, output and errors of one command.

    Args:
        argv: what is typed.
        place: the folder where it is.
        folder: where answers are kept.
        terminal: rows and columns, where the output is one.
        encoding: of the output.
        environment: more variables.
        kept: nothing but a kept answer will do: else it ends with 70.
        leaves: the reader of the output has gone.
    """
    errors = tempfile.TemporaryFile()  # noqa: SIM115
    reader, out = os.pipe() if terminal is None else pty.openpty()
    if terminal is not None:
        termios.tcsetwinsize(out, terminal)
    if leaves:
        os.close(reader)
    child = os.fork()
    if not child:
        code: Any = 71
        try:
            os.chdir(place)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out, 1)
            os.dup2(errors.fileno(), 2)
            os.close(out)
            if not leaves:
                os.close(reader)
            sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", encoding=encoding, closefd=False, buffering=1)  # noqa: SIM115
            os.environ.update({answers.VARIABLE: folder, **(environment or {})})
            sys.argv = ["costgraph", *argv]
            if kept:
                cli.main = lambda *a: sys.exit(70)
            try:
                cli.program()
            except SystemExit as ended:
                code = ended.code or 0
            sys.stdout.flush()
        except OSError as error:
            code = 0 if leaves else error.errno
        finally:
            os._exit(code)
    os.close(out)
    text = b"" if leaves else _all(reader)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    errors.seek(0)
    return [code, text.decode("latin-1"), errors.read().decode("latin-1")]


def _all(handle: int) -> bytes:
    text = b""
    try:
        while piece := os.read(handle, 65536):
            text += piece
    except OSError:  # how Linux says that a terminal is closed
        pass
    os.close(handle)
    return text


def main() -> None:
    for name in WARM:
        importlib.import_module(f"costgraph.{name}")
    for line in sys.argv[1:]:
        with contextlib.redirect_stdout(io.StringIO()):
            cli.main(line.split(" "))
    gc.collect()
    gc.freeze()
    print(flush=True)
    for line in sys.stdin:
        print(json.dumps(ask(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
