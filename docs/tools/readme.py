"""Writes the generated parts of README.md and of pages, or with --check says if they are current.

A generated part stands between ``<!-- output: COMMAND -->`` and ``<!-- end -->``
and is the command, where it does not stand right before, and what it prints.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

from costgraph.cli import main as costgraph

README = Path(__file__).parents[2] / "README.md"
#: Pages that hold what the program prints.
PAGES = tuple(
    README.parent / page
    for page in (
        "README.md", "docs/adapters.md", "docs/branches-and-iterations.md", "docs/cli.md",
        "docs/edges.md",
        "docs/formats.md", "docs/offloading.md", "docs/units.md", "docs/start.md",
        "docs/tutorials/which-optimisation.md", "docs/tutorials/70b-on-8-gpus.md",
    )
)  # fmt: skip
PART = re.compile(r"(<!-- output: costgraph (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def printed(command: str) -> str:
    """What ``costgraph COMMAND`` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        costgraph(shlex.split(command))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def typed(part: re.Match[str]) -> str:
    """The command as a reader types it, who does not see the comment; empty if it is above."""
    command = f"costgraph {part[2]}"
    above = part.string[: part.start()].rstrip().endswith(f"{command}\n```")
    return "" if above else f"```console\n$ {command}\n```\n"


def generated(text: str) -> str:
    """``text`` with every generated part made anew."""
    return PART.sub(lambda m: f"{m[1]}{typed(m)}```text\n{printed(m[2])}\n```\n{m[4]}", text)


def main() -> int:
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    stale = {page: new for page, old in texts.items() if (new := generated(old)) != old}
    if "--check" in sys.argv[1:]:
        return 1 if stale else 0
    for page, new in stale.items():
        page.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
