"""Minima and maxima of sizes, kept short: what is provably never chosen is left out.

Binding a phase nests clipped lengths, such as ``Min(Min(T, W) - 1, W)``. sympy
knows that its symbols are positive, not that sizes are at least one, and it
does not look through sums; here the proofs of
:func:`costgraph.formula.envelope.dominates` decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from sympy import Add, Expr, Integer, Max, Min, Symbol, expand

from costgraph.formula.envelope import dominates

ZERO = Integer(0)


def least(*values: Expr) -> Expr:
    """``Min`` of sizes: provably larger ones left out, common addends in front."""
    return _chosen(Min, tuple(values))


def most(*values: Expr) -> Expr:
    """``Max`` of sizes: provably smaller ones left out, common addends in front."""
    return _chosen(Max, tuple(values))


def folded(expr: Expr) -> Expr:
    """``expr`` with its minima and maxima folded and, where there were any, expanded.

    Equal to ``expr`` for all admissible values: symbols positive, sizes at least one.
    """
    if not expr.has(Min, Max):
        return expr
    return expand(_folded(expr), power_base=False, power_exp=False, log=False)


def bound(expr: Expr, values: Mapping[Symbol, Expr]) -> Expr:
    """``expr`` with symbols replaced, its minima and maxima folded as in :func:`folded`."""
    if not expr.args:
        return values.get(expr, expr)
    clipped = _clipped(expr)
    if not clipped:
        return expr.xreplace(values)
    items = tuple(values.items())
    # A replaced minimum is not taken apart: making one anew is slow.
    known = {atom: _bound(atom, items) for atom in clipped}
    replaced = expr.xreplace({**values, **known})
    return expand(replaced, power_base=False, power_exp=False, log=False)


def renamed(expr: Expr, names: Mapping[Expr, Expr]) -> Expr:
    """``expr`` with symbols that become others: minima and maxima stay as they were chosen."""
    clipped = _clipped(expr)
    if not clipped:
        return expr.xreplace(names)
    items = tuple(names.items())
    return expr.xreplace({**names, **{atom: _renamed(atom, items) for atom in clipped}})


@lru_cache(maxsize=4096)
def _renamed(atom: Expr, items: tuple[tuple[Expr, Expr], ...]) -> Expr:
    return atom.func(*(renamed(a, dict(items)) for a in atom.args), evaluate=False)


@lru_cache(maxsize=16384)
def _clipped(expr: Expr) -> frozenset[Expr]:
    """The minima and maxima of an expression."""
    return frozenset(expr.atoms(Min, Max))


@lru_cache(maxsize=4096)
def _bound(atom: Expr, items: tuple[tuple[Symbol, Expr], ...]) -> Expr:
    return _folded(atom.func(*(a.xreplace(dict(items)) for a in atom.args), evaluate=False))


def _folded(expr: Expr) -> Expr:
    if not expr.args or not expr.has(Min, Max):
        return expr
    args = tuple(_folded(a) for a in expr.args)
    if isinstance(expr, (Min, Max)):
        return _chosen(Min if isinstance(expr, Min) else Max, args)
    return expr.func(*args)


@lru_cache(maxsize=4096)
def _chosen(kind: type[Min] | type[Max], values: tuple[Expr, ...]) -> Expr:
    flat: list[Expr] = []
    for value in values:
        flat.extend(value.args if isinstance(value, kind) else (value,))
    kept: list[Expr] = []
    for new in dict.fromkeys(flat):
        if any(_beaten(kind, new, old) for old in kept):
            continue
        kept = [old for old in kept if not _beaten(kind, old, new)]
        kept.append(new)
    if len(kept) == 1:
        return kept[0]
    # What all have in common stands in front: Min(T + g, W + g) = g + Min(T, W).
    parts = [expand(v).as_coefficients_dict() for v in kept]
    common = Add(*(c * m for m, c in parts[0].items() if all(p.get(m) == c for p in parts[1:])))
    if not common.as_coeff_Add()[0]:
        # Constants beside symbols as well: Min(T + 4, 100) = 4 + Min(T, 96).
        constants = [v.as_coeff_Add()[0] for v in kept if not v.is_number]
        common += max(ZERO, min(constants, default=ZERO))
    return common + kind(*(expand(v - common) for v in kept))


def _beaten(kind: type[Min] | type[Max], value: Expr, by: Expr) -> bool:
    """True if ``value`` is never chosen beside ``by``."""
    return dominates(value, by) if kind is Min else dominates(by, value)
