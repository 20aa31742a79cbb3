"""Times as linear programs: the least value of nested maxima over shares that are open.

Terms are sums of counts times maxima of affine arms, so their least value over affine bounds
is a linear program: a variable for each maximum, which is at least each of its arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sympy import Expr, Symbol, expand

from costgraph.errors import InputError
from costgraph.formula.least import bound
from costgraph.formula.terms import Arm, Term

#: Prices of constraints below this share of the whole are none; ties are told apart below it.
SMALL, TIE = 1e-6, 1e-8


@dataclass(frozen=True)
class Bound:
    """``expr <= most``, by name, with a part of it kept free: rounded shares still fit."""

    name: str
    expr: Expr
    most: float
    free: float = 0.0


@dataclass(frozen=True)
class Optimum:
    """The least value, where it is reached, and what keeps it from being less.

    Attributes:
        value: of the terms.
        at: each symbol's value.
        binding: names of the bounds that are reached and have a price.
        tight: resources of arms that the maxima equal.
    """

    value: float
    at: Mapping[Symbol, float]
    binding: tuple[str, ...]
    tight: tuple[str, ...]


@dataclass
class _Linear:
    """A constant and coefficients by variable."""

    constant: float = 0.0
    of: dict[int, float] = field(default_factory=dict)

    def add(self, other: _Linear, factor: float = 1.0) -> None:
        self.constant += factor * other.constant
        for at, value in other.of.items():
            self.of[at] = self.of.get(at, 0.0) + factor * value


@dataclass
class _Rows:
    """Variables and rows ``left <= right`` of the program."""

    symbols: Sequence[Symbol]
    values: Mapping[Symbol, Expr]
    count: int = 0
    rows: list[tuple[str, _Linear]] = field(default_factory=list)
    known: dict[tuple[Arm, ...], int] = field(default_factory=dict)

    def affine(self, expr: Expr) -> _Linear:
        """An expression in the open symbols.

        Raises:
            InputError: it is not affine in them, or another symbol has no value.
        """
        found = expand(bound(expr, self.values))
        made = _Linear()
        for at, symbol in enumerate(self.symbols):
            slope = found.coeff(symbol, 1)
            made.of[at] = _number(slope)
            found = expand(found - slope * symbol)
        made.constant = _number(found)
        return made

    def total(self, terms: Iterable[Term]) -> _Linear:
        """A sum of terms, each maximum of several arms as a variable of its own."""
        made = _Linear()
        for term in terms:
            if term.span is not None or term.is_smooth:
                raise InputError(f"{', '.join(term.ops)}: no linear program of sums or norms")
            count = _number(bound(term.count, self.values))
            arms = [self._arm(a) for a in term.arms]
            if len(arms) == 1:
                made.add(arms[0], count)
                continue
            if term.arms not in self.known:
                self.known[term.arms] = at = self.variable()
                for arm, linear in zip(term.arms, arms, strict=True):
                    linear.add(_Linear(0.0, {at: -1.0}))
                    self.rows.append((arm.resource, linear))
            made.add(_Linear(0.0, {self.known[term.arms]: 1.0}), count)
        return made

    def variable(self) -> int:
        """A further variable."""
        self.count += 1
        return len(self.symbols) + self.count - 1

    def _arm(self, arm: Arm) -> _Linear:
        return self.total(arm.chain) if arm.chain else self.affine(arm.expr)


def _number(expr: Expr) -> float:
    if not expr.is_number:
        missing = ", ".join(sorted(map(str, expr.free_symbols)))
        raise InputError(f"a linear program needs numbers and open shares, not {missing}")
    return float(expr)


def least(
    terms: Iterable[Term],
    symbols: Sequence[Symbol],
    bounds: Iterable[Bound],
    values: Mapping[Symbol, Expr],
    prices: Mapping[Symbol, float] | None = None,
) -> Optimum | None:
    """The least value of ``terms`` over ``symbols`` in [0, 1]; None if no bounds allow any.

    Args:
        terms: of a time, without sums over contexts.
        symbols: open; everything is affine in them.
        bounds: upper ends.
        values: of all other symbols.
        prices: which of equally good points is taken: the one where symbols times prices
            are least.

    Raises:
        InputError: something is not affine, or SciPy is not there.
    """
    try:
        from scipy.optimize import linprog
    except ImportError:
        raise InputError("linear programs need SciPy: pip install 'costgraph[optimal]'") from None
    made = _Rows(symbols, values)
    goal = made.total(terms)
    limits = list(bounds)
    scale = max(abs(goal.constant), *(abs(v) for v in goal.of.values()), 1e-30)
    width = len(symbols) + made.count
    for at, symbol in enumerate(symbols):
        price = (prices or {}).get(symbol, 0.0) * scale * TIE
        goal.of[at] = goal.of.get(at, 0.0) + price
    rows = [(name, linear, -linear.constant) for name, linear in made.rows]
    # Bounds in parts of what there is, times in parts of the whole: numbers near one.
    for limit in limits:
        linear = made.affine(limit.expr)
        room = limit.most * (1 - limit.free) - linear.constant
        shrunk = {at: v / limit.most for at, v in linear.of.items()}
        rows.append((limit.name, _Linear(0.0, shrunk), room / limit.most))

    def dense(linear: _Linear) -> list[float]:
        line = [0.0] * width
        for at, value in linear.of.items():
            line[at] = value
        return line

    found: Any = linprog(
        dense(goal),
        A_ub=[dense(linear) for _, linear, _ in rows] or None,
        b_ub=[most for *_, most in rows] or None,
        bounds=[(0.0, 1.0)] * len(symbols) + [(0.0, None)] * made.count,
        method="highs",
    )
    if found.status == 2:
        return None
    if found.status != 0:
        raise InputError(f"the linear program was not solved: {found.message}")
    priced = [i for i, y in enumerate(found.ineqlin.marginals) if abs(y) > SMALL * scale]
    split = len(made.rows)
    return Optimum(
        float(found.fun) + goal.constant,
        dict(zip(symbols, map(float, found.x), strict=False)),
        tuple(dict.fromkeys(rows[i][0] for i in priced if i >= split)),
        tuple(dict.fromkeys(rows[i][0] for i in priced if i < split)),
    )
