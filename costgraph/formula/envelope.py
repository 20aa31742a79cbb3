"""Which of several expressions can ever be the largest.

All symbols are positive; sizes (batch, tokens, dimensions) are at least one.
``a`` dominates ``b`` if every coefficient of ``a − b`` is non-negative once each
size ``x`` is written as ``1 + x'``: a sufficient test, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from sympy import Expr, Symbol, expand

from costgraph.symbols import LEGEND, symbol


@lru_cache(maxsize=1)
def _shift() -> dict[Symbol, Expr]:
    return {symbol(name): symbol(name) + 1 for name in LEGEND}


def _signs(difference: Expr) -> tuple[bool, bool]:
    """(any negative or undecided coefficient, any positive coefficient)."""
    negative = positive = False
    for part, coefficient in difference.as_coefficients_dict().items():
        sign = coefficient if part.is_nonnegative else None
        if sign is None or not sign.is_number or sign < 0:
            negative = True
        elif sign > 0:
            positive = True
    return negative, positive


@lru_cache(maxsize=4096)
def dominates(a: Expr, b: Expr) -> bool:
    """True if ``a >= b`` is proved for every admissible value of the symbols."""
    if a == b:
        return True
    difference = expand(a - b)
    negative, positive = _signs(difference)
    if not negative:
        return True
    if not positive:
        return False
    shift = _shift()
    local = {s: shift[s] for s in difference.free_symbols if s in shift}
    if not local:
        return False
    return not _signs(expand(difference.xreplace(local)))[0]


def pruned(candidates: Iterable[Expr]) -> tuple[Expr, ...]:
    """The candidates that no other candidate dominates, in their order."""
    kept: list[Expr] = []
    for new in dict.fromkeys(candidates):
        if any(dominates(old, new) for old in kept):
            continue
        kept = [old for old in kept if not dominates(new, old)]
        kept.append(new)
    return tuple(kept)
