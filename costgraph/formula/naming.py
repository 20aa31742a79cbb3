"""A formula with its constants named: what a person can read on one page.

Every coefficient gets a letter by what it stands for, a value, a unit, and its
derivation from the model's dimensions where a symbolic twin of the formula is
at hand. A derivation is kept only if it gives the value exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sympy import Add, Expr, Integer, Symbol, collect, expand

from costgraph.errors import InputError, clip, nearest
from costgraph.formula.outline import (
    Reference,
    kind_of,
    label_of,
    link_of,
    outlined,
    rate_of,
    split_level,
)
from costgraph.formula.sums import power_sum
from costgraph.formula.terms import Arm, Span, Term, chained, merged, remade
from costgraph.symbols import symbol
from costgraph.views import view_text

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula

DETAILS = ("summary", "ops")
#: What derivations are sorted by: numbers of layers.
LAYERS = ("L", "Ld", "Lx", "Le")
#: Whole coefficients up to here stay numbers.
SHORT = 16


@dataclass(frozen=True)
class Constant:
    """A named coefficient.

    Attributes:
        symbol: its name.
        value: exact.
        unit: ``byte``, ``FLOP``, ``s`` or ``message``.
        per: the sizes it multiplies (1 for what is always there).
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
class Side:
    """One candidate of a maximum: ``amount / rate``, or lines one after the other.

    ``label`` says which body or link it is the time of, where that is to be said.
    """

    amount: Expr
    rate: Symbol | None = None
    chain: tuple[Line, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Line:
    """``count × max(arms)``, or a norm; with a span its sum over contexts.

    ``link`` is the link whose time the line is, where it is that alone.
    """

    count: Expr
    arms: tuple[Side, ...]
    ops: tuple[str, ...]
    span: Span | None = None
    norm: Expr | None = None
    link: str = ""

    def renamed(self, names: Mapping[Symbol, Symbol]) -> Line:
        """The line with other names for its constants."""
        arms = (
            replace(
                a, amount=a.amount.xreplace(names), chain=tuple(x.renamed(names) for x in a.chain)
            )
            for a in self.arms
        )
        return replace(self, arms=tuple(arms))


@dataclass(frozen=True)
class Part:
    """A body of its own name: what runs while others do, ``symbol`` for the sum of lines."""

    symbol: Symbol
    name: str
    lines: tuple[Line, ...]


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
        parts: long bodies that run at the same time, to which the lines refer by name.
        underived: why the constants have no derivation from the model's dimensions; empty
            where they do.
    """

    formula: Formula
    detail: str
    lines: tuple[Line, ...]
    constants: tuple[Constant, ...]
    rates: Mapping[Symbol, Expr]
    dims: Mapping[Symbol, Expr]
    notes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    underived: str = ""

    def text(self) -> str:
        """Plain text."""
        return view_text("named_text", self)

    def latex(self, document: bool = False, **sources: Any) -> str:
        """LaTeX: an ``aligned`` block, or a document that compiles.

        Args:
            document: pages that compile.
            sources: what a document cites; see :func:`costgraph.showing.export.page.named_latex`.
        """
        return view_text("named_latex", self, document, **sources)

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
        smooth = any(t.any_smooth for t in self.formula.terms)
        if (self.formula.unit != "s" or smooth) and self.formula.numerator is None:
            detail = "ops"  # amounts have no rates to compare, norms no such bounds
        parts: tuple[Part, ...] = ()
        if detail == "summary":
            lines, notes = self._summary(), self._notes()
        else:
            (lines, parts), notes = self._ops(), ()
        names, constants = self._shortened()
        lines = tuple(line.renamed(names) for line in lines)
        parts = tuple(replace(p, lines=tuple(x.renamed(names) for x in p.lines)) for p in parts)
        found = set().union(*(c.derivation.free_symbols for c in constants if c.derivation), set())
        dims = {s: v for s, v in self.dims.items() if s in found}
        return Named(self.formula, detail, lines, constants, self._rates(), dims, notes, parts)

    # --- lines ---------------------------------------------------------------

    def _ops(self) -> tuple[tuple[Line, ...], tuple[Part, ...]]:
        taken = (*self.formula.symbols, *self.dims)
        outline = outlined(self.formula.terms, taken)
        lines = tuple(self._line(t) for t in outline.terms)
        parts = (
            Part(b.symbol, b.name, tuple(self._line(t, b.name) for t in b.terms))
            for b in outline.bodies
        )
        return lines, tuple(parts)

    def _line(self, term: Term, body: str = "") -> Line:
        """A term of a body; of the formula itself without one."""
        alone = len(term.arms) == 1
        arms = tuple(self._side(term, arm, body) for arm in term.arms)
        link = link_of(term.arms[0].resource) if alone else ""
        return Line(term.count, arms, term.ops, term.span, term.norm, link)

    def _summary(self) -> tuple[Line, ...]:
        if self.formula.numerator is not None:
            raise InputError(f"{self.formula.name} is a rate: summarise the time it is made from")
        lines = []
        kinds = (kind_of(a.resource) for t in self.formula.terms for a in t.leaves)
        for resource in dict.fromkeys(kinds):
            made = (remade(_only(t, resource)) for t in self.formula.terms)
            terms = merged(t for t in made if t.count != 0)
            lines.append(self._together(resource, terms))
        return tuple(lines)

    def _together(self, resource: str, terms: tuple[Term, ...]) -> Line:
        """What one resource does alone, in one line: an amount, and maxima of amounts."""
        ops = tuple(dict.fromkeys(op for t in terms for op in t.ops))
        summed = Add(*(self._alone(t) for t in terms if len(t.arms) == 1))
        whole = () if summed == 0 else (Term(Integer(1), (Arm(summed, resource),), ops),)
        parts = (*whole, *outlined((t for t in terms if len(t.arms) > 1), ()).terms)
        if len(parts) == 1:
            return replace(self._line(parts[0]), ops=ops)
        chain = tuple(self._line(t) for t in parts)
        return Line(Integer(1), (Side(Integer(0), None, chain),), ops, link=link_of(resource))

    @staticmethod
    def _alone(term: Term) -> Expr:
        """``count × arm`` of a one-armed term, its span summed."""
        if term.span is None:
            return term.count * term.arms[0].expr
        closed = power_sum(term.arms[0].expr, term.span)
        if closed is None:
            raise InputError(
                f"{clip(', '.join(term.ops), 120)}: no closed form over contexts to summarise; "
                "use the detail ops"
            )
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
                resource = kind_of(next(iter(piece.bound)))
                lower, upper = (view_text("end_text", e) for e in (piece.lower, piece.upper))
                notes.append(f"exactly the {resource} line for {lower} <= B < {upper}")
        return tuple(notes)

    # --- arms ----------------------------------------------------------------

    def _side(self, term: Term, arm: Arm, body: str) -> Side:
        """One arm in named constants, over the symbol of its rate."""
        label = label_of(arm, len(term.arms) == 1)
        if isinstance(arm, Reference):
            return Side(arm.expr, None, label=label)
        if arm.chain:
            chain = tuple(self._line(t, arm.resource) for t in arm.chain)
            return Side(arm.expr, None, chain, label)
        rate = rate_of(self.formula.rates, arm.resource)
        amount = expand(arm.expr if rate is None else arm.expr * rate)
        unit = self.formula.unit
        if rate is not None:
            unit = "byte" if split_level(arm.resource)[1] == "memory" else "FLOP"
        parts = []
        for monomial, coefficient in amount.as_coefficients_dict().items():
            if coefficient.is_Integer and abs(coefficient) <= SHORT:
                parts.append(coefficient * monomial)
                continue
            derivation = self._derivation(term, arm, monomial, body)
            parts.append(self._constant(coefficient, monomial, unit, arm, term.ops, derivation))
        name = None if rate is None else rate_symbol(arm.resource)
        amount = Add(*parts, evaluate=False) if len(parts) > 1 else Add(*parts)
        return Side(amount, name, label=label)

    def _constant(
        self,
        value: Expr,
        per: Expr,
        unit: str,
        arm: Arm,
        ops: tuple[str, ...],
        derivation: Expr | None,
    ) -> Expr:
        monomial = per
        if link_of(arm.resource):
            per, unit = _of_link(per, unit)
        letter = _letter(arm.resource, per, unit)
        for known in self.made:
            if (known.symbol.name.rstrip("0123456789"), known.value) == (letter, value) and (
                known.unit == unit and known.derivation == derivation and known.per == per
            ):
                return known.symbol * monomial
        self.used[letter] = self.used.get(letter, 0) + 1
        made = symbol(f"{letter}{self.used[letter]}")
        self.made.append(Constant(made, value, unit, per, ops, derivation))
        return made * monomial

    def _derivation(self, term: Term, arm: Arm, monomial: Expr, body: str) -> Expr | None:
        """The coefficient in the model's dimensions, if it gives the value exactly."""
        if self.twin is None:
            return None
        rate = rate_of(self.twin.rates, arm.resource) or Integer(1)
        own = rate_of(self.formula.rates, arm.resource) or Integer(1)
        value = expand(arm.expr * own).as_coefficients_dict()[monomial]
        total: Expr = Integer(0)
        for other in _candidates(self.twin.terms, set(term.ops), body):
            for candidate in other.arms:
                if kind_of(candidate.resource) != arm.resource:
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
        return None if total.is_number else collect(total, [symbol(name) for name in LAYERS])

    def _rates(self) -> dict[Symbol, Expr]:
        used = {kind_of(arm.resource) for term in self.formula.terms for arm in term.leaves}
        return {
            rate_symbol(resource): rate
            for resource, rate in self.formula.rates.items()
            if resource in used and rate != rate_symbol(resource)  # else it is told as a symbol
        }

    def _shortened(self) -> tuple[dict[Symbol, Symbol], tuple[Constant, ...]]:
        """Letters that occur once lose their number, unless a symbol has that name."""
        taken = {s.name for s in (*self.formula.symbols, *self.dims)}
        letters: dict[str, list[Constant]] = {}
        for constant in self.made:
            letters.setdefault(constant.symbol.name.rstrip("0123456789"), []).append(constant)
        names = {
            group[0].symbol: symbol(letter)
            for letter, group in letters.items()
            if len(group) == 1 and letter not in taken
        }
        return names, tuple(replace(c, symbol=names.get(c.symbol, c.symbol)) for c in self.made)


def _coefficient(expr: Expr, monomial: Expr, dims: Mapping[Symbol, Expr]) -> Expr:
    """What multiplies ``monomial`` in ``expr``, dimensions counting as numbers."""
    found: Expr = Integer(0)
    for part in Add.make_args(expr):
        inner, outer = part.as_independent(*(s for s in part.free_symbols if s not in dims))
        # Shares of experts are numbers in the formula: (1 - k/E)^B is (31/32)^B there.
        if outer == monomial or outer.xreplace(dict(dims)) == monomial:
            found += inner
    return found


def _candidates(terms: Iterable[Term], ops: set[str], body: str, here: str = "") -> Iterator[Term]:
    """Terms of some operations in a body, which is somewhere in ``terms`` of the body ``here``."""
    for term in terms:
        if not ops & set(term.ops):
            continue
        if not term.is_nested and here == body:
            yield term
        for arm in term.arms:
            if arm.chain:
                yield from _candidates(arm.chain, ops, body, arm.resource)


def _only(term: Term, resource: str) -> Term:
    """The term with nothing but the arms of one resource, of whichever unit."""
    arms = []
    for arm in term.arms:
        if arm.chain:
            arms.append(chained((_only(t, resource) for t in arm.chain), arm.resource))
        elif kind_of(arm.resource) == resource:
            arms.append(replace(arm, resource=resource))
    return replace(term, arms=tuple(arms) or (Arm(Integer(0), resource),))


def rate_symbol(resource: str) -> Symbol:
    """The symbol of a resource's rate: ``BW``, ``F_bf16``, ``F_vector_fp32``."""
    level, kind = split_level(resource)
    of = re.sub(r"[^A-Za-z0-9]+", "_", f"_{level}") if level else ""
    if kind == "memory":
        return symbol(f"BW{of}")
    engine, _, kind = kind.partition(":")
    kind = kind.replace("+", "_")
    return symbol(f"F{of}_{kind}" if engine == "tensor" else f"F{of}_{engine}_{kind}")


def _of_link(monomial: Expr, unit: str) -> tuple[Expr, str]:
    """A link's monomial without the link's figures, and what it then counts."""
    figures = {x for x in monomial.free_symbols if x.name.startswith(("alpha_", "BW_"))}
    if not figures:
        return monomial, unit
    messages = any(x.name.startswith("alpha_") for x in figures)
    return monomial.as_independent(*figures)[0], "message" if messages else "byte"


def _letter(resource: str, per: Expr, unit: str) -> str:
    """``W`` whatever the batch, ``A`` per sequence, ``K`` per token of context; ``C`` FLOP."""
    if unit == "FLOP":
        engine = resource.partition(":")[0]
        return {"vector": "E", "special": "X"}.get(engine, "C")
    names = {s.name for s in per.free_symbols}
    if not names:
        return "W"
    return "K" if names & {"T", "S", "N"} else "A"
