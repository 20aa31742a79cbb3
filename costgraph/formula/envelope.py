"""Which of several expressions can ever be the largest.

All symbols are positive; sizes (batch, tokens, dimensions) are at least one.
``a`` dominates ``b`` if every coefficient of ``a − b`` is non-negative once each
size ``x`` is written as ``1 + x'``: a sufficient test, never a guess. A minimum
or maximum inside equals one of its arguments, so it is decided case by case; one
argument is enough where the difference can only be smaller there.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from sympy import Expr, Integer, Max, Min, Symbol, ceiling, expand, floor

from costgraph.symbols import LEGEND, symbol

#: Minima and maxima that are decided case by case in one difference.
_MOST_CASES = 3


@lru_cache(maxsize=1)
def _shift() -> dict[Symbol, Expr]:
    return {symbol(name): symbol(name) + 1 for name in LEGEND}


def _at_least_zero(part: Expr) -> bool:
    """True if a product is proved non-negative."""
    if part.is_nonnegative:
        return True
    if part.is_Mul:
        return all(_at_least_zero(f) for f in part.args)
    if isinstance(part, (floor, ceiling)):
        return dominates(part.args[0], part.args[0] * 0)
    return False


def _signs(difference: Expr) -> tuple[bool, bool]:
    """(any negative or undecided coefficient, any positive coefficient)."""
    negative = positive = False
    for part, coefficient in difference.as_coefficients_dict().items():
        sign = coefficient if _at_least_zero(part) else None
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
    return _nonnegative(expand(a - b), _MOST_CASES)


def _nonnegative(difference: Expr, cases: int) -> bool:
    """True if an expanded expression is proved non-negative."""
    clipped = difference.atoms(Min, Max)
    outer = sorted(
        (a for a in clipped if not any(o is not a and o.has(a) for o in clipped)), key=str
    )
    # To the sign tests a positive minimum is a symbol like any other.
    names = {a: symbol(f"clipped_{i}") for i, a in enumerate(outer) if a.is_positive}
    plain = difference.xreplace(names)
    negative, positive = _signs(plain)
    if not negative:
        return True
    if not positive and not outer:
        return False
    shift = _shift()
    local = {s: shift[s] for s in plain.free_symbols if s in shift}
    local.update({name: name + 1 for atom, name in names.items() if _is_size(atom)})
    if local and not _signs(expand(plain.xreplace(local)))[0]:
        return True
    return bool(outer) and cases > 0 and _by_cases(difference, outer[0], cases - 1)


@lru_cache(maxsize=1024)
def _is_size(atom: Expr) -> bool:
    """True if a minimum or maximum is proved to be at least one."""
    proofs = (dominates(a, Integer(1)) for a in atom.args)
    return all(proofs) if isinstance(atom, Min) else any(proofs)


def _by_cases(difference: Expr, atom: Expr, cases: int) -> bool:
    """``difference`` with a minimum or maximum replaced by its arguments."""

    def holds(argument: Expr) -> bool:
        return _nonnegative(expand(difference.xreplace({atom: argument})), cases)

    slope = difference.coeff(atom, 1)
    if not (difference - slope * atom).expand().has(atom):
        # A minimum is at most each argument, a maximum at least.
        falls = -slope if isinstance(atom, Min) else slope
        if not _signs(expand(falls))[0]:
            return any(holds(argument) for argument in atom.args)
    return all(holds(argument) for argument in atom.args)


def pruned(candidates: Iterable[Expr]) -> tuple[Expr, ...]:
    """The candidates that no other candidate dominates, in their order."""
    kept: list[Expr] = []
    for new in dict.fromkeys(candidates):
        if any(dominates(old, new) for old in kept):
            continue
        kept = [old for old in kept if not dominates(new, old)]
        kept.append(new)
    return tuple(kept)
