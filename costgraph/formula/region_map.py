"""Regimes in two symbols: the plane cut along the curves on which bounds change.

A cylindrical decomposition: between two neighbouring critical values of the
first symbol the curves keep their order in the second, so every cell is an
interval times the strip between two curves, all exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import sympy
from sympy import QQ, Add, Expr, Max, Min, Poly, Rational, Symbol, fraction, oo, sqrt, together

from costgraph.errors import InputError, UnboundSymbolError, clip
from costgraph.formula.ladder import bounds, candidates, inside, number_key, start_of
from costgraph.formula.powers import placed
from costgraph.formula.terms import Arm, Term
from costgraph.symbols import symbol

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula


#: The largest arm of each term.
_Pattern: TypeAlias = "tuple[Arm, ...]"


@dataclass(frozen=True)
class Cell:
    """``left <= x < right`` and ``bottom(x) <= y < top(x)``, all ends exact."""

    left: Expr
    right: Expr
    bottom: Expr
    top: Expr


@dataclass(frozen=True)
class Region:
    """Where one choice of largest arms holds.

    Attributes:
        expr: the formula there, without maxima.
        bound: operations by the resource that bounds them there.
        cells: the parts of the plane it consists of.
    """

    expr: Expr
    bound: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class RegionMap:
    """A formula over the plane of two symbols.

    Attributes:
        x, y: the symbols, in their order.
        name, unit: of the formula.
        regions: every choice of largest arms that occurs.
        terms: the formula's terms, for looking up a point.
    """

    x: Symbol
    y: Symbol
    name: str
    unit: str
    regions: tuple[Region, ...]
    terms: tuple[Term, ...]

    def at(self, x: Any, y: Any) -> Region:
        """The region of a point; on a boundary any of its neighbours (they agree there)."""
        from costgraph.formula.formula import exact

        at = {self.x: exact(x), self.y: exact(y)}
        key = _pattern(self.terms, at)
        if key in self._by_pattern:
            return self._by_pattern[key]
        # On a boundary two arms are equal and the lookup may pick either.
        return next(r for r in self.regions if any(_holds(c, at) for c in r.cells))

    @cached_property
    def _by_pattern(self) -> Mapping[_Pattern, Region]:
        found = {}
        for region in self.regions:
            cell = region.cells[0]
            x = inside(cell.left, cell.right)
            bottom, top = (e.xreplace({self.x: x}) for e in (cell.bottom, cell.top))
            found[_pattern(self.terms, {self.x: x, self.y: inside(bottom, top)})] = region
        return found

    def __len__(self) -> int:
        return len(self.regions)

    def __str__(self) -> str:
        from costgraph.export.regimes import region_map_text

        return region_map_text(self)

    def _repr_html_(self) -> str:
        from costgraph.export.notebook import region_map_html

        return region_map_html(self)


def region_map(formula: Formula, x: str, y: str, **values: Any) -> RegionMap:
    """The regimes of ``formula`` over two symbols, from their smallest values to infinity.

    Args:
        formula: a formula without sums over contexts, polynomial in both symbols.
        x, y: the two symbols.
        values: numbers for all other symbols.

    Raises:
        UnboundSymbolError: another symbol has no value.
        InputError: the formula is not piecewise polynomial of degree at most
            two in ``y``, or does not depend on both symbols.
    """
    names = {s.name for s in formula.symbols}
    formula._reject_unknown(values)
    for name in (x, y):
        if name not in names:
            raise InputError(f"{formula.name} does not depend on {name}")
    if x == y:
        raise InputError("a map needs two different symbols")
    if formula.numerator is not None:
        raise InputError(f"{formula.name} is a rate: map the time it is made from")
    missing = sorted(names - {x, y} - set(values))
    if missing:
        raise UnboundSymbolError(f"{formula.name}: no value for {', '.join(missing)}")
    bound = formula.bind(**{k: v for k, v in values.items() if k in names})
    if any(t.span is not None for t in bound.terms):
        raise InputError("a sum over contexts has no regimes: use a step's time, or solve_for")
    first, second = symbol(x), symbol(y)
    curves = _curves(bound.terms, first, second)
    cells = _merged(_cells(bound.terms, curves, first, second))
    regions = []
    for key, found in cells.items():
        made = Region(_summed(bound.terms, key), _bounds(bound.terms, key), tuple(found))
        regions.append(made)
    return RegionMap(first, second, formula.name, formula.unit, tuple(regions), bound.terms)


def _holds(cell: Cell, at: Mapping[Symbol, Expr]) -> bool:
    """Whether a point lies in a cell or on its edge."""
    x, y = at.values()
    bottom, top = (e.xreplace(dict(at)) for e in (cell.bottom, cell.top))
    return bool(cell.left <= x) and bool(x <= cell.right) and bool(bottom <= y) and bool(y <= top)


def _summed(terms: tuple[Term, ...], key: _Pattern) -> Expr:
    """The formula of a pattern; norms stand as they are."""
    smooth = [t.count * a.expr for t, a in zip(terms, key, strict=True) if t.is_smooth]
    plain = [t.count * a.expr for t, a in zip(terms, key, strict=True) if not t.is_smooth]
    return Add(sympy.expand(Add(*plain)), *smooth)


def _bounds(terms: tuple[Term, ...], key: _Pattern) -> Mapping[str, tuple[str, ...]]:
    rungs = ((t, a.resource) for t, a in zip(terms, key, strict=True))
    return bounds(rungs)


def _pattern(terms: tuple[Term, ...], at: Mapping[Symbol, Expr]) -> _Pattern:
    """The form of each term at a point, and what bounds it.

    A form is the largest arm, or the norm of all, with inner minima and maxima
    decided there. What bounds it is the largest of its candidates.
    """
    point = dict(at)
    found = []
    for term in terms:
        arms = candidates(term)
        arm = arms[0]
        if len(arms) > 1:
            arm = max(arms, key=lambda a: placed(a.expr, point))
        form = arm.expr if arms == term.arms else term.value
        found.append(Arm(_decided(form, point), arm.resource))
    return tuple(found)


def _decided(expr: Expr, point: dict[Symbol, Expr]) -> Expr:
    """``expr`` with each minimum and maximum replaced by what it is at the point."""
    if not expr.has(Min, Max):
        return expr

    def decide(e: Expr) -> Expr:
        pick = max if isinstance(e, Max) else min
        return pick(e.args, key=lambda a: placed(a, point))

    return expr.replace(lambda e: isinstance(e, (Min, Max)), decide)


def _curves(terms: tuple[Term, ...], x: Symbol, y: Symbol) -> list[Poly]:
    """Distinct irreducible curves on which a choice of arms or of an inner minimum changes."""
    found: dict[Poly, None] = {}
    for term in terms:
        for variant in _variants(tuple(a.expr for a in candidates(term))):
            for a, b in combinations(variant, 2):
                _note(a - b, x, y, found)
        for arm in candidates(term):
            for atom in arm.expr.atoms(Min, Max):
                for variant in _variants(atom.args):
                    for a, b in combinations(variant, 2):
                        _note(a - b, x, y, found)
    return list(found)


#: More undecided minima and maxima than this in one term are too many to lay out.
MOST_CHOICES = 64


def _variants(exprs: tuple[Expr, ...]) -> list[tuple[Expr, ...]]:
    """The expressions under every way of deciding their minima and maxima."""
    atoms = {a for e in exprs for a in e.atoms(Min, Max)}
    inner = [a for a in atoms if not any(b is not a and a.has(b) for b in atoms)]
    if not inner:
        return [exprs]
    atom = min(inner, key=str)
    found = []
    for choice in atom.args:
        found += _variants(tuple(e.xreplace({atom: choice}) for e in exprs))
        if len(found) > MOST_CHOICES:
            raise InputError("too many clipped lengths for a map over two symbols")
    return found


def _note(difference: Expr, x: Symbol, y: Symbol, found: dict[Poly, None]) -> None:
    try:
        top, bottom = fraction(together(difference))
        if bottom != 1 and all(c > 0 for c in Poly(bottom, x, y, domain=QQ).coeffs()):
            difference = top
        poly = Poly(difference, x, y, domain=QQ)
    except (sympy.PolynomialError, sympy.CoercionFailed):
        raise InputError(
            f"{clip(str(difference), 120)} is not a polynomial in {x} and {y}"
        ) from None
    if poly.is_zero:
        return
    for factor, _ in poly.factor_list()[1]:
        # A factor of one sign on the positive quadrant is no boundary.
        if len({c > 0 for c in factor.coeffs()}) > 1:
            found[factor.primitive()[1]] = None


def _cells(
    terms: tuple[Term, ...], curves: list[Poly], x: Symbol, y: Symbol
) -> list[tuple[_Pattern, Cell]]:
    floor_y = start_of(y)
    found = []
    for left, right in pairwise([start_of(x), *_critical(curves, x, y), oo]):
        at = inside(left, right)
        strips: list[tuple[Expr, Expr]] = [(floor_y, floor_y)]
        for curve in curves:
            for root, expr in _roots_over(curve, x, y, at):
                if root > floor_y:
                    strips.append((root, expr))
        strips.sort(key=lambda s: number_key(s[0]))
        levels = [s[0] for s in strips] + [oo]
        edges = [s[1] for s in strips] + [oo]
        for (low, high), (bottom, top) in zip(pairwise(levels), pairwise(edges), strict=True):
            if low == high:
                continue
            point = {x: at, y: inside(low, high)}
            found.append((_pattern(terms, point), Cell(left, right, bottom, top)))
    return found


def _critical(curves: list[Poly], x: Symbol, y: Symbol) -> list[Expr]:
    """Values of ``x`` at which curves cross, turn, or meet the lower edge."""
    polys: dict[Poly, None] = {}

    def note(expr: Expr) -> None:
        poly = Poly(expr, x, domain=QQ)
        for factor, _ in poly.factor_list()[1] if not poly.is_zero else ():
            polys[factor.primitive()[1]] = None

    for curve in curves:
        in_y = Poly(curve.as_expr(), y)
        note(curve.as_expr().xreplace({y: start_of(y)}))
        if in_y.degree() > 0:
            note(in_y.LC())
        if in_y.degree() > 1:
            note(in_y.discriminant())
    for a, b in combinations(curves, 2):
        if Poly(a.as_expr(), y).degree() > 0 and Poly(b.as_expr(), y).degree() > 0:
            note(sympy.resultant(a.as_expr(), b.as_expr(), y))
    floor_x = start_of(x)
    roots = {r for p in polys for r in p.real_roots() if r > floor_x}
    return sorted(roots, key=number_key)


def _roots_over(curve: Poly, x: Symbol, y: Symbol, at: Rational) -> list[tuple[Expr, Expr]]:
    """(value at ``x = at``, closed form in ``x``) of the curve's branches."""
    in_y = Poly(curve.as_expr(), y)
    if in_y.degree() == 0:
        return []
    if in_y.degree() == 1:
        slope, constant = in_y.all_coeffs()
        branches = [sympy.cancel(-constant / slope)]
    elif in_y.degree() == 2:
        a, b, c = in_y.all_coeffs()
        root = sqrt(sympy.expand(b**2 - 4 * a * c))
        branches = [(-b - root) / (2 * a), (-b + root) / (2 * a)]
    else:
        raise InputError(f"a boundary of degree {in_y.degree()} in {y} has no simple form")
    values = [(branch.xreplace({x: at}), branch) for branch in branches]
    return [(value, branch) for value, branch in values if value.is_real and value.is_finite]


def _merged(
    cells: list[tuple[_Pattern, Cell]],
) -> dict[_Pattern, list[Cell]]:
    """Cells by pattern; stacked and neighbouring ones joined where they fit."""
    found: dict[_Pattern, list[Cell]] = {}
    for key, cell in cells:
        known = found.setdefault(key, [])
        if known and known[-1].left == cell.left and known[-1].top == cell.bottom:
            known[-1] = Cell(cell.left, cell.right, known[-1].bottom, cell.top)
        else:
            known.append(cell)
    return {key: _joined(parts) for key, parts in found.items()}


def _joined(parts: list[Cell]) -> list[Cell]:
    out: list[Cell] = []
    for cell in parts:
        for index, before in enumerate(out):
            if (before.right, before.bottom, before.top) == (cell.left, cell.bottom, cell.top):
                out[index] = Cell(before.left, cell.right, cell.bottom, cell.top)
                break
        else:
            out.append(cell)
    return out


__all__ = ["Cell", "Region", "RegionMap", "region_map"]
