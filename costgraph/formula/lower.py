"""From structured formulas to a :class:`~costgraph.formula.dag.Dag`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from math import lcm

from sympy import (
    Abs,
    Add,
    Basic,
    E,
    Expr,
    Integer,
    Max,
    Min,
    Mul,
    Piecewise,
    Poly,
    Pow,
    Rational,
    Symbol,
    ceiling,
    exp,
    floor,
    fraction,
    log,
    together,
)
from sympy.core.relational import Relational
from sympy.logic.boolalg import And, Boolean, BooleanFalse, BooleanTrue, Not, Or
from sympy.polys.polyerrors import PolynomialError

from costgraph.errors import InputError
from costgraph.formula.closed import LOWER, UPPER, closed_form
from costgraph.formula.dag import Dag
from costgraph.formula.evaluate import integrated, is_even
from costgraph.formula.formula import Formula
from costgraph.formula.sums import Line, affine, lines
from costgraph.formula.terms import Arm, Span, Term, collected, merged
from costgraph.symbols import N, S

_RELATIONS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}
_CALLS = {exp: "exp", log: "log", Abs: "abs"}


def lower(formulas: Sequence[Formula], *, exact: bool = False) -> tuple[Dag, tuple[int, ...]]:
    """The graph of several formulas, one output each.

    Args:
        formulas: at least one formula.
        exact: keep amounts (FLOP, byte) whole: every such output is then a whole
            number times the divisor that belongs to it.

    Returns:
        The graph and a divisor per output (all one unless ``exact``; zero marks
        an amount that cannot be kept whole and is therefore an ordinary number).

    Raises:
        InputError: an expression has no counterpart in code.
    """
    lowering = Lowering(shared=len(formulas) > 1)
    outputs, divisors = [], []
    for formula in formulas:
        whole = exact and formula.unit in ("FLOP", "byte") and formula.numerator is None
        if whole:
            made = _Exact(lowering).formula(formula)
            if made is not None:
                outputs.append(made[0])
                divisors.append(made[1])
                continue
        outputs.append(lowering.formula(formula))
        divisors.append(0 if whole else 1)
    lowering.dag.outputs = tuple(outputs)
    return lowering.dag, tuple(divisors)


class Lowering:
    """Expressions and terms as nodes of one graph.

    Args:
        shared: several formulas are lowered: factors stay in front of maxima and sums, which
            formulas of the same terms (a latency, its price) then have in common.
    """

    def __init__(self, shared: bool = False) -> None:
        self.dag = Dag()
        self._shared = shared
        self._order: dict[Expr, tuple[bool, bool, str]] = {}
        self._sums: dict[tuple[tuple[Arm, ...], Span, Expr | None], int] = {}
        self._known: dict[Expr, int] = {}
        self._free: dict[Expr, set[Basic]] = {}
        self._loops: dict[tuple[Span, tuple[tuple[Expr, Term], ...]], int] = {}

    # --- formulas --------------------------------------------------------------

    def formula(self, formula: Formula) -> int:
        """A formula in floating point: contents of counts go into the arms."""
        groups: dict[Expr, list[int]] = {}
        plain: list[Expr] = []
        sums: dict[tuple[Expr, Span], list[tuple[Expr, Term]]] = {}
        for term in collected(formula.terms):
            content, primitive = term.count.as_content_primitive()
            if term.span is not None and integrated(term):
                sums.setdefault((primitive, term.span), []).append((content, term))
            elif primitive == 1 and len(term.arms) == 1 and term.span is None:
                plain.append(term.arms[0].scaled(content).expr)
            else:
                groups.setdefault(primitive, []).append(self._scaled(term, content))
        for (primitive, span), found in sums.items():
            groups.setdefault(primitive, []).append(self._looped(span, tuple(found)))
        parts = [self.expr(Add(*plain))] if plain else []
        parts += [
            self.dag.product(self.expr(factor), self.dag.sum(values))
            for factor, values in groups.items()
        ]
        total = self.dag.sum(parts)
        if formula.numerator is None:
            return total
        return self.dag.quotient(self.expr(formula.numerator), total)

    def _scaled(self, term: Term, factor: Expr) -> int:
        """``factor × Max(arms)``, summed over the span."""
        # Of a norm over a span too, whose sum takes longest.
        kept = self._shared or (term.is_smooth and term.span is not None)
        if kept or (factor < 0 and len(term.arms) > 1):
            return self.dag.product(self.expr(factor), self.summed(term))
        arms = tuple(arm.scaled(factor) for arm in term.arms)
        return self.summed(replace(term, count=Integer(1), arms=arms))

    def summed(self, term: Term) -> int:
        """The term without its count."""
        if term.span is None:
            return self._combined(term)
        key = term.arms, term.span, term.norm
        if key not in self._sums:
            self._sums[key] = self._span(term, term.span)
        return self._sums[key]

    def _combined(self, term: Term) -> int:
        """The maximum of the arms, or their norm."""
        return self._joined([self._arm(a) for a in term.arms], term.norm)

    def _joined(self, parts: list[int], norm: Expr | None) -> int:
        if norm is None or len(parts) == 1:
            return self._largest(parts)
        if norm == 1:
            return self.dag.sum(parts)
        # Scaled by the largest, as in Formula.evaluate, so that powers never underflow.
        top, p = self._largest(parts), self.dag.num(float(norm))
        if len(set(parts)) == 2:
            least = self.dag.add_node("min", parts)
            share = self.dag.add_node("pow", (self.dag.quotient(least, top), p))
            total = self.dag.sum([self.dag.num(1), share])
        else:
            shares = [self.dag.add_node("pow", (self.dag.quotient(x, top), p)) for x in parts]
            total = self.dag.sum(shares)
        root = self.dag.add_node("pow", (total, self.dag.num(1 / float(norm))))
        return self.dag.product(top, root)

    def _arm(self, arm: Arm) -> int:
        return self._series(arm.chain) if arm.chain else self.expr(arm.expr)

    def _series(self, terms: Iterable[Term]) -> int:
        """Terms one after the other."""
        return self.dag.sum([self.dag.product(self.expr(t.count), self.summed(t)) for t in terms])

    def _constant(self, line: Line) -> int:
        """What does not change along a line."""
        return self.dag.sum([self.expr(line.a), self._series(line.fixed)])

    def _largest(self, parts: list[int]) -> int:
        kept = list(dict.fromkeys(parts))
        return kept[0] if len(kept) == 1 else self.dag.add_node("max", kept)

    def _span(self, term: Term, span: Span) -> int:
        smooth = term.norm is not None and len(term.arms) > 1
        closed = None if smooth else closed_form(term, span)
        if closed is not None:
            return self.closed(closed, span)
        bounds = self._bound(span.lower), self._bound(span.upper)
        found = None if smooth else lines(term.arms, span.symbol)
        if found is not None:
            pairs = [x for line in found for x in (self._constant(line), self.expr(line.b))]
            return self.dag.add_node("envelope", (*bounds, *pairs))
        return self._looped(span, ((Integer(1), term),))

    def _looped(self, span: Span, found: tuple[tuple[Expr, Term], ...]) -> int:
        """The sum over a span of terms times their factors; one loop for equal ones."""
        key = span, tuple((c, Term(Integer(1), t.arms, norm=t.norm)) for c, t in found)
        if key not in self._loops:
            self._loops[key] = self._loop(span, *key[1])
        return self._loops[key]

    def _loop(self, span: Span, *found: tuple[Expr, Term]) -> int:
        bounds = self._bound(span.lower), self._bound(span.upper)
        index = self.dag.add_node("var", (), f"t{len(self._loops) + 1}")
        smooth = all(is_even(term) for _, term in found)
        # What does not change along the span is computed once, before the loop.
        fixed: dict[Expr, tuple[int, int]] = {}
        for arm in (arm for _, term in found for arm in term.arms if smooth):
            line = affine(arm.expr, span.symbol)
            if line is not None:
                fixed[arm.expr] = self.expr(line[0]), self.expr(line[1])
        factors = [self.expr(factor) for factor, _ in found]
        free = self._known.get(span.symbol)
        self._forget(span.symbol)
        self._known[span.symbol] = index
        try:
            summands = [
                self._joined([self._along(arm, fixed, index) for arm in term.arms], term.norm)
                for _, term in found
            ]
        finally:
            self._forget(span.symbol)
            if free is not None:
                self._known[span.symbol] = free
        summand = self.dag.sum(map(self.dag.product, factors, summands))
        return self.dag.add_node("loop", (*bounds, index, summand), "smooth" if smooth else None)

    def _along(self, arm: Arm, fixed: Mapping[Expr, tuple[int, int]], index: int) -> int:
        return self._line(*fixed[arm.expr], index) if arm.expr in fixed else self._arm(arm)

    def _line(self, a: int, b: int, index: int) -> int:
        """``a + b·t``."""
        zero = self.dag.num(0)
        parts = [] if a == zero else [a]
        return self.dag.sum(parts if b == zero else [*parts, self.dag.product(b, index)])

    def closed(self, closed: Expr, span: Span) -> int:
        """A closed form of :func:`closed_form` with the span's bounds put in."""
        # A bound that is not whole is cut first, as in Formula.evaluate.
        self._known |= {LOWER: self._bound(span.lower), UPPER: self._bound(span.upper)}
        try:
            return self.expr(closed)
        finally:
            self._forget(LOWER, UPPER)

    def _forget(self, *symbols: Symbol) -> None:
        """Drops what was lowered under a meaning of the symbols that ends here."""
        gone = set(symbols)
        known = self._known.items()
        self._known = {e: n for e, n in known if gone.isdisjoint(self._symbols(e))}

    def _symbols(self, expr: Expr) -> set[Basic]:
        """Free symbols; each expression is searched once."""
        if expr not in self._free:
            self._free[expr] = expr.free_symbols
        return self._free[expr]

    def _bound(self, bound: Expr) -> int:
        node = self.expr(bound)
        return node if _whole(bound) else self.dag.add_node("trunc", (node,))

    # --- expressions -------------------------------------------------------------

    def expr(self, expr: Expr | Boolean) -> int:
        """The node of an expression.

        Raises:
            InputError: it contains a function that has no counterpart in code.
        """
        known = self._known.get(expr)
        if known is None:
            known = self._expr(expr)
            self._known[expr] = known
        return known

    def _expr(self, expr: Expr | Boolean) -> int:
        dag = self.dag
        if isinstance(expr, Rational):
            return dag.num(Fraction(expr.p, expr.q))
        if isinstance(expr, Symbol):
            return dag.add_node("sym", (), expr.name)
        if isinstance(expr, Add):
            return dag.sum([self.expr(a) for a in expr.args])
        if isinstance(expr, Mul):
            return self._mul(expr)
        if isinstance(expr, Pow) and expr.base != E:
            return self._pow(expr.base, expr.exp)
        if isinstance(expr, Pow):
            return dag.add_node("exp", (self.expr(expr.exp),))
        if isinstance(expr, (Max, Min)):
            arms = [self.expr(a) for a in expr.args]
            return dag.add_node("max" if isinstance(expr, Max) else "min", arms)
        if isinstance(expr, (ceiling, floor)):
            # Over one divisor of whole numbers, the quotient is whole exactly
            # when it should be: S·(1/49) is not 1 at S = 49, S/49 is.
            top, bottom = fraction(together(expr.args[0]))
            op = "ceildiv" if isinstance(expr, ceiling) else "floordiv"
            return dag.add_node(op, (self.expr(top), self.expr(bottom)))
        if isinstance(expr, Piecewise):
            return self._piecewise(expr)
        if expr.func in _CALLS and len(expr.args) == 1:
            return dag.add_node(_CALLS[expr.func], (self.expr(expr.args[0]),))
        if isinstance(expr, Boolean):
            return self._boolean(expr)
        if expr.is_number and expr.is_real:
            return dag.num(float(expr))
        raise InputError(f"no code for {expr.func.__name__} in {expr}")

    def _mul(self, expr: Mul) -> int:
        coefficient, factors = expr.as_coeff_mul()
        over = [f for f in factors if _divides(f)]
        top = self._factors([f for f in factors if not _divides(f)], coefficient)
        if not over:
            return top
        bottom = self._factors([1 / f for f in over], Integer(1))
        return self.dag.quotient(top, bottom)

    def _factors(self, factors: list[Expr], coefficient: Rational) -> int:
        """A product, symbols first and in order: products share their beginnings."""
        plain: list[int] = []
        for factor in sorted(factors, key=self._place):
            base, exponent = factor.as_base_exp()
            if _power(factor):
                plain += [self.expr(base)] * int(exponent)
            else:
                plain.append(self.expr(factor))
        if not plain:
            return self.expr(coefficient)
        node = plain[0]
        for other in plain[1:]:
            node = self.dag.product(node, other)
        return self.dag.product(self.expr(coefficient), node)

    def _place(self, factor: Expr) -> tuple[bool, bool, str]:
        """Where a factor stands in products; each is asked once, since its text takes long."""
        if factor not in self._order:
            name = factor.name if isinstance(factor, Symbol) else str(factor)
            self._order[factor] = not factor.free_symbols, not _power(factor), name
        return self._order[factor]

    def _pow(self, base: Expr, exponent: Expr) -> int:
        if exponent == Rational(1, 2):
            return self.dag.add_node("sqrt", (self.expr(base),))
        if exponent.is_Rational and exponent < 0:
            return self.dag.quotient(self.dag.num(1), self.expr(Pow(base, -exponent)))
        if exponent.is_Integer and exponent <= 8:
            return self._factors([Pow(base, exponent)], Integer(1))
        return self.dag.add_node("pow", (self.expr(base), self.expr(exponent)))

    def _piecewise(self, expr: Piecewise) -> int:
        if expr.args[-1][1] != True:  # noqa: E712  (a sympy value)
            raise InputError(f"{expr} leaves some values undefined")
        node = self.expr(expr.args[-1][0])
        for value, condition in reversed(expr.args[:-1]):
            node = self.dag.add_node("select", (self.expr(condition), self.expr(value), node))
        return node

    def _boolean(self, expr: Boolean) -> int:
        if isinstance(expr, (BooleanTrue, BooleanFalse)):
            return self.dag.add_node("bool", (), "true" if bool(expr) else "false")
        if isinstance(expr, Relational) and expr.rel_op in _RELATIONS:
            sides = (self.expr(expr.lhs), self.expr(expr.rhs))
            return self.dag.add_node(_RELATIONS[expr.rel_op], sides)
        for kind, op in ((And, "and"), (Or, "or"), (Not, "not")):
            if isinstance(expr, kind):
                return self.dag.add_node(op, [self.expr(a) for a in expr.args])
        raise InputError(f"no code for the condition {expr}")


def _power(factor: Expr) -> bool:
    """A small whole power, written as repeated products."""
    exponent = factor.as_base_exp()[1]
    return bool(exponent.is_Integer and 1 <= exponent <= 8)


def _divides(factor: Expr) -> bool:
    exponent = factor.as_base_exp()[1]
    return bool(exponent.is_Rational and exponent < 0)


def _whole(bound: Expr) -> bool:
    """Whether a bound is whole for whole S and N."""
    if isinstance(bound, (Max, Min)):
        return all(_whole(a) for a in bound.args)
    if isinstance(bound, (ceiling, floor)) or bound.is_Integer:
        return True
    if not bound.free_symbols <= {S, N}:
        return False
    try:
        return all(c.is_Integer for c in Poly(bound, *bound.free_symbols).coeffs())
    except PolynomialError:
        return False


class _Exact:
    """Amounts as whole numbers over one divisor."""

    def __init__(self, lowering: Lowering) -> None:
        self._lowering = lowering

    def formula(self, formula: Formula) -> tuple[int, int] | None:
        """(node, divisor) with value = node / divisor; None if not expressible."""
        scaled: list[tuple[int, Expr, Term]] = []
        plain: list[Expr] = []
        for term in merged(formula.terms):
            amounts = (term.count, *(a.expr for a in term.arms))
            if term.is_nested or not all(_rational(e) for e in amounts):
                return None
            if term.span is None and len(term.arms) == 1:
                plain.append(term.count * term.arms[0].expr)
                continue
            count, below = _cleared(term.count)
            common = lcm(*(_cleared(a.expr)[1] for a in term.arms))
            arms = tuple(Arm(_over(a.expr, common), a.resource) for a in term.arms)
            scaled.append((below * common, count, replace(term, count=Integer(1), arms=arms)))
        # A sum over a range may halve once more (or, of polynomials, divide further).
        parts: list[tuple[int, int]] = []
        if plain:
            top, below = _cleared(Add(*plain).expand())
            parts.append((self._lowering.expr(top), below))
        for below, count, term in scaled:
            value, again = self._summed(term)
            node = self._lowering.dag.product(self._lowering.expr(count), value)
            parts.append((node, below * again))
        divisor = lcm(*(p[1] for p in parts)) if parts else 1
        dag = self._lowering.dag
        nodes = [dag.product(dag.num(divisor // below), node) for node, below in parts]
        return dag.sum(nodes), divisor

    def _summed(self, term: Term) -> tuple[int, int]:
        if term.span is None or closed_form(term, term.span) is None:
            return self._lowering.summed(term), 1
        closed = closed_form(term, term.span)
        assert closed is not None
        if isinstance(closed, Piecewise):
            top, below = _cleared(closed.args[0][0])
            closed = Piecewise((top, closed.args[0][1]), (Integer(0), True))
        else:
            closed, below = _cleared(closed)
        return self._lowering.closed(closed, term.span), below


def _rational(expr: Expr) -> bool:
    """Built from whole numbers by +, −, ×, whole powers, maxima and rounding."""
    if isinstance(expr, (Symbol, Rational)):
        return True
    if isinstance(expr, Pow):
        return bool(expr.exp.is_Integer and expr.exp > 0) and _rational(expr.base)
    return isinstance(expr, (Add, Mul, Max, Min, ceiling, floor)) and all(
        _rational(a) for a in expr.args
    )


def _over(expr: Expr, divisor: int) -> Expr:
    """``expr × divisor`` with whole numbers only; the divisor is a multiple of its own."""
    top, below = _cleared(expr)
    return top * (divisor // below)


def _cleared(expr: Expr) -> tuple[Expr, int]:
    """``(whole, divisor)`` with ``expr = whole / divisor``, all numbers whole."""
    if isinstance(expr, Rational):
        return Integer(expr.p), int(expr.q)
    if isinstance(expr, (Add, Max, Min)):
        parts = [_cleared(a) for a in expr.args]
        divisor = lcm(*(p[1] for p in parts))
        tops = [top * (divisor // below) for top, below in parts]
        if isinstance(expr, Add):
            return Add(*tops), divisor
        return expr.func(*tops, evaluate=False), divisor
    if isinstance(expr, Mul):
        parts = [_cleared(a) for a in expr.args]
        divisor = 1
        for _, below in parts:
            divisor *= below
        return Mul(*(top for top, _ in parts)), divisor
    if isinstance(expr, Pow):
        top, below = _cleared(expr.base)
        return Pow(top, expr.exp), below ** int(expr.exp)
    return expr, 1
