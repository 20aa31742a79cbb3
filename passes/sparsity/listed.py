"""Numbers and symbols that options give in lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

from sympy import Expr

from costgraph.errors import PipelineError, clip
from costgraph.rewriting.pipeline import Option, number

#: Entries of the longest list.
MOST = 10_000
_COUNT = re.compile(r"[1-9]\d{0,4}\Z")


def listed(text: str, spec: Option, where: str) -> Expr:
    """One value: a number within the option's range, or a symbol.

    Raises:
        PipelineError: it is neither.
    """
    return number(where, spec, text.strip())


def entries(text: str, spec: Option, where: str) -> tuple[Expr, ...]:
    """The values of a list ``a|b*3|c``, of which ``b*3`` stands for ``b|b|b``.

    Raises:
        PipelineError: an entry is neither a number nor a symbol, or the list is too long.
    """
    made: list[Expr] = []
    for part in text.split("|") if text else ():
        value, _, count = part.partition("*")
        if count and not _COUNT.match(count):
            raise PipelineError(f"{where}: {clip(part)} is not a value and how often, as in 1/2*3")
        made += [listed(value, spec, where)] * int(count or 1)
        if len(made) > MOST:
            raise PipelineError(f"{where}: a list of more than {MOST} entries")
    return tuple(made)


def written(values: Iterable[object]) -> str:
    """Values as the list that :func:`entries` reads; equal ones in a row are counted."""
    runs = [(value, len(list(run))) for value, run in groupby(values)]
    return "|".join(f"{value}*{count}" if count > 1 else f"{value}" for value, count in runs)


def symbols_in(values: Iterable[Expr], option: str) -> dict[str, str]:
    """The option by the names of the symbols in its list, in the order of the list."""
    return {s.name: option for value in values for s in sorted(value.free_symbols, key=str)}
