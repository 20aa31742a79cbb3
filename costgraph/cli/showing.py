"""What a command answers, printed in the format that was asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from costgraph.cli.values import remark

if TYPE_CHECKING:
    from costgraph.asking.references import Reference
    from costgraph.compiling.compiled import Compiled
    from costgraph.formula.formula import Formula
    from costgraph.setting import Setting

    #: What was compiled, and the formulas that were asked of it.
    Source = tuple[Compiled, Sequence[Formula]]
    Sources = Callable[[], Iterable[Source]]


#: Bytes of a file of BibTeX that sources are added to.
LARGEST_BIB = 2**24


@dataclass(frozen=True)
class Table:
    """A table as text: heading, rows, and lines above and below them.

    Texts of the column ``wrapped`` are broken into lines where there is little room.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: Sequence[str] = ()
    foot: Sequence[str] = ()
    wrapped: int | None = None


@dataclass(frozen=True)
class Answer:
    """An answer in every format; each is made only where it is asked for.

    Attributes:
        text: prints it for a reader.
        data: plain values.
        rows: under which key of ``data`` the rows of a CSV file are.
        setting: what it is about.
        table: the table of a paper.
        sources: what was compiled, each with the formulas that were asked: for ``--bib``.
    """

    text: Callable[[], None]
    data: Callable[[], Any]
    rows: str = ""
    setting: Setting | None = None
    table: Callable[[], Table] | None = None
    sources: Sources | None = None


def write_sources(arguments: argparse.Namespace, found: Iterable[Source]) -> tuple[Reference, ...]:
    """The sources, which are added to the file of ``--bib`` where it lacks them.

    Raises:
        InputError: the file is no text, or cannot be written to.
    """
    from costgraph.asking.references import references
    from costgraph.files.outside import is_file, read_text
    from costgraph.files.writing import write_whole
    from costgraph.showing.export.bibtex import added

    made = references(found)
    before = read_text(arguments.bib, LARGEST_BIB, "--bib") if is_file(arguments.bib) else ""
    text, new = added(before, made)
    write_whole(arguments.bib, text.encode())
    remark([f"wrote {arguments.bib}: {new} new of {len(made)} sources"])
    return made


def show(arguments: argparse.Namespace, answer: Answer) -> int:
    """Prints an answer as ``--format`` says; the exit code.

    What programs read has remarks on the input beside it, on standard error.
    """
    how, setting = arguments.format, answer.setting
    cited: Sequence[str] = ()
    # Before anything is printed: who reads it may stop.
    if getattr(arguments, "bib", None) is not None and answer.sources is not None:
        from costgraph.showing.export.bibtex import citing

        cited = [citing(write_sources(arguments, answer.sources()))]
    if how == "text":
        answer.text()
        return 0
    if how == "latex" and answer.table is not None:
        from costgraph.showing.export.records import latex_table

        table = answer.table()
        foot = [*table.foot, *(() if setting is None else setting.foot()), *cited]
        text = latex_table(
            table.head, table.rows, table.title, foot, wrapped=table.wrapped,
            caption=arguments.caption, label=arguments.label,
        )  # fmt: skip
        print(text)
        return 0
    from costgraph.showing.export.records import print_data

    remark(() if setting is None else setting.remarks)
    print_data(answer.data(), how, answer.rows)
    return 0
