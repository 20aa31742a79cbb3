"""Regimes in two symbols: the plane cut along the curves on which bounds change.

A cylindrical decomposition: between two neighbouring critical values of the
first symbol the curves keep their order in the second, so every cell is an
interval times the strip between two curves, all exact.

Lengths that round (chunks of attention, blocks) have a first stair, which is flat, and
beyond it two curves in place of one: between them the stairs decide (:mod:`.rounded`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import sympy
from sympy import (
    QQ,
    Add,
    Expr,
    Integer,
    Max,
    Min,
    Poly,
    Rational,
    Symbol,
    ceiling,
    floor,
    fraction,
    oo,
    sqrt,
    together,
)

from costgraph.errors import InputError, clip, unbound
from costgraph.formula.evaluate import compile_expr
from costgraph.formula.isolate import sign_changes
from costgraph.formula.ladder import (
    HIDDEN,
    STAIRS,
    Found,
    bounds,
    candidates,
)
from costgraph.formula.limits import check, start_of
from costgraph.formula.reals import inside, number_key
from costgraph.formula.regimes import askable
from costgraph.formula.rounded import ends, firsts, stairs
from costgraph.formula.terms import Limit, Term
from costgraph.symbols import symbol
from costgraph.views import view_text

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula
    from costgraph.setting import Setting


ZERO = Integer(0)
#: The form of each term, and what bounds it.
_Pattern: TypeAlias = "tuple[tuple[Expr, Found], ...]"


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
        limits: what no point may exceed.
        setting: what the formula is about.
    """

    x: Symbol
    y: Symbol
    name: str
    unit: str
    regions: tuple[Region, ...]
    terms: tuple[Term, ...]
    limits: tuple[Limit, ...] = ()
    setting: Setting | None = field(default=None, compare=False)

    def at(self, x: Any, y: Any) -> Region:
        """The region of a point; on a boundary any of its neighbours (they agree there).

        Raises:
            InputError: the point lies beyond a limit.
        """
        from costgraph.formula.formula import exact

        at = {self.x: exact(x), self.y: exact(y)}
        for limit in self.limits:
            if (broken := limit.broken(at)) is not None:
                raise InputError(f"{self.name}: {broken}")
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

    def __repr__(self) -> str:
        return f"<RegionMap of {self.name} over {self.x} and {self.y}: {len(self)} regions>"

    def __str__(self) -> str:
        return view_text("region_map_text", self)

    def _repr_html_(self) -> str:
        return view_text("region_map_html", self)


def region_map(formula: Formula, x: str, y: str, /, **values: Any) -> RegionMap:
    """The regimes of ``formula`` over two symbols, from their smallest values to infinity.

    Where the formula has limits they are boundaries, and nothing lies beyond them.

    Args:
        formula: a formula without sums over contexts, polynomial in both symbols.
        x, y: the two symbols.
        values: numbers for all other symbols.

    Raises:
        UnboundSymbolError: another symbol has no value.
        InputError: the formula is not piecewise polynomial of degree at most
            two in ``y``, does not depend on both symbols, or one of them has a value.
    """
    names = {s.name for s in formula.symbols}
    for name in (x, y):
        askable(formula, name, values)
    if x == y:
        raise InputError("a map needs two different symbols")
    if formula.numerator is not None:
        raise InputError(f"{formula.name} is a rate: map the time it is made from")
    missing = sorted(names - {x, y} - set(values))
    if missing:
        raise unbound(formula.name, missing, formula.meanings)
    bound = formula.bind(**{k: v for k, v in values.items() if k in names})
    if any(t.span is not None for t in bound.terms):
        raise InputError("a sum over contexts has no regimes: use a step's time, or solve_for")
    first, second = symbol(x), symbol(y)
    check(bound, {})
    limits = tuple(
        x for x in bound.limits if x.symbols and x.symbols <= {first, second} and not x.apart
    )
    cells = _merged(_laid_out(bound.terms, limits, first, second))
    if not cells:
        raise InputError(f"{formula.name}: no {x} and {y} keep its limits")
    regions = []
    for key, found in cells.items():
        bound_by = bounds(pair for _, pairs in key for pair in pairs)
        regions.append(Region(_summed(bound.terms, key), bound_by, tuple(found)))
    return RegionMap(
        first,
        second,
        formula.name,
        formula.unit,
        tuple(regions),
        bound.terms,
        limits,
        bound.open_in(first, second),
    )


def _holds(cell: Cell, at: Mapping[Symbol, Expr]) -> bool:
    """Whether a point lies in a cell or on its edge."""
    x, y = at.values()
    bottom, top = (e.xreplace(dict(at)) for e in (cell.bottom, cell.top))
    return bool(cell.left <= x) and bool(x <= cell.right) and bool(bottom <= y) and bool(y <= top)


def _summed(terms: tuple[Term, ...], key: _Pattern) -> Expr:
    """The formula of a pattern; norms stand as they are."""
    plain: list[Expr] = []
    smooth: list[Expr] = []
    for term, (expr, _) in zip(terms, key, strict=True):
        (smooth if term.any_smooth else plain).append(term.count * expr)
    return Add(sympy.expand(Add(*plain)), *smooth)


def _pattern(terms: tuple[Term, ...], at: Mapping[Symbol, Expr]) -> _Pattern:
    """The form of each term at a point, and what bounds it."""
    point = _Point(at)
    return tuple(_form(term, point) for term in terms)


class _Point:
    """A point inside a cell, at which expressions are compared for all of the cell."""

    def __init__(self, at: Mapping[Symbol, Expr]) -> None:
        self.at, self.symbols = at, tuple(at)
        self.numbers = tuple(Fraction(int(v.p), int(v.q)) for v in at.values())

    def value(self, expr: Expr) -> Any:
        """The exact value of an expression."""
        return _function(expr, self.symbols)(*self.numbers)

    def largest(self, exprs: Sequence[Expr], sign: int = 1) -> int | None:
        """Which of them is the largest, or with ``sign`` −1 the smallest.

        None where it is another one on every stair of a length that rounds.
        """
        if not any(stairs(e, *self.symbols) for e in exprs):
            return max(range(len(exprs)), key=lambda i: sign * self.value(exprs[i]))
        for i, one in enumerate(exprs):
            if all(self._above(one, other, sign) for other in exprs if other is not one):
                return i
        return None

    def _above(self, one: Expr, other: Expr, sign: int) -> bool:
        difference = _difference(one, other)
        first = firsts(difference, *self.symbols)
        flat = frozenset(a for a, f in first.items() if self.at[f.symbol] < f.until)
        sides = _known_ends(difference, flat, self.symbols)
        return all(sign * self.value(e) >= 0 for e in sides)


@lru_cache(maxsize=4096)
def _difference(a: Expr, b: Expr) -> Expr:
    return a - b


@lru_cache(maxsize=4096)
def _known_ends(expr: Expr, flat: frozenset[Expr], symbols: tuple[Symbol, ...]) -> tuple[Expr, ...]:
    """The ends of an expression, some of its stairs at their first height."""
    first = firsts(expr, *symbols)
    return ends(expr.xreplace({a: first[a].height for a in flat}), *symbols)


def _form(term: Term, point: _Point) -> tuple[Expr, Found]:
    """The form of a term, its inner minima and maxima decided, and what bounds it.

    A form is the largest arm, or the norm of all. What bounds it is the largest of its
    candidates, or whatever bounds the terms of its largest chain.
    """
    if not term.is_nested:
        arms = candidates(term)
        exprs = [_decided(a.expr, point) for a in arms] if len(arms) > 1 else []
        at = point.largest(exprs) if exprs else 0
        whole = term.is_smooth or arms != term.arms
        if at is None:
            form = term.value if whole else Max(*exprs, evaluate=False)
            return _decided(form, point), ((term, STAIRS),)
        form = term.value if whole else arms[at].expr
        return _decided(form, point), ((term, arms[at].resource),)
    forms = _bodies(term, point)
    at = point.largest([expr for expr, _ in forms])
    if at is None:
        every = dict.fromkeys((t, STAIRS) for _, found in forms for t, _ in found)
        return Max(*(expr for expr, _ in forms), evaluate=False), tuple(every)
    expr, found = forms[at]
    if term.arms[at].chain:
        others = (a for i, a in enumerate(term.arms) if i != at)
        found += tuple((t, HIDDEN) for a in others for t in a.chain)
    return expr, found


def _bodies(term: Term, point: _Point) -> list[tuple[Expr, Found]]:
    """The form of each arm of a maximum of chains."""
    forms: list[tuple[Expr, Found]] = []
    for arm in term.arms:
        inner = [(t.count, *_form(t, point)) for t in arm.chain]
        if inner:
            total = sympy.expand(Add(*(count * expr for count, expr, _ in inner)))
            forms.append((total, tuple(pair for _, _, found in inner for pair in found)))
        else:
            forms.append((_decided(arm.expr, point), ((term, arm.resource),)))
    return forms


@lru_cache(maxsize=4096)
def _function(expr: Expr, symbols: tuple[Symbol, ...]) -> Callable[..., Any]:
    """Exact values of an expression; of long powers to double precision."""
    return compile_expr(expr, symbols, exact=True)


def _decided(expr: Expr, point: _Point) -> Expr:
    """``expr`` with each minimum and maximum replaced by what it is at the point.

    One that stairs decide stays.
    """
    if not expr.has(Min, Max):
        return expr

    def decide(e: Expr) -> Expr:
        at = point.largest(e.args, 1 if isinstance(e, Max) else -1)
        return e if at is None else e.args[at]

    return expr.replace(lambda e: isinstance(e, (Min, Max)), decide)


#: A map of more curves than this takes too long to lay out.
MOST_CURVES = 160


def _laid_out(
    terms: tuple[Term, ...], limits: Sequence[Limit], x: Symbol, y: Symbol
) -> list[tuple[_Pattern, Cell]]:
    """The plane in cells, each with the pattern that holds in it.

    Which curves part the chains of a maximum depends on what bounds their terms: the
    plane is cut along the curves of the terms first, then along those of the maxima that
    occur, until there is nothing to cut.
    """
    curves = _curves(tuple(_unnested(terms)), limits, x, y)
    nested = [t for t in _all(terms) if t.is_nested]
    while True:
        if len(curves) > MOST_CURVES:
            raise InputError("too many bounds change for a map over two symbols: take regimes")
        cells = _cells(terms, limits, curves, x, y)
        found = dict.fromkeys(curves)
        for cell in (cell for _, cell in cells) if nested else ():
            at = inside(cell.left, cell.right)
            place = _Place(x, at, y, *(e.xreplace({x: at}) for e in (cell.bottom, cell.top)))
            for term in nested:
                for (a, _), (b, _) in combinations(_bodies(term, place.point), 2):
                    _note(a - b, x, y, found)
        if len(found) == len(curves):
            return cells
        curves = list(found)


def _all(terms: Iterable[Term]) -> Iterator[Term]:
    """Terms and those in their chains."""
    for term in terms:
        yield term
        for arm in term.arms:
            yield from _all(arm.chain)


def _unnested(terms: Iterable[Term]) -> Iterator[Term]:
    """Every maximum of plain arms; of one with chains, each plain arm by itself."""
    for term in _all(terms):
        if not term.is_nested:
            yield term
            continue
        for arm in term.arms:
            if not arm.chain:
                yield replace(term, arms=(arm,))


def _curves(terms: tuple[Term, ...], limits: Sequence[Limit], x: Symbol, y: Symbol) -> list[Poly]:
    """Distinct irreducible curves: a limit, or where arms or an inner minimum change."""
    found: dict[Poly, None] = {}
    for limit in limits:
        _note(limit.excess, x, y, found)
    for term in terms:
        found.update(dict.fromkeys(_curves_of(term, x, y)))
    return list(found)


@lru_cache(maxsize=4096)
def _curves_of(term: Term, x: Symbol, y: Symbol) -> tuple[Poly, ...]:
    """Distinct irreducible curves where arms of a term or an inner minimum change."""
    found: dict[Poly, None] = {}
    arms = [a.expr for a in candidates(term)]
    inner = (atom.args for expr in arms for atom in expr.atoms(Min, Max))
    for exprs in (tuple(arms), *inner):
        for variant in _variants(exprs):
            for a, b in combinations(variant, 2):
                _note(a - b, x, y, found)
    return tuple(found)


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
    if stairs(difference, x, y):
        _note_stairs(difference, x, y, found)
        return
    try:
        top, bottom = fraction(together(difference))
        if bottom != 1 and all(c > 0 for c in Poly(bottom, x, y, domain=QQ).coeffs()):
            difference = top
        poly = Poly(difference, x, y, domain=QQ)
    except (sympy.PolynomialError, sympy.CoercionFailed):
        for poly in _enclosed(difference, x, y):
            found[poly] = None
        return
    if poly.is_zero:
        return
    for factor, _ in poly.factor_list()[1]:
        # A factor of one sign on the positive quadrant is no boundary.
        if len({c > 0 for c in factor.coeffs()}) > 1:
            found[factor.primitive()[1]] = None


def _note_stairs(difference: Expr, x: Symbol, y: Symbol, found: dict[Poly, None]) -> None:
    """Curves between which the sign of a difference may be another on every stair.

    First stairs are flat: there it is as without.
    """
    first = firsts(difference, x, y)
    for stair in first.values():
        _note(stair.symbol - stair.until, x, y, found)
    levels = {f.until for f in first.values()}
    for level in sorted({ZERO, *levels}):
        flat = frozenset(a for a, f in first.items() if f.until > level)
        for end in _known_ends(difference, flat, (x, y)):
            _note(end, x, y, found)


#: Stands for what an expression without a polynomial form depends on.
_ONE = symbol("u")


def _enclosed(difference: Expr, x: Symbol, y: Symbol) -> list[Poly]:
    """Curves on which a difference changes its sign that is no polynomial.

    Expected experts bring powers such as ``(31/32)**(B*S)``: of a single amount, one of
    the symbols or their product (tokens). Its values at sign changes are enclosed as along
    one symbol (:mod:`.isolate`), and each is a curve.
    """
    amounts = (({y: _ONE / x}, x * y), ({x: _ONE}, x), ({y: _ONE}, y))
    for replaced, amount in () if difference.has(ceiling, floor) else amounts:
        along = sympy.expand(difference.xreplace(replaced), power_base=False, power_exp=False)
        if not along.free_symbols <= {_ONE}:
            continue
        least = amount.xreplace({x: start_of(x), y: start_of(y)})
        roots = sign_changes(along, _ONE, least)
        return [Poly(amount - root, x, y, domain=QQ).primitive()[1] for root in roots]
    raise InputError(
        f"{clip(str(difference), 120)} is not a polynomial in {x} and {y}: use regimes along one "
        "of them, or evaluate"
    )


def _cells(
    terms: tuple[Term, ...], limits: Sequence[Limit], curves: list[Poly], x: Symbol, y: Symbol
) -> list[tuple[_Pattern, Cell]]:
    floor_y = start_of(y)
    forms = _Forms(terms, curves, x, y)
    found = []
    for left, right in pairwise([start_of(x), *_critical(curves, x, y), oo]):
        at = inside(left, right)
        strips: list[tuple[Expr, Expr, int | None]] = [(floor_y, floor_y, None)]
        for number, curve in enumerate(curves):
            for root, expr in _roots_over(curve, x, y, at):
                if root > floor_y:
                    strips.append((root, expr, number))
        strips.sort(key=lambda s: number_key(s[0]))
        crossed: list[int] = []
        for (low, bottom, below), (high, top, _) in pairwise([*strips, (oo, oo, None)]):
            crossed += () if below is None else (below,)
            if low == high:
                continue
            place = _Place(x, at, y, low, high)
            if any(limit.broken(place.point.at) is not None for limit in limits):
                continue
            found.append((forms.at(place, crossed), Cell(left, right, bottom, top)))
    return found


@dataclass(frozen=True)
class _Place:
    """A strip over a column; its point is found when something is asked at it."""

    x: Symbol
    at: Rational
    y: Symbol
    low: Expr
    high: Expr

    @cached_property
    def point(self) -> _Point:
        return _Point({self.x: self.at, self.y: inside(self.low, self.high)})


class _Forms:
    """The forms of terms in strips: each is decided once between curves of its own.

    A term on whose form no other curves bear keeps it from one to the next of those. Where
    they are level, the form is the same over all columns.
    """

    def __init__(
        self, terms: tuple[Term, ...], curves: Sequence[Poly], x: Symbol, y: Symbol
    ) -> None:
        self._terms = terms
        numbers = {curve: number for number, curve in enumerate(curves)}
        own = [None if t.is_nested else _curves_of(t, x, y) for t in terms]
        self._own = [None if o is None else frozenset(numbers[c] for c in o) for o in own]
        self._level = [o is not None and all(c.degree(x) == 0 for c in o) for o in own]
        self._known: dict[tuple[int, Rational | None, int], tuple[Expr, Found]] = {}

    def at(self, place: _Place, crossed: Sequence[int]) -> _Pattern:
        """The forms in a strip of a column, behind all the curves that were crossed in it."""
        found = []
        for i, (term, own) in enumerate(zip(self._terms, self._own, strict=True)):
            behind = len(crossed) if own is None else sum(c in own for c in crossed)
            key = i, None if self._level[i] else place.at, behind
            if key not in self._known:
                self._known[key] = _form(term, place.point)
            found.append(self._known[key])
        return tuple(found)


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
    over = [c.as_expr() for c in curves if c.degree(y) > 0]
    for a, b in combinations(over, 2):
        if a.has(x) or b.has(x):  # others are level, and never cross
            note(sympy.resultant(a, b, y))
    floor_x = start_of(x)
    roots = {r for p in polys for r in p.real_roots() if r > floor_x}
    return sorted(roots, key=number_key)


def _roots_over(curve: Poly, x: Symbol, y: Symbol, at: Rational) -> list[tuple[Expr, Expr]]:
    """(value at ``x = at``, closed form in ``x``) of the curve's branches."""
    values = [(branch.xreplace({x: at}), branch) for branch in _branches(curve, y)]
    return [(value, branch) for value, branch in values if value.is_real and value.is_finite]


@lru_cache(maxsize=4096)
def _branches(curve: Poly, y: Symbol) -> tuple[Expr, ...]:
    """The values of ``y`` on a curve, as closed forms."""
    in_y = Poly(curve.as_expr(), y)
    if in_y.degree() == 0:
        return ()
    if in_y.degree() == 1:
        slope, constant = in_y.all_coeffs()
        return (sympy.cancel(-constant / slope),)
    if in_y.degree() == 2:
        a, b, c = in_y.all_coeffs()
        root = sqrt(sympy.expand(b**2 - 4 * a * c))
        return (-b - root) / (2 * a), (-b + root) / (2 * a)
    raise InputError(f"a boundary of degree {in_y.degree()} in {y} has no simple form")


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
