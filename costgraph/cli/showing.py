"""What a command answers, printed in the format that was asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from costgraph.cli.values import remark

if TYPE_CHECKING:
    from costgraph.setting import Setting


@dataclass(frozen=True)
class Table:
    """A table as text: heading, rows, and lines above and below them."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: Sequence[str] = ()
    foot: Sequence[str] = ()


@dataclass(frozen=True)
class Answer:
    """An answer in every format; each is made only where it is asked for.

    Attributes:
        text: prints it for a reader.
        data: plain values.
        rows: under which key of ``data`` the rows of a CSV file are.
        setting: what it is about.
        table: the table of a paper.
    """

    text: Callable[[], None]
    data: Callable[[], Any]
    rows: str = ""
    setting: Setting | None = None
    table: Callable[[], Table] | None = None


def show(arguments: argparse.Namespace, answer: Answer) -> int:
    """Prints an answer as ``--format`` says; the exit code.

    What programs read has remarks on the input beside it, on standard error.
    """
    how, setting = arguments.format, answer.setting
    if how == "text":
        answer.text()
        return 0
    if how == "latex" and answer.table is not None:
        from costgraph.showing.export.records import latex_table

        table = answer.table()
        foot = [*table.foot, *(() if setting is None else setting.foot())]
        print(latex_table(table.head, table.rows, table.title, foot))
        return 0
    from costgraph.showing.export.records import print_data

    remark(() if setting is None else setting.remarks)
    print_data(answer.data(), how, answer.rows)
    return 0
