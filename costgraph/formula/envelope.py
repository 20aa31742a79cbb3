"""Which of several expressions can ever be the largest.

All symbols are positive; sizes (batch, tokens, dimensions) are at least one.
``a`` dominates ``b`` if every coefficient of ``a − b`` is non-negative once each
size ``x`` is written as ``1 + x'``: a sufficient test, never a guess. A minimum
or maximum inside equals one of its arguments, so it is decided case by case; one
argument is enough where the difference can only be smaller there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import TypeAlias
from zlib import crc32

from sympy import (
    Add,
    Dummy,
    Expr,
    Integer,
    Max,
    Min,
    Rational,
    Symbol,
    ceiling,
    expand,
    floor,
    preorder_traversal,
)

from costgraph.formula.coefficients import covers
from costgraph.formula.powers import unmovable
from costgraph.symbols import SIZES, symbol

#: Minima and maxima that are decided case by case in one difference.
_MOST_CASES = 3
#: What symbols are replaced by.
Moves: TypeAlias = frozenset[tuple[Expr, Expr]]


@lru_cache(maxsize=1)
def _shift() -> dict[Symbol, Expr]:
    return {symbol(name): symbol(name) + 1 for name in SIZES}


@lru_cache(maxsize=4096)
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
def dominates(a: Expr, b: Expr, cases: int = _MOST_CASES) -> bool:
    """True if ``a >= b`` is proved for every admissible value of the symbols.

    At most ``cases`` minima and maxima are decided case by case, one after the other.
    """
    if a == b:
        return True
    if (told := covers(a, b)) is not None:
        return told  # as below, which finds the same of polynomials in tens of times the time
    if any(_refuted(_sample(a, k), _sample(b, k)) for k in range(_SAMPLES)):
        return False
    return _nonnegative(_expanded(a - b), cases)


def _expanded(expr: Expr, moves: Moves = frozenset()) -> Expr:
    """``expand(expr)`` with symbols replaced: each minimum and maximum is made anew once.

    Most of a chain's maxima stand in every difference with it, and making one compares all
    its arguments.
    """
    held = {atom: _held(place) for place, atom in enumerate(_outermost(expr, _is_closed))}
    plain = expand(expr.xreplace({**held, **dict(moves)}))
    if not held:
        return plain
    made = {name: _expanded_atom(atom, moves) for atom, name in held.items()}
    whole = plain.xreplace(made)
    return whole if all(map(_is_closed, made.values())) else expand(whole)


def _is_closed(expr: Expr) -> bool:
    """True for what expansion does not open: a minimum, a maximum, a root of a sum."""
    if isinstance(expr, (Min, Max)):
        return True
    return bool(expr.is_Pow and expr.base.is_Add and expr.exp.is_number and not expr.exp.is_Integer)


@cache
def _held(place: int) -> Dummy:
    """What stands for a minimum or maximum while the rest is expanded.

    The same ones every time: sympy asks anew what is known of every new symbol.
    """
    return Dummy(f"held_{place}")


@lru_cache(maxsize=4096)
def _expanded_atom(atom: Expr, moves: Moves) -> Expr:
    arguments = [_expanded(a, moves) for a in atom.args]
    return atom if list(atom.args) == arguments else atom.func(*arguments)


def outermost(expr: Expr) -> list[Expr]:
    """The minima and maxima that stand in no other one."""
    return _outermost(expr, lambda e: isinstance(e, (Min, Max)))


def _outermost(expr: Expr, wanted: Callable[[Expr], bool]) -> list[Expr]:
    """The parts that are wanted and stand in no wanted one, each once."""
    found: dict[Expr, None] = {}
    walk = preorder_traversal(expr)
    for part in walk:
        if wanted(part):
            found[part] = None
            walk.skip()
    return list(found)


# --- refutation ----------------------------------------------------------------
# Most comparisons fail, and a point at which they do is found much faster than
# the lack of a proof.

_SAMPLES = 14
#: Values that sizes take; other symbols take their inverses.
_VALUES = (1.0, 3.0, 40.0, 700.0, 90000.0, 5000.0)


@cache
def _turn(name: str, k: int) -> float:
    """What a symbol of that name takes at the ``k``-th point: all sizes one at the first.

    Drawn from the name, so that of two sizes each is the far larger one somewhere.
    """
    return _VALUES[crc32(f"{name} {k}".encode()) % len(_VALUES)] if k else _VALUES[0]


def _refuted(a: float | None, b: float | None) -> bool:
    """True if ``a < b`` beyond rounding."""
    return a is not None and b is not None and a < b - 1e-9 * (abs(a) + abs(b))


def _falls_below(difference: Expr) -> bool:
    """True if a difference is negative at one of the points, beyond rounding."""
    for k in range(_SAMPLES):
        found = [_sample(part, k) for part in Add.make_args(difference)]
        known = [x for x in found if x is not None]
        if len(known) == len(found) and math.fsum(known) < -1e-9 * math.fsum(map(abs, known)):
            return True
    return False


@lru_cache(maxsize=16384)
def _sample(expr: Expr, k: int) -> float | None:
    """The value at the ``k``-th admissible point; None where it has none."""
    try:
        value = _value(expr, k)
    except (OverflowError, ZeroDivisionError, ValueError):
        return None
    return value if value is None or math.isfinite(value) else None


def _value(expr: Expr, k: int) -> float | None:
    if isinstance(expr, Symbol):
        value = _turn(expr.name, k)
        return value if expr.name in SIZES else 1 / (1 + value)
    if expr.is_Rational:
        return float(expr)
    parts = [_value(a, k) for a in expr.args]
    known = [p for p in parts if p is not None]
    if len(known) < len(parts) or not parts:
        return None
    if expr.is_Add:
        return math.fsum(known)
    if expr.is_Mul:
        return math.prod(known)
    if expr.is_Pow:
        value = known[0] ** known[1]
        return value if isinstance(value, float) else None
    for kind, function in ((Min, min), (Max, max)):
        if isinstance(expr, kind):
            return function(known)
    for kind, rounded in ((ceiling, math.ceil), (floor, math.floor)):
        if isinstance(expr, kind):
            return float(rounded(known[0]))
    return None


def _in_order(atoms: list[Expr]) -> list[Expr]:
    """By their texts, which are printed only where there is something to sort."""
    return sorted(atoms, key=str) if len(atoms) > 1 else atoms


def _nonnegative(difference: Expr, cases: int) -> bool:
    """True if an expanded expression is proved non-negative."""
    outer = _in_order(outermost(difference))
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
    for held in unmovable(plain, local):
        local.pop(held, None)
    local.update({name: name + 1 for atom, name in names.items() if _is_size(atom)})
    if local and not _signs(_expanded(plain, frozenset(local.items())))[0]:
        return True
    if cases <= 0:
        return False
    if outer:
        return _by_cases(difference, outer[0], cases - 1)
    return _by_stairs(difference, cases - 1)


def _by_stairs(difference: Expr, cases: int) -> bool:
    """``difference`` with a ceiling or floor replaced by the lines that it lies between."""
    found = difference.atoms(ceiling, floor)
    inner = [a for a in found if not a.args[0].has(ceiling, floor)]
    if not inner:
        return False
    atom = min(inner, key=str)
    slope = difference.coeff(atom, 1)
    if (difference - slope * atom).expand().has(atom) or slope.has(ceiling, floor):
        return False  # of a higher degree the least need not be at an end
    line = atom.args[0]
    most = gap(line) * (1 if isinstance(atom, ceiling) else -1)
    return _all_hold((difference.xreplace({atom: e}) for e in (line, line + most)), cases)


def gap(line: Expr) -> Expr:
    """The most by which rounding moves a value: ``1 − 1/d`` where ``d`` times it is whole."""
    parts = line.expand().as_coefficients_dict()
    sizes = all(s.name in SIZES for s in line.free_symbols)
    if not sizes or not all(c.is_Rational and m.is_polynomial() for m, c in parts.items()):
        return Integer(1)
    return 1 - Rational(1, math.lcm(*(int(c.q) for c in parts.values())))


@lru_cache(maxsize=1024)
def _is_size(atom: Expr) -> bool:
    """True if a minimum or maximum is proved to be at least one."""
    proofs = (dominates(a, Integer(1)) for a in atom.args)
    return all(proofs) if isinstance(atom, Min) else any(proofs)


def _all_hold(differences: Iterable[Expr], cases: int) -> bool:
    """True if all are proved non-negative: none is expanded where a point refutes one."""
    told = {d: covers(d, Integer(0)) for d in differences}
    left = [d for d, holds in told.items() if holds is None]
    if False in told.values() or any(map(_falls_below, left)):
        return False
    return all(_nonnegative(_expanded(d), cases) for d in left)


def _by_cases(difference: Expr, atom: Expr, cases: int) -> bool:
    """``difference`` with a minimum or maximum replaced by its arguments."""
    found = [difference.xreplace({atom: argument}) for argument in atom.args]
    slope = difference.coeff(atom, 1)
    if not (difference - slope * atom).expand().has(atom):
        # A minimum is at most each argument, a maximum at least.
        falls = -slope if isinstance(atom, Min) else slope
        if not _signs(expand(falls))[0]:
            return any(_all_hold((d,), cases) for d in found)
    return _all_hold(found, cases)


def pruned(candidates: Iterable[Expr]) -> tuple[Expr, ...]:
    """The candidates that no other candidate dominates, in their order."""
    kept: list[Expr] = []
    for new in dict.fromkeys(candidates):
        if any(dominates(old, new) for old in kept):
            continue
        kept = [old for old in kept if not dominates(new, old)]
        kept.append(new)
    return tuple(kept)
