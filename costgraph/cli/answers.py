"""Answers that are kept: a command that was asked before is answered as it was, at once.

Kept is what a process wrote, text by text, under a digest of all that it went by:

* what was typed;
* the code: every file of the package, and what is installed beside it;
* Python, its options, and the variables of the environment that it and libraries read;
* what the standard streams are: terminals, how wide, in which encoding.

With the answer stands every path outside the package that was looked at, and what was
there (a digest of the file; nothing). The answer holds as long as that is so. One is kept
only if the command ended well, wrote no file and opened none by another way.

Nothing heavy is imported here: this runs before any command does.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from costgraph.cli.output import Tape, ended
from costgraph.files import kept

if TYPE_CHECKING:
    from costgraph.cli.cases import Cases

#: Commands that print and do nothing else.
COMMANDS = frozenset({
    "formula", "analyze", "compare", "explain", "regimes", "solve", "wins", "reliability",
    "models", "hardware", "passes", "formats", "completion",
})  # fmt: skip
OPTION = "--no-cache"
#: The folder; empty: nothing is kept.
VARIABLE = "COSTGRAPH_CACHE"
#: Form of what is kept.
VERSION = 1
_TOP = ("costgraph", "costgraph.passes", "costgraph.models", "costgraph.hardware")
#: What Python, sympy, mpmath, numpy and rich read of the environment, by its beginning.
ENVIRONMENT = (
    "PYTHON", "LC_", "LANG", "SYMPY_", "MPMATH_", "SAGE_ROOT", "NPY_", "NUMPY_", "NUMBA_",
    "NETWORKX_", "TERM", "COLORTERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_",
    "UNICODE_VERSION", "JUPYTER_", "JPY_", "DATABRICKS_",
)  # fmt: skip
#: Flags of ``open`` that write.
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def folder(argv: Sequence[str]) -> str | None:
    """Where the answer to a command line is kept; None where it is not."""
    if not argv or argv[0] not in COMMANDS or sys.stdout is None or sys.stderr is None:
        return None
    if any(len(a) > 2 and OPTION.startswith(a) for a in argv):  # options may be shortened
        return None
    place = os.environ.get(VARIABLE)
    if place is not None:
        return place or None
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # as its specification has it
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "costgraph") if os.path.isabs(base) else None


def answered(argv: Sequence[str], where: str, run: Callable[[Tape, Cases | None], int]) -> int:
    """The exit code of a command: of its kept answer, or of ``run``, whose answer is kept.

    Args:
        argv: what was typed.
        where: the folder.
        run: runs the command.
    """
    try:
        code, installed = _code(), _installed()
        around = _around(code, installed)
        key = _key(around, list(argv))
    except OSError:
        return run(lambda stream, text: None, None)
    said = _known(where, key)
    if said is not None:
        return ended(lambda: _repeat(said))
    from costgraph.cli.cases import Cases

    def case_key(question: Any) -> str:
        return _key(around, ["a case", json.dumps(question, default=str)])

    seen = _Seen(_roots(), _settled(installed), where)

    def read(question: Any) -> Any:
        found = _holding(where, case_key(question), "case")
        if found is None:
            return None
        seen.rests_on(found["looked"])
        return found["case"]

    cases = Cases(read)
    with seen.watching():
        status = run(seen.tape, cases)
    with suppress(OSError):
        if status == 0 and seen.whole() and _code() == code and _installed() == installed:
            kept.write(where, key, seen.text(said=seen.said))
            if cases.made is not None and cases.made[1] is not None:
                question, case = cases.made
                kept.write(where, case_key(question), seen.text(case=case))
    return status


def _known(where: str, key: str) -> list[tuple[int, str | None]] | None:
    """The kept answer, if it holds."""
    found = _holding(where, key, "said")
    if found is None:
        return None
    try:
        said = [(int(stream), None if t is None else str(t)) for stream, t in found["said"]]
    except (ValueError, TypeError):
        return None
    return said if all(n in (0, 1) for n, _ in said) else None


def _holding(where: str, key: str, part: str) -> dict[str, Any] | None:
    """What is kept under a key with a ``part``, if all that it rests on is as it was."""
    text = kept.read(where, key)
    if text is None:
        return None
    try:
        found = json.loads(text)
        looked = [(str(path), str(state)) for path, state in found["looked"]]
        if found["cwd"] not in (None, os.getcwd()):
            return None
        if found[part] is None:
            return None
    except (ValueError, KeyError, TypeError, RecursionError, OSError):
        return None
    return found if all(_stands(path, state) for path, state in looked) else None


def _repeat(said: Sequence[tuple[int, str | None]]) -> int:
    """Writes an answer, which was made harmless for a terminal before it was kept."""
    streams = [getattr(stream, "inner", stream) for stream in (sys.stdout, sys.stderr)]
    for index, text in said:
        if text is None:
            streams[index].flush()
        else:
            streams[index].write(text)
    return 0


def _stands(path: str, state: str) -> bool:
    """Whether at ``path`` is what was there."""
    from costgraph.files import outside

    kinds = ("nothing", "file", "folder", "other")
    return (outside.kind_of if state in kinds else outside.state_of)(path) == state


# --- what an answer goes by -----------------------------------------------------------------


def _key(around: str, asked: list[str]) -> str:
    return hashlib.sha256(json.dumps([around, asked]).encode()).hexdigest()


def _around(code: Any, installed: dict[str, Any]) -> str:
    """A digest of everything that an answer goes by but what was asked."""
    streams = [(s.isatty(), s.encoding, s.newlines) for s in (sys.stdout, sys.stderr)]
    widths = [_size(number) for number in range(3)] if any(s[0] for s in streams) else []
    environment = sorted((k, v) for k, v in os.environ.items() if k.startswith(ENVIRONMENT))
    parts = [VERSION, code, installed, sys.version, sys.platform, list(sys.flags),
             list(sys.warnoptions), environment, streams, widths]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _size(number: int) -> tuple[int, int] | None:
    try:
        columns, lines = os.get_terminal_size(number)
    except (OSError, ValueError):
        return None
    return columns, lines


def _roots() -> list[str]:
    """Folders of the package, which may be installed as it is being worked on."""
    found: list[str] = []
    for name in _TOP:
        spec = find_spec(name)
        found += (spec.submodule_search_locations if spec else None) or ()
    return found


def _code() -> list[Any]:
    """Every file of the package: its path, size, and when and where it was written."""
    roots = _roots()
    inside = [r for r in roots if any(r.startswith(o + os.sep) for o in roots)]
    return [_stamps(root) for root in roots if root not in inside]


def _stamps(root: str) -> list[Any]:
    found: list[Any] = []
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name == "__pycache__":
                continue
            if entry.is_dir():
                found.append((entry.name, _stamps(entry.path)))
            else:
                found.append((entry.name, _stamp(entry.stat())))
    return [root, sorted(found)]


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _installed() -> dict[str, Any]:
    """Where modules come from, and when something was last installed there or removed."""
    here = os.getcwd()
    found: dict[str, Any] = {}
    for place in sys.path:
        if place not in ("", here):
            try:
                found[place] = _stamp(os.stat(place))
            except OSError:
                found[place] = None
    return found


def _settled(places: Iterable[str]) -> list[str]:
    """Folders whose modules change by installing alone: not those that are being worked on."""
    own = os.path.dirname(os.__file__)
    names = ("site-packages", "dist-packages")
    return [p for p in places if os.path.basename(p) in names or f"{p}/".startswith(f"{own}/")]


# --- what a run looks at ---------------------------------------------------------------------


class _Seen:
    """What a run says, what it looks at, and whether it did anything that cannot be known.

    Args:
        package: folders of which a key tells every file.
        settled: folders of which it tells what is installed.
        kept: the folder of what is kept, which decides no answer.
    """

    def __init__(self, package: Iterable[str], settled: Iterable[str], kept: str = "") -> None:
        self._kept = os.path.join(os.path.abspath(kept), "") if kept else None
        self._package = tuple(os.path.join(p, "") for p in package)
        self._modules = (*self._package, *(os.path.join(p, "") for p in settled))
        self._said: list[tuple[int, str | None]] = []
        self._looked: dict[tuple[str, str], None] = {}
        self._size = 0
        self._on = self._beyond = False

    def tape(self, stream: int, text: str | None) -> None:
        """Takes down what is written."""
        self._size += len(text or "") + 8
        if self._size <= kept.MOST_OF_ONE:
            self._said.append((stream, text))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Looks on for the time of a block; a process does so once."""
        from costgraph.files.outside import watched

        sys.addaudithook(self._heard)
        self._on = True
        try:
            with watched(self._look):
                yield
        finally:
            self._on = False

    def rests_on(self, looked: Iterable[Sequence[str]]) -> None:
        """What something kept looked at counts as looked at."""
        for path, state in looked:
            self._looked[path, state] = None

    def _look(self, path: str, state: str) -> None:
        if not os.path.abspath(path).startswith(self._package):
            self._looked[path, state] = None

    def _known(self, path: str) -> bool:
        return os.path.abspath(path).startswith(self._modules)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Every file that is opened by whatever means of Python."""
        if not self._on or event != "open" or self._beyond:
            return
        path, mode, flags = arguments
        if isinstance(path, int):  # it has been opened before
            return
        shown = os.fsdecode(path)
        if self._kept is not None and os.path.abspath(shown).startswith(self._kept):
            return
        if ".pyc" in shown:  # as good as its source
            return
        writes = bool(flags & _WRITES) if isinstance(flags, int) else mode not in ("r", "rb")
        if writes or not (self._known(shown) or any(p == shown for p, _ in self._looked)):
            self._beyond = True

    def whole(self) -> bool:
        """Whether everything is known that the answer goes by, and stands as it was seen."""
        if self._beyond or self._size > kept.MOST_OF_ONE:
            return False
        files = [getattr(m, "__file__", None) for n, m in sys.modules.items() if n != "__main__"]
        return all(f is None or self._known(f) for f in files) and all(
            state != "unknown" and _stands(path, state) for path, state in self._looked
        )

    @property
    def said(self) -> list[tuple[int, str | None]]:
        """What was written, text by text."""
        return self._said

    def text(self, **held: Any) -> bytes:
        """What is kept: ``held``, and on what it rests."""
        near = any(s != "nothing" and not os.path.isabs(p) for p, s in self._looked)
        found = {
            "cwd": os.getcwd() if near else None,
            "looked": list(self._looked),
            **held,
        }
        return json.dumps(found).encode()
