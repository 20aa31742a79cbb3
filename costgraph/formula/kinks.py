"""Splitting a sum over contexts where a clipped length stops growing.

Arms that contain ``Min(T, W)`` are not affine in ``T``, but on either side of
``W`` they are. A range ``l … u`` is cut at ``c = Max(l − 1, Min(u, W))``; either
part, ``l … c`` and ``c + 1 … u``, may be empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sympy import Expr, Max, Min, Symbol, expand, floor

from costgraph.formula.envelope import dominates
from costgraph.formula.sums import affine
from costgraph.formula.terms import Arm, Span
from costgraph.symbols import LEGEND


@dataclass(frozen=True)
class _Piece:
    """A part of a span: arms, range, and kinks known to lie beyond either end."""

    arms: tuple[Arm, ...]
    span: Span
    above: tuple[Expr, ...] = ()
    below: tuple[Expr, ...] = ()


def split(arms: tuple[Arm, ...], span: Span) -> tuple[tuple[tuple[Arm, ...], Span], ...]:
    """Arms and ranges, in order, without a minimum or maximum that changes within a range.

    What cannot be decided (slopes that depend on symbols, lengths in a ceiling)
    stays as it is. The ranges need ``upper >= lower − 1``.
    """
    return tuple((p.arms, p.span) for p in _pieces(_Piece(arms, span)))


def _pieces(piece: _Piece) -> Iterator[_Piece]:
    found = kink(piece.arms, piece.span.symbol)
    if found is None:
        yield piece
        return
    at, low, high = found
    if any(dominates(at, k) for k in piece.above):  # all of the range is up to the kink
        yield from _pieces(_replaced(piece, low, piece.span))
        return
    if any(dominates(k, at) for k in piece.below):
        yield from _pieces(_replaced(piece, high, piece.span))
        return
    span = piece.span
    cut = Max(span.lower - 1, Min(span.upper, at if _is_whole(at) else floor(at)))
    first = _Piece(piece.arms, Span(span.symbol, span.lower, cut), (*piece.above, at), piece.below)
    yield from _pieces(_replaced(first, low, first.span))
    second = _Piece(
        piece.arms, Span(span.symbol, cut + 1, span.upper), piece.above, (*piece.below, at)
    )
    yield from _pieces(_replaced(second, high, second.span))


def _is_whole(value: Expr) -> bool:
    """True for sums of whole multiples of sizes, which are whole numbers."""
    sizes = all(s.name in LEGEND for s in value.free_symbols)
    parts = expand(value).as_coefficients_dict().items()
    return sizes and all(c.is_Integer and m.is_polynomial() for m, c in parts)


def _replaced(piece: _Piece, values: dict[Expr, Expr], span: Span) -> _Piece:
    arms = tuple(a.mapped(lambda e: e.xreplace(values)) for a in piece.arms)
    return _Piece(arms, span, piece.above, piece.below)


def kink(
    arms: tuple[Arm, ...], symbol: Symbol
) -> tuple[Expr, dict[Expr, Expr], dict[Expr, Expr]] | None:
    """(place, replacements up to it, replacements beyond it) of one kink, or None."""
    leaves = (leaf for arm in arms for leaf in arm.leaves)
    atoms = {a for leaf in leaves for a in leaf.expr.atoms(Min, Max) if a.has(symbol)}
    for atom in sorted(atoms, key=str):
        if any(inner is not atom and atom.has(inner) for inner in atoms):
            continue  # the innermost first
        found = _crossing(atom, symbol)
        if found is not None:
            return found
    return None


def _crossing(atom: Expr, symbol: Symbol) -> tuple[Expr, dict[Expr, Expr], dict[Expr, Expr]] | None:
    """Where two arguments of a minimum or maximum change their order."""
    args = sorted(atom.args, key=str)
    for i, a in enumerate(args):
        for b in args[i + 1 :]:
            line = affine(a - b, symbol)
            if line is None or not (line[1].is_positive or line[1].is_negative):
                continue
            steep, flat = (a, b) if line[1].is_positive else (b, a)
            small, large = (steep, flat) if isinstance(atom, Min) else (flat, steep)

            def without(gone: Expr) -> Expr:
                return atom.func(*(x for x in atom.args if x != gone))

            # Up to the crossing the steeper argument is the smaller one.
            return -line[0] / line[1], {atom: without(large)}, {atom: without(small)}
    return None
