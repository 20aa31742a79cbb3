"""Numbers and symbols that options give in lists, and what symbols may stand for."""

from __future__ import annotations

from collections.abc import Iterable

from sympy import Expr, Integer

from costgraph.formula.terms import Limit
from costgraph.rewriting.pipeline import Option, number


def listed(text: str, spec: Option, where: str) -> Expr:
    """One entry of a list: a number within the option's range, or a symbol.

    Raises:
        PipelineError: it is neither.
    """
    return number(where, spec, text.strip())


def limits_of(shares: Iterable[Expr], why: str) -> tuple[Limit, ...]:
    """Limits that keep shares which are symbols to at most one."""
    symbols = dict.fromkeys(s for s in shares if not s.is_number)
    return tuple(Limit(s, Integer(1), why) for s in symbols)
