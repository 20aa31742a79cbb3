"""A formula with its constants named: what a person can read on one page.

Every coefficient gets a letter by what it stands for, a value, a unit, and its
derivation from the model's dimensions where a symbolic twin of the formula is
at hand. A derivation is kept only if it gives the value exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sympy import Add, Expr, Integer, Symbol, collect, expand

from costgraph.errors import InputError, nearest
from costgraph.formula.sums import power_sum
from costgraph.formula.terms import Arm, Span, Term, collected
from costgraph.symbols import symbol
from costgraph.views import view_text

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula

DETAILS = ("summary", "ops")
#: Whole coefficients up to here stay numbers.
SHORT = 16


@dataclass(frozen=True)
class Constant:
    """A named coefficient.

    Attributes:
        symbol: its name.
        value: exact.
        unit: ``byte``, ``FLOP`` or ``s``.
        per: the monomial it multiplies (1 for what is always there).
        ops: operations it comes from.
        derivation: the value from the model's dimensions, or None.
    """

    symbol: Symbol
    value: Expr
    unit: str
    per: Expr
    ops: tuple[str, ...]
    derivation: Expr | None = None


@dataclass(frozen=True)
class Line:
    """``count × max(amount / rate …)``, or a norm; with a span its sum over contexts."""

    count: Expr
    arms: tuple[tuple[Expr, Expr | None], ...]
    ops: tuple[str, ...]
    span: Span | None = None
    norm: Expr | None = None


@dataclass(frozen=True)
class Named:
    """A formula in named constants.

    Attributes:
        formula: what it restates.
        detail: ``ops``: the formula itself; ``summary``: for each resource what
            it would take alone. The largest of these is a lower bound of the
            formula and their sum an upper one.
        lines: in ``ops`` the summands; in ``summary`` one per resource.
        constants: the legend.
        rates: the machine's rates by symbol, with their values.
        dims: the model's dimensions, with their values.
        notes: sentences about where the summary is exact.
    """

    formula: Formula
    detail: str
    lines: tuple[Line, ...]
    constants: tuple[Constant, ...]
    rates: Mapping[Symbol, Expr]
    dims: Mapping[Symbol, Expr]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Plain text."""
        return view_text("named_text", self)

    def latex(self, document: bool = False) -> str:
        """LaTeX: an ``aligned`` block, or a document that compiles."""
        return view_text("named_latex", self, document)

    def mathml(self) -> str:
        """Presentation MathML with the legend, as HTML."""
        return view_text("named_html", self)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<Named {self.formula.name}, {self.detail}: {len(self.constants)} constants>"

    def _repr_html_(self) -> str:
        return self.mathml()

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex()}$"


def named(
    formula: Formula,
    detail: str = "ops",
    twin: Formula | None = None,
    dims: Mapping[Symbol, Expr] | None = None,
) -> Named:
    """The formula in named constants.

    Args:
        formula: any formula.
        detail: ``ops`` or ``summary`` (the same for amounts, which have no rates).
        twin: the same formula over symbols for the model's dimensions.
        dims: the values of those symbols.

    Raises:
        InputError: the detail is unknown, or a rate is to be summarised.
    """
    dims = dims or {}
    return _Namer(formula, twin, dims).named(detail)


@dataclass
class _Namer:
    """Hands out names; knows the twin's coefficient of everything it names."""

    formula: Formula
    twin: Formula | None
    dims: Mapping[Symbol, Expr]
    made: list[Constant] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)

    def named(self, detail: str) -> Named:
        if detail not in DETAILS:
            raise InputError(f"unknown detail {detail!r}{nearest(detail, DETAILS)}")
        smooth = any(t.norm is not None and len(t.arms) > 1 for t in self.formula.terms)
        if (self.formula.unit != "s" or smooth) and self.formula.numerator is None:
            detail = "ops"  # amounts have no rates to compare, norms no such bounds
        lines = self._summary() if detail == "summary" else self._ops()
        notes = self._notes() if detail == "summary" else ()
        taken = {s.name for s in (*self.formula.symbols, *self.dims)}
        lines, constants = _shortened(lines, self.made, taken)
        found = set().union(*(c.derivation.free_symbols for c in constants if c.derivation), set())
        dims = {s: v for s, v in self.dims.items() if s in found}
        return Named(self.formula, detail, lines, constants, self._rates(), dims, notes)

    # --- lines ---------------------------------------------------------------

    def _ops(self) -> tuple[Line, ...]:
        lines = []
        for term in collected(self.formula.terms):
            arms = tuple(self._arm(term, arm) for arm in term.arms)
            lines.append(Line(term.count, arms, term.ops, term.span, term.norm))
        return tuple(lines)

    def _summary(self) -> tuple[Line, ...]:
        if self.formula.numerator is not None:
            raise InputError(f"{self.formula.name} is a rate: summarise the time it is made from")
        groups: dict[str, list[Term]] = {}
        for term in self.formula.terms:
            for arm in term.arms:
                groups.setdefault(arm.resource, []).append(replace(term, arms=(arm,)))
        lines = []
        for resource, terms in groups.items():
            whole = Add(*(self._alone(t) for t in terms))
            ops = tuple(dict.fromkeys(op for t in terms for op in t.ops))
            total = Term(Integer(1), (Arm(whole, resource),), ops)
            lines.append(Line(Integer(1), (self._arm(total, total.arms[0]),), ops))
        return tuple(lines)

    @staticmethod
    def _alone(term: Term) -> Expr:
        """``count × arm`` of a one-armed term, its span summed."""
        if term.span is None:
            return term.count * term.arms[0].expr
        closed = power_sum(term.arms[0].expr, term.span)
        if closed is None:
            raise InputError(f"{', '.join(term.ops)}: no closed form over contexts to summarise")
        return term.count * closed

    def _notes(self) -> tuple[str, ...]:
        """Where one resource bounds everything, along the batch."""
        if "B" not in {s.name for s in self.formula.symbols} or self.formula.unit != "s":
            return ()
        try:
            found = self.formula.regimes("B")
        except InputError:
            return ()
        notes = []
        for piece in found:
            if len(piece.bound) == 1:
                (resource,) = piece.bound
                lower, upper = (view_text("end_text", e) for e in (piece.lower, piece.upper))
                notes.append(f"exactly the {resource} line for {lower} <= B < {upper}")
        return tuple(notes)

    # --- arms ----------------------------------------------------------------

    def _arm(self, term: Term, arm: Arm) -> tuple[Expr, Expr | None]:
        """(amount in named constants, symbol of the rate) of one arm."""
        rate = self.formula.rates.get(arm.resource)
        amount = expand(arm.expr if rate is None else arm.expr * rate)
        unit = self.formula.unit
        if rate is not None:
            unit = "byte" if arm.resource == "memory" else "FLOP"
        parts = []
        for monomial, coefficient in amount.as_coefficients_dict().items():
            if coefficient.is_Integer and abs(coefficient) <= SHORT:
                parts.append(coefficient * monomial)
                continue
            derivation = self._derivation(term, arm, monomial)
            parts.append(self._constant(coefficient, monomial, unit, arm, term.ops, derivation))
        name = None if rate is None else rate_symbol(arm.resource)
        return Add(*parts, evaluate=False) if len(parts) > 1 else Add(*parts), name

    def _constant(
        self,
        value: Expr,
        per: Expr,
        unit: str,
        arm: Arm,
        ops: tuple[str, ...],
        derivation: Expr | None,
    ) -> Expr:
        letter = _letter(arm.resource, per, unit)
        for known in self.made:
            if (known.symbol.name.rstrip("0123456789"), known.value) == (letter, value) and (
                known.unit == unit and known.derivation == derivation and known.per == per
            ):
                return known.symbol * per
        self.used[letter] = self.used.get(letter, 0) + 1
        made = symbol(f"{letter}{self.used[letter]}")
        self.made.append(Constant(made, value, unit, per, ops, derivation))
        return made * per

    def _derivation(self, term: Term, arm: Arm, monomial: Expr) -> Expr | None:
        """The coefficient in the model's dimensions, if it gives the value exactly."""
        if self.twin is None:
            return None
        rate = self.twin.rates.get(arm.resource, Integer(1))
        own = self.formula.rates.get(arm.resource, Integer(1))
        value = expand(arm.expr * own).as_coefficients_dict()[monomial]
        total: Expr = Integer(0)
        for other in self.twin.terms:
            if not set(other.ops) & set(term.ops):
                continue
            for candidate in other.arms:
                if candidate.resource != arm.resource:
                    continue
                expr = candidate.expr
                if other.span is not None and term.span is None:
                    closed = power_sum(expr, other.span)
                    if closed is None:
                        return None
                    expr = closed
                if len(term.arms) == 1:  # collected: counts went into the arm
                    expr = expr * other.count / term.count
                total += _coefficient(expand(expr * rate), monomial, self.dims)
            if len(term.arms) > 1:  # equal arms of several operations: one stands for all
                break
        total = expand(total)
        if expand(total.xreplace(dict(self.dims)) - value) != 0:
            return None
        return collect(total, symbol("L"))

    def _rates(self) -> dict[Symbol, Expr]:
        used = {arm.resource for term in self.formula.terms for arm in term.arms}
        return {
            rate_symbol(resource): rate
            for resource, rate in self.formula.rates.items()
            if resource in used
        }


def _coefficient(expr: Expr, monomial: Expr, dims: Mapping[Symbol, Expr]) -> Expr:
    """What multiplies ``monomial`` in ``expr``, dimensions counting as numbers."""
    found: Expr = Integer(0)
    for part in Add.make_args(expr):
        inner, outer = part.as_independent(*(s for s in part.free_symbols if s not in dims))
        if outer == monomial:
            found += inner
    return found


def _shortened(
    lines: tuple[Line, ...], made: list[Constant], taken: set[str]
) -> tuple[tuple[Line, ...], tuple[Constant, ...]]:
    """Letters that occur once lose their number, unless a symbol has that name."""
    letters: dict[str, list[Constant]] = {}
    for constant in made:
        letters.setdefault(constant.symbol.name.rstrip("0123456789"), []).append(constant)
    renames = {
        group[0].symbol: symbol(letter)
        for letter, group in letters.items()
        if len(group) == 1 and letter not in taken
    }
    constants = tuple(replace(c, symbol=renames.get(c.symbol, c.symbol)) for c in made)
    shown = tuple(
        replace(line, arms=tuple((a.xreplace(renames), rate) for a, rate in line.arms))
        for line in lines
    )
    return shown, constants


def rate_symbol(resource: str) -> Symbol:
    """The symbol of a resource's rate: ``BW``, ``F_bf16``, ``F_vector_fp32``."""
    if resource == "memory":
        return symbol("BW")
    engine, _, kind = resource.partition(":")
    kind = kind.replace("+", "_")
    return symbol(f"F_{kind}" if engine == "tensor" else f"F_{engine}_{kind}")


def _letter(resource: str, per: Expr, unit: str) -> str:
    """``W`` whatever the batch, ``A`` per sequence, ``K`` per token of context; ``C`` FLOP."""
    if unit == "FLOP":
        engine = resource.partition(":")[0]
        return {"vector": "E", "special": "X"}.get(engine, "C")
    names = {s.name for s in per.free_symbols}
    if not names:
        return "W"
    return "K" if names & {"T", "S", "N"} else "A"
