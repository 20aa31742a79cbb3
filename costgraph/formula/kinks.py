"""Splitting a sum over contexts where a clipped length stops growing.

Arms that contain ``Min(T, W)`` are not affine in ``T``, but on either side of
``W`` they are. A range ``l … u`` is cut at ``c = Max(l − 1, Min(u, W))``; either
part, ``l … c`` and ``c + 1 … u``, may be empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sympy import Expr, Max, Min, Symbol, floor

from costgraph.formula.envelope import dominates
from costgraph.formula.sums import affine
from costgraph.formula.terms import Arm, Span


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
    kink = _kink(piece)
    if kink is None:
        yield piece
        return
    at, low, high = kink
    if any(dominates(at, k) for k in piece.above):  # all of the range is up to the kink
        yield from _pieces(_replaced(piece, low, piece.span))
        return
    if any(dominates(k, at) for k in piece.below):
        yield from _pieces(_replaced(piece, high, piece.span))
        return
    span = piece.span
    whole = at if at.is_integer or at.free_symbols else floor(at)
    cut = Max(span.lower - 1, Min(span.upper, whole))
    first = _Piece(piece.arms, Span(span.symbol, span.lower, cut), (*piece.above, at), piece.below)
    yield from _pieces(_replaced(first, low, first.span))
    second = _Piece(
        piece.arms, Span(span.symbol, cut + 1, span.upper), piece.above, (*piece.below, at)
    )
    yield from _pieces(_replaced(second, high, second.span))


def _replaced(piece: _Piece, values: dict[Expr, Expr], span: Span) -> _Piece:
    arms = tuple(Arm(a.expr.xreplace(values), a.resource) for a in piece.arms)
    return _Piece(arms, span, piece.above, piece.below)


def _kink(piece: _Piece) -> tuple[Expr, dict[Expr, Expr], dict[Expr, Expr]] | None:
    """(place, replacements up to it, replacements beyond it) of one kink, or None."""
    symbol = piece.span.symbol
    atoms = {a for arm in piece.arms for a in arm.expr.atoms(Min, Max) if a.has(symbol)}
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
