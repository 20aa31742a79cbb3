"""The command line; one file per group of commands."""

from __future__ import annotations

# No import stands here: an interruption meanwhile would be a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from costgraph.cli.cases import Cases
    from costgraph.cli.output import Tape

__all__ = ["main", "program"]

#: Exit code where the user broke off.
INTERRUPTED = 130


def main(
    argv: Sequence[str] | None = None, tape: Tape | None = None, cases: Cases | None = None
) -> int:
    """Entry point; returns the exit code.

    ``tape`` takes down what is written; ``cases`` holds what questions are computed from.
    """
    try:
        from costgraph.cli.entry import main as run
    except KeyboardInterrupt:
        return _interrupted()
    return run(argv, tape, cases)


def _asked() -> int:
    """The exit code of the command that this process is for; its answer may be a kept one."""
    import sys

    from costgraph.cli.answers import answered, folder

    argv = sys.argv[1:]
    where = folder(argv)
    if where is None:
        return main()
    return answered(argv, where, lambda tape, cases: main(argv, tape, cases))


def program() -> NoReturn:
    """The command as a process of its own, which breaks off in one way at any moment.

    Raises:
        SystemExit: with the exit code.
    """
    import sys

    broken: list[int] = []
    try:
        import atexit

        # The first to be registered is the last to run.
        atexit.register(_leave, broken)
        code = _asked()
    except KeyboardInterrupt:
        code = _interrupted()
    finally:
        import signal

        # What was asked is done or told: only the interpreter's end is left.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if code == INTERRUPTED:
        broken.append(code)
    sys.exit(code)


def _interrupted() -> int:
    import sys

    print("costgraph: interrupted", file=sys.stderr)
    return INTERRUPTED


def _leave(broken: list[int]) -> None:
    """Ends the process here where it was interrupted.

    An interpreter that was interrupted inside ``exec`` (of dataclasses, of named tuples)
    ends as by the signal, although it was caught.
    """
    if broken:
        import os
        import sys

        sys.stderr.flush()
        os._exit(broken[0])
