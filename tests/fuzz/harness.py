"""Runs one case and judges it: exit code, one line, time and memory."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from costgraph.cli import main
from tests.fuzz.mutate import Dice

#: Seconds of CPU time and, where something waits, of the clock, that a case may take.
SECONDS, WAITING = 20, 240
#: Bytes that a case may add to the process.
MEMORY = 2 * 2**30

#: A generator: files into a folder, and the arguments that name them.
Generator = Callable[[Dice, Path], list[str]]


class LateError(BaseException):
    """A case took too long; no ``except Exception`` swallows it."""


@dataclass(frozen=True)
class Outcome:
    """What a case did.

    Attributes:
        arguments: of the command.
        fault: what is wrong with it; empty if nothing is.
        code: the exit code.
        seconds: of CPU time.
        memory: bytes that the process grew by at most, where the system tells.
    """

    arguments: list[str]
    fault: str
    code: int | None
    seconds: float
    memory: int


def run(arguments: list[str]) -> Outcome:
    """Runs a command in this process and judges it."""
    out, err = io.StringIO(), io.StringIO()
    code: int | None = None
    fault = ""
    before, base = time.process_time(), _peak(reset=True)
    try:
        with (
            _limited(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error")
            code = main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else -1
    except LateError as late:
        fault = f"too slow: {late}"
    except BaseException:  # what else a command raises is what is looked for
        fault = traceback.format_exc()
    seconds = time.process_time() - before
    memory = max(0, _peak() - base)
    return Outcome(
        arguments, fault or _judged(code, out.getvalue(), err.getvalue(), memory), code, seconds,
        memory,
    )  # fmt: skip


def _judged(code: int | None, out: str, err: str, memory: int) -> str:
    if code not in (0, 2):
        return f"exit code {code}: {err[-300:]}"
    if memory > MEMORY:
        return f"{memory / 1e9:.1f} GB"
    expected = ("costgraph: note: ", "sweep ")  # remarks, and a bar where it is asked for
    lines = [x for x in err.splitlines() if not x.startswith(expected)]
    if code == 0 and lines:
        return f"success, and says {lines[:3]}"
    if code == 2 and (len(lines) != 1 or not lines[0].startswith("costgraph: error: ")):
        return f"no single line: {err[:600]!r}"
    if code == 2 and len(lines[0]) > 1500:
        return f"a line of {len(lines[0])} characters"
    return ""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Ends the block where it computes or waits too long."""

    def late(number: int, _: object) -> None:
        raise LateError("it computes" if number == signal.SIGPROF else "it waits")

    handlers = {n: signal.signal(n, late) for n in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAITING)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for n, handler in handlers.items():
            signal.signal(n, handler)


def _peak(reset: bool = False) -> int:
    """The most memory that this process has held since the last reset; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return 0


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder of its own as the working directory."""
    before = os.getcwd()
    folder = tempfile.mkdtemp(prefix="costgraph-fuzz-")
    os.chdir(folder)
    try:
        yield Path(folder)
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def case(generator: Generator, seed: str) -> Outcome:
    """One case: what a generator makes of a seed, run in a folder of its own."""
    with workplace() as folder:
        rng = Dice(seed)
        try:
            arguments = generator(rng, folder)
        except Exception:
            print(f"the generator itself failed at seed {seed}", file=sys.stderr)
            raise
        found = run(arguments)
        left = [name for name in os.listdir(folder) if name.startswith(".costgraph-")]
        if left and not found.fault:
            return Outcome(arguments, f"left {left}", found.code, found.seconds, found.memory)
        return found
