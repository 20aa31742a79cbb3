"""Writes docs/techniques.md, or with --check computes every number of it anew.

The page is made of ``data/techniques.toml`` (names, commands, published figures, reasons) and
of ``data/techniques.json``, the numbers that the commands gave: tests make the page of both in
no time, and compute some of the numbers; ``--check`` computes all.

    python docs/tools/techniques.py [--check] [NAME ...]
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import re
import shlex
import sys
import tomllib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "techniques.md"
DATA = HERE / "data" / "techniques.toml"
NUMBERS = HERE / "data" / "techniques.json"

#: How a published figure was read: what the page's column of evidence means.
EVIDENCE = {
    "paper": "read in the paper, or in its authors' files",
    "abstract": "read in its abstract",
    "note": "read in a note of someone else, which quotes it",
    "survey": "read in the survey",
    "sheet": "read in a maker's data sheet",
    "arithmetic": "follows from a formula",
}
NOT_MODELLED = "not modelled"
HEAD = """# Every technique of the survey

*How is this technique modelled, and does the number come out that its authors published?* Here are
all techniques that *LLM Inference Unveiled* (arXiv 2402.16363) names, and those of nine papers
beside it: for each the one command, or the few lines of Python, that model it, the number that they
give, and the published one.

Numbers of the column *here* are computed: `python docs/tools/techniques.py` runs every command and
writes this page. Times are bounds of a roofline, so that a factor of ours is what bytes and FLOP
allow; a measured one also contains launches, the host and kernels below their peaks. Acceptances,
shares and lengths that a paper does not state are assumptions, and said. Published figures were
read as follows; where none is given, none was read, and none is repeated from memory.

"""


@dataclass(frozen=True)
class Entry:
    """What stands for some names of the index; the fields are told in the data file."""

    names: tuple[str, ...]
    why: str
    command: str = ""
    python: str = ""
    number: str = ""
    of: str = ""
    show: str = ""
    scale: float = 1
    published: str = ""
    source: str = ""
    evidence: str = ""

    @property
    def modelled(self) -> bool:
        return bool(self.command or self.python)

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.names[0].lower()).strip("-")


def read(text: str) -> tuple[dict[str, tuple[str, ...]], tuple[Entry, ...]]:
    """Families with their names, and entries. Raises ``ValueError`` where they disagree."""
    data = tomllib.loads(text)
    index = {family: tuple(names) for family, names in data["index"].items()}
    entries = tuple(Entry(**{**e, "names": tuple(e["names"])}) for e in data["entry"])
    wanted = Counter(name for names in index.values() for name in names)
    found = Counter(name for e in entries for name in e.names)
    if wanted != found:
        odd = wanted - found or found - wanted
        raise ValueError(f"names of the index and of entries differ: {', '.join(odd)}")
    for entry in entries:
        told = {bool(entry.published), bool(entry.source), entry.evidence in EVIDENCE}
        if len(told) > 1:
            raise ValueError(f"{entry.names[0]}: a published figure has a source and its evidence")
        if entry.command and entry.python:
            raise ValueError(f"{entry.names[0]}: a command or Python, not both")
    return index, entries


def at(data: Any, path: str) -> float:
    """The number at a path of JSON, ``pipelines.0.tpot``, or a quotient of two."""

    def one(dotted: str) -> float:
        steps = dotted.strip().split(".")
        return reduce(lambda d, k: d[int(k)] if isinstance(d, list) else d[k], steps, data)

    first, *rest = (one(part) for part in path.split("/"))
    return reduce(lambda a, b: a / b, rest, first)


def computed(entry: Entry) -> str:
    """The entry's number as the page shows it."""
    if entry.command:
        from costgraph.cli import main as costgraph

        out, said = io.StringIO(), io.StringIO()
        program, *arguments = shlex.split(entry.command)
        assert program == "costgraph"
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            status = costgraph([*arguments, "--json"])
        if status:
            raise ValueError(f"{entry.names[0]}: {said.getvalue().strip()}")
        value = at(json.loads(out.getvalue()), entry.number)
    else:
        import costgraph as cg

        *lines, last = ast.parse(entry.python).body
        assert isinstance(last, ast.Expr)
        space: dict[str, Any] = {"cg": cg}
        exec(compile(ast.Module(lines, []), entry.names[0], "exec"), space)
        value = eval(compile(ast.Expression(last.value), entry.names[0], "eval"), space)
    return entry.show.format(value * entry.scale if entry.scale != 1 else value)


def page(
    index: dict[str, tuple[str, ...]], entries: tuple[Entry, ...], numbers: dict[str, str]
) -> str:
    """The whole page."""
    of = {name: e for e in entries for name in e.names}
    lines = [HEAD.rstrip("\n"), "", "| evidence | |", "| --- | --- |"]
    lines += [f"| {key} | {said} |" for key, said in EVIDENCE.items()]
    modelled = sum(of[n].modelled for names in index.values() for n in names)
    lines += ["", f"{len(of)} names, of which {modelled} are modelled.", ""]
    for family, names in index.items():
        lines += [f"## {family}", "", "| technique | number | here | published | evidence |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for name in names:
            e = of[name]
            here = numbers[e.names[0]] if e.modelled else NOT_MODELLED
            cells = (f"[{name}](#{e.anchor})", e.of, here, e.published, e.evidence)
            lines.append(f"| {' | '.join(c or '–' for c in cells)} |")
        for e in dict.fromkeys(of[name] for name in names):
            lines += ["", f'<h3 id="{e.anchor}">{", ".join(e.names)}</h3>', ""]
            if e.command:
                lines += ["```sh", e.command, "```", ""]
            elif e.python:
                lines += ["```python", "import costgraph as cg", "", e.python.strip(), "```", ""]
            if e.modelled:
                said = f"{e.of[0].upper()}{e.of[1:]}: **{numbers[e.names[0]]}**"
                if e.published:
                    said += f"; published: {e.published} ({e.source})"
                lines += [f"{said}. {e.why}"]
            else:
                lines += [e.why]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("names", nargs="*", help="entries to compute (all)")
    asked.add_argument("--check", action="store_true", help="write nothing; say if it is current")
    given = asked.parse_args()
    index, entries = read(DATA.read_text(encoding="utf-8"))
    known: dict[str, str] = json.loads(NUMBERS.read_text("utf-8")) if NUMBERS.exists() else {}
    asked_for = set(given.names) or {n for e in entries for n in e.names}
    chosen = [e for e in entries if e.modelled and asked_for & set(e.names)]
    with ProcessPoolExecutor() as pool:
        found = dict(zip([e.names[0] for e in chosen], pool.map(computed, chosen), strict=True))
    numbers = {e.names[0]: (known | found)[e.names[0]] for e in entries if e.modelled}
    text = page(index, entries, numbers)
    if given.check:
        stale = sorted(n for n in found if known.get(n) != found[n])
        for name in stale:
            print(f"{name}: {known.get(name)} is {found[name]} now", file=sys.stderr)
        return 1 if stale or PAGE.read_text(encoding="utf-8") != text else 0
    NUMBERS.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
