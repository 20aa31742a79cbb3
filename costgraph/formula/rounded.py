"""Signs of expressions that round: polynomials with ``⌈(x + k)/m⌉``, along a whole symbol.

Chunks of attention, blocks and pages bring such stairs. A stair lies within one of the line
under it: ``⌈u⌉ = u + s`` with a slack ``0 ≤ s ≤ 1 − 1/d`` where ``d·u`` is whole. So the
expression lies between polynomials, one for each end of every slack; where all of them have
one sign, it has it, on every stair. Where they have not, stairs are looked at one by one, each
a polynomial, as long as they are few.

What is said holds at whole values: a stretch that a stair ends, ends at the first of the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise, product

from sympy import (
    Dummy,
    Expr,
    Integer,
    Max,
    Min,
    Poly,
    PolynomialError,
    Pow,
    Rational,
    Symbol,
    ceiling,
    expand,
    floor,
    fraction,
    oo,
    together,
)

from costgraph.errors import InputError, UnboundSymbolError, clip
from costgraph.formula.envelope import gap, outermost
from costgraph.formula.polynomials import is_rational, rationalized, roots_above_zero
from costgraph.formula.reals import inside, parts
from costgraph.symbols import SIZES

ZERO, ONE = Integer(0), Integer(1)
#: Stairs that are looked at one by one where the sign is open on finitely many of them.
MOST_STAIRS = 64
#: Those looked at where it is open on more, before the rest is left open.
FIRST_STAIRS = 8
#: Polynomials that one expression may lie between.
_MOST_ENDS = 256


@dataclass(frozen=True)
class Signed:
    """``lower <= x < upper``: the sign there; None where it is open, stair by stair."""

    lower: Expr
    upper: Expr
    sign: int | None


@lru_cache(maxsize=4096)
def stairs(expr: Expr, *symbols: Symbol) -> frozenset[Expr]:
    """The ceilings and floors in an expression that change with any of the symbols."""
    return frozenset(a for a in expr.atoms(ceiling, floor) if a.has(*symbols))


def rounds(expr: Expr, x: Symbol) -> bool:
    """Whether an expression has stairs along a symbol of whole values."""
    return x.name in SIZES and bool(stairs(expr, x))


def unrounded(expr: Expr, *symbols: Symbol) -> tuple[Expr, dict[Symbol, Rational]]:
    """``expr`` with each stair as its line and a slack, and how large each slack may be."""
    slacks: dict[Symbol, Rational] = {}
    while found := stairs(expr, *symbols):
        inner = min((a for a in found if not stairs(a.args[0], *symbols)), key=str)
        slack = Dummy("s")
        slacks[slack] = gap(inner.args[0])
        line = inner.args[0] + (slack if isinstance(inner, ceiling) else -slack)
        expr = expr.xreplace({inner: line})
    return expr, slacks


def ends(expr: Expr, *symbols: Symbol) -> tuple[Expr, ...]:
    """Expressions without stairs such that ``expr`` lies between the least and the greatest.

    Raises:
        InputError: there are too many.
    """
    plain, slacks = unrounded(expr, *symbols)
    found = [plain]
    for slack, most in slacks.items():
        made: list[Expr] = []
        for one in found:
            made += _between(expand(one), slack, most, symbols)
        found = list(dict.fromkeys(made))
        if len(found) > _MOST_ENDS:
            raise InputError(f"{clip(str(expr), 120)} rounds in too many places")
    return tuple(found)


def _between(expr: Expr, slack: Symbol, most: Rational, symbols: Sequence[Symbol]) -> list[Expr]:
    """What bounds an expression over ``0 ≤ slack ≤ most``."""
    if not expr.has(slack):
        return [expr]
    powers = Poly(expr, slack)
    at = [expr.xreplace({slack: ZERO}), expr.xreplace({slack: most})]
    if powers.degree() == 1:
        return at
    if powers.degree() == 2:
        turn = -powers.coeff_monomial(slack) / (2 * powers.LC())
        turn = turn.cancel()
        if turn.is_Rational:
            return [*at, *([expr.xreplace({slack: turn})] if 0 < turn < most else [])]
    # Every power as if it had a slack of its own.
    found = [ZERO]
    for (power,), coefficient in powers.terms():
        sides = {coefficient * value**power for value in (ZERO, most)} if power else {coefficient}
        found = [a + b for a in found for b in sides]
    return found


@dataclass(frozen=True)
class First:
    """The first stair of a length: ``height`` while ``symbol`` is below ``until``."""

    symbol: Symbol
    until: Integer
    height: Expr


@lru_cache(maxsize=4096)
def firsts(expr: Expr, *symbols: Symbol) -> Mapping[Expr, First]:
    """The first stairs of what rounds a line of one symbol of whole values."""
    found = {}
    for atom in stairs(expr, *symbols):
        (symbol, *more) = sorted(atom.free_symbols, key=str)
        if more or symbol.name not in SIZES or stairs(atom.args[0], symbol):
            continue
        height = atom.xreplace({symbol: ONE})
        found[atom] = First(symbol, _next(atom, symbol, ONE), height)
    return found


def sign_stretches(
    expr: Expr, x: Symbol, lower: Expr, upper: Expr, most: int = MOST_STAIRS
) -> Iterator[Signed]:
    """The sign of ``expr`` from one bound to another, in order.

    Args:
        expr: built of ``x``, its stairs, and minima and maxima of such.
        x: a symbol of whole values.
        lower, upper: numbers; the upper one may be infinite.
        most: stairs that are looked at one by one at the most.

    Raises:
        InputError: the expression is no polynomial of ``x`` and stairs.
        UnboundSymbolError: it has other symbols.
    """
    given = expr.free_symbols | lower.free_symbols | upper.free_symbols
    names = sorted(s.name for s in given - {x})
    if names:
        what = f"{clip(str(expr), 120)} rounds in {x}: bind {', '.join(names)}"
        raise UnboundSymbolError(what, names)
    expr = _cleared(rationalized(expr), x, lower, upper)
    found: list[Signed] = []
    for part in _settled(expr, x, lower, upper):
        one_by_one = _each(expr, x, part, most) if part.sign is None else (part,)
        for made in one_by_one:
            if found and found[-1].sign == made.sign:
                found[-1] = Signed(found[-1].lower, made.upper, made.sign)
            else:
                found.append(made)
    return iter(found)


def _cleared(expr: Expr, x: Symbol, lower: Expr, upper: Expr) -> Expr:
    """An expression of the same sign without denominators in ``x``."""
    if expr.has(Min, Max) or not any(p.has(x) and p.exp.is_negative for p in expr.atoms(Pow)):
        return expr
    top, bottom = fraction(together(expr))
    signs = {part.sign for part in _settled(bottom, x, lower, upper)}
    if signs <= {1, -1} and len(signs) == 1:
        return top * signs.pop()
    return top * bottom


def _settled(expr: Expr, x: Symbol, lower: Expr, upper: Expr) -> list[Signed]:
    """Stretches on which what bounds the expression has one sign, and those between them."""
    polys = [_poly(e, x) for chosen in _choices(expr) for e in ends(chosen, x)]
    roots = {r for p in polys if not p.is_zero for r in roots_above_zero(p)}
    found: list[Signed] = []
    for a, b in parts(lower, upper, roots):
        at = inside(a, b)
        signs = {_sign(p(at)) for p in polys} - {0}
        sign = None if len(signs) > 1 else signs.pop() if signs else 0
        if sign is None and found and found[-1].sign is None:
            found[-1] = Signed(found[-1].lower, b, None)
        else:
            found.append(Signed(a, b, sign))
    return found


def _each(expr: Expr, x: Symbol, open_: Signed, most: int) -> Iterator[Signed]:
    """The sign on each stair of a stretch; what is beyond the last one looked at stays open."""
    lines = [_slope(a, x) for a in _steps(expr, x)]
    many = oo if open_.upper == oo else (open_.upper - open_.lower) * sum(map(abs, lines))
    starts = _starts(expr, x, open_, FIRST_STAIRS if many > most else oo)
    rest = [open_.upper] if many <= most else []
    for a, b in pairwise([open_.lower, *starts, *rest]):
        yield from _on_stair(expr, x, a, b)
    if not rest:
        yield Signed(starts[-1] if starts else open_.lower, open_.upper, None)


def _starts(expr: Expr, x: Symbol, within: Signed, most: Expr) -> list[Integer]:
    """The first whole value of every stair strictly inside a stretch, or of the first ones."""
    found: list[Integer] = []
    at = Integer(ceiling(within.lower))
    while len(found) < most:
        at = min((_next(a, x, at) for a in _steps(expr, x)), default=oo)
        if at >= within.upper:
            break
        found.append(at)
    return found


@lru_cache(maxsize=1024)
def _steps(expr: Expr, x: Symbol) -> frozenset[Expr]:
    """Stairs that change where those of the expression do: minima inside are one argument."""
    return frozenset(a for chosen in _choices(expr) for a in stairs(chosen, x))


@lru_cache(maxsize=1024)
def _slope(atom: Expr, x: Symbol) -> Expr:
    """How steep what is rounded is, stairs inside it taken as their lines."""
    line, slacks = unrounded(atom.args[0], x)
    slope = expand(line).coeff(x, 1)
    if not slope.is_Rational or (expand(line) - slope * x).free_symbols - set(slacks):
        raise InputError(f"{clip(str(atom), 120)} rounds no line: use evaluate at values of {x}")
    return slope


def _next(atom: Expr, x: Symbol, at: Integer) -> Expr:
    """The first whole value above ``at`` at which a stair may have another height."""
    inner = {a: a.xreplace({x: at}) for a in stairs(atom.args[0], x)}
    nearest = min((_next(a, x, at) for a in inner), default=oo)
    line = expand(atom.args[0].xreplace(inner))
    slope = line.coeff(x, 1)
    if slope == 0:
        return nearest
    up = isinstance(atom, ceiling)
    height = atom.func(line.xreplace({x: at}))
    # A rising ceiling leaves its height just above it, a floor where it has the next one.
    steps = {(True, True): 0, (False, True): 1, (True, False): -1, (False, False): 0}
    edge = (height + steps[up, bool(slope > 0)] - (line - slope * x)) / slope
    open_ = up == bool(slope > 0)
    return min(nearest, floor(edge) + 1 if open_ else ceiling(edge))


def _on_stair(expr: Expr, x: Symbol, lower: Expr, upper: Expr) -> Iterator[Signed]:
    """The sign on one stair, where every ceiling is a number."""
    at = ceiling(lower)
    flat = {a: a.xreplace({x: at}) for a in stairs(expr, x)}
    # Innermost ones are numbers in outer ones as well.
    plain = expr.xreplace(flat)
    choices = [_poly(e, x) for e in _choices(plain)]
    roots = {r for p in choices if not p.is_zero for r in roots_above_zero(p)}
    for a, b in parts(lower, upper, roots):
        yield Signed(a, b, _sign(plain.xreplace({x: inside(a, b)})))


def _choices(expr: Expr) -> list[Expr]:
    """``expr`` with its minima and maxima replaced by one argument each, in every way."""
    outer = outermost(expr)
    if not outer:
        return [expr]
    if len(outer) > 6:
        raise InputError(f"{clip(str(expr), 120)} has too many maxima that stairs decide")
    made = (
        _choices(expr.xreplace(dict(zip(outer, picked, strict=True))))
        for picked in product(*(a.args for a in outer))
    )
    return list(dict.fromkeys(chain.from_iterable(made)))


def _poly(expr: Expr, x: Symbol) -> Poly:
    try:
        poly = Poly(expr, x)
    except PolynomialError:
        poly = None
    if poly is None or not is_rational(poly):
        raise InputError(
            f"{clip(str(expr), 120)} is not a polynomial in {x}: use evaluate at values of {x}, "
            "or solve_for"
        )
    return poly


def _sign(value: Expr) -> int:
    return int(bool(value > 0)) - int(bool(value < 0))
