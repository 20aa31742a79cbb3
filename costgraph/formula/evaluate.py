"""Compiling a structured formula to a Python function.

Symbols become positional arguments, so no name of outside origin ever stands
in generated code. In ``exact`` mode rationals stay :class:`fractions.Fraction`;
otherwise they are folded to floats once, at compile time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sympy import Expr, Max, Min, Rational, Symbol, ceiling, floor, fraction, together
from sympy.printing.pycode import PythonCodePrinter

from costgraph.formula.sums import Line, affine, lines, power_sum
from costgraph.formula.terms import Arm, Span, Term
from costgraph.formula.trees import CALLED, Tree, tree_of


class _Printer(PythonCodePrinter):  # type: ignore[misc]
    """Python code with symbols replaced and rationals folded or kept exact."""

    def __init__(self, names: dict[Symbol, str], exact: bool) -> None:
        super().__init__({"fully_qualified_modules": False, "order": "none"})
        self._names = names
        self._exact = exact

    def _print_Symbol(self, expr: Symbol) -> str:
        return self._names[expr]

    def _print_Rational(self, expr: Rational) -> str:
        if self._exact:
            return f"Fraction({expr.p}, {expr.q})"
        return repr(expr.p / expr.q)

    def _print_Half(self, expr: Rational) -> str:
        return self._print_Rational(expr)

    def _print_Pow(self, expr: Expr, rational: bool = False) -> str:
        # Exact powers with large exponents (tokens of a prefill) have millions of digits.
        if not expr.exp.is_number:
            base, exponent = self._print(expr.base), self._print(expr.exp)
            if self._exact:
                return f"power({base}, {exponent})"
            return f"float({base})**({exponent})"
        return str(super()._print_Pow(expr, rational=rational))

    def _print_Max(self, expr: Expr) -> str:
        return f"max({', '.join(self._print(a) for a in expr.args)})"

    def _print_Min(self, expr: Expr) -> str:
        return f"min({', '.join(self._print(a) for a in expr.args)})"

    def _print_ceiling(self, expr: Expr) -> str:
        # Divided by one whole number: S·(1/49) need not be 1 at S = 49.
        top, bottom = fraction(together(expr.args[0]))
        return f"(-(-({self._print(top)}) // ({self._print(bottom)})))"

    def _print_floor(self, expr: Expr) -> str:
        top, bottom = fraction(together(expr.args[0]))
        return f"(({self._print(top)}) // ({self._print(bottom)}))"

    def _print_LambertW(self, expr: Expr) -> str:
        raise NotImplementedError("LambertW has no place in a compiled formula")


def _code(expr: Expr, names: dict[Symbol, str], exact: bool) -> str:
    """An expression as Python code."""
    free = expr.free_symbols
    return _printed(expr, tuple(pair for pair in names.items() if pair[0] in free), exact)


@lru_cache(maxsize=4096)
def _printed(expr: Expr, names: tuple[tuple[Symbol, str], ...], exact: bool) -> str:
    """The same, kept: stages and shares of a model have many expressions alike."""
    return str(_Printer(dict(names), exact).doprint(expr))


def _term_code(term: Term, names: dict[Symbol, str], exact: bool) -> str:

    def show(expr: Expr) -> str:
        return _code(expr, names, exact)

    if term.span is None:
        body = _largest(term, names, exact)
    else:
        body = _summed(term, term.span, names, exact)
    return body if term.count == 1 else f"({show(term.count)})*({body})"


def _largest(term: Term, names: dict[Symbol, str], exact: bool) -> str:
    """The arms of a term, combined."""
    return _combined([_arm_code(a, names, exact) for a in term.arms], term.norm)


def _arm_code(arm: Arm, names: dict[Symbol, str], exact: bool) -> str:
    if not arm.chain:
        return _code(arm.expr, names, exact)
    return _added([_term_code(t, names, exact) for t in arm.chain])


def _summed(term: Term, span: Span, names: dict[Symbol, str], exact: bool) -> str:
    """The arms of a term, combined and added up over its span."""

    def show(expr: Expr) -> str:
        return _code(expr, names, exact)

    lower, upper = f"int({show(span.lower)})", f"int({show(span.upper)})"
    found = None if term.is_smooth else lines(term.arms, span.symbol)
    if found is not None:
        pairs = [(_constant(line, names, exact), show(line.b)) for line in found]
        if len(pairs) == 1:
            return f"sum_affine({lower}, {upper}, {pairs[0][0]}, {pairs[0][1]})"
        arms = ", ".join(f"({a}, {b})" for a, b in pairs)
        return f"sum_max({lower}, {upper}, ({arms}))"
    closed = power_sum(term.arms[0].expr, span) if len(term.arms) == 1 else None
    if closed is not None:
        return f"(({show(closed)}) if {upper} >= {lower} else 0)"
    inner = _largest(replace(term, span=None), {**names, span.symbol: "t"}, exact)
    # Steps and kinks without norms: nothing to integrate.
    adder = "sum_pieces" if term.any_smooth and not exact else "sum_loop"
    return f"{adder}({lower}, {upper}, lambda t: {inner})"


def integrated(term: Term) -> bool:
    """True if the sum over the term's span is taken by quadrature (never of exact amounts)."""
    if term.span is None or not is_even(term):
        return False
    if term.is_smooth:
        return True
    (arm,) = term.arms
    by = term.span.symbol
    return affine(arm.expr, by) is None and power_sum(arm.expr, term.span) is None


def _quadrature(span: Span, terms: Sequence[Term], names: dict[Symbol, str]) -> str:
    """Terms over one span by one quadrature; what does not change along it is taken once."""
    inner = {**names, span.symbol: "t"}
    fixed: dict[str, str] = {}

    def kept(expr: Expr) -> str:
        """The name of what does not change with ``t``."""
        text = _code(expr, names, False)
        return text if expr.is_number else fixed.setdefault(text, f"c{len(fixed)}")

    def shown(expr: Expr) -> str:
        line = affine(expr, span.symbol)
        if line is None:
            return f"({_code(expr, inner, False)})"
        a, b = line
        if b == 0:
            return kept(a)
        return f"{kept(b)}*t" if a == 0 else f"({kept(a)} + {kept(b)}*t)"

    parts = []
    for term in terms:
        value = _combined([shown(arm.expr) for arm in term.arms], term.norm)
        parts.append(value if term.count == 1 else f"{kept(term.count)}*{value}")
    lower, upper = (_code(expr, names, False) for expr in (span.lower, span.upper))
    bounds = f"int({lower}), int({upper})"
    made = f"sum_smooth({bounds}, lambda ts: [{_added(parts)} for t in ts])"
    return f"(lambda {', '.join(fixed.values())}: {made})({', '.join(fixed)})"


def _constant(line: Line, names: dict[Symbol, str], exact: bool) -> str:
    """What does not change along a line."""
    parts = [_term_code(t, names, exact) for t in line.fixed]
    if line.a != 0 or not parts:
        parts.append(_code(line.a, names, exact))
    return _added(parts)


def _added(parts: Sequence[str], width: int = 32) -> str:
    """A sum in nested groups: a flat one of thousands nests too deep for the parser."""
    while len(parts) > width:
        groups = (parts[i : i + width] for i in range(0, len(parts), width))
        parts = [f"({' + '.join(group)})" for group in groups]
    return " + ".join(parts)


def _combined(parts: list[str], norm: Expr | None) -> str:
    if len(parts) == 1:
        return parts[0]
    if norm is not None and len(parts) == 2:
        return f"pair({float(norm)!r}, {1 / float(norm)!r}, {', '.join(parts)})"
    if norm is not None:
        return f"norm({float(norm)!r}, {', '.join(parts)})"
    return f"max({', '.join(parts)})"


def is_even(term: Term) -> bool:
    """True if the summand has no kinks or jumps along the span."""
    if term.is_nested or (len(term.arms) > 1 and term.norm is None):
        return False
    return not any(a.expr.has(ceiling, floor, Max, Min) for a in term.arms)


def source_of(
    terms: Sequence[Term],
    symbols: Sequence[Symbol],
    numerator: Expr | None = None,
    exact: bool = False,
) -> str:
    """The text of a Python function of ``symbols`` (positional) that evaluates the terms.

    The sum of the terms or, with a ``numerator``, the numerator over that sum.
    """
    names = {s: f"x{i}" for i, s in enumerate(symbols)}
    sums: dict[Span, list[Term]] = {}
    plain = []
    for term in terms:
        if term.span is not None and not exact and integrated(term):
            sums.setdefault(term.span, []).append(term)
        else:
            plain.append(_term_code(term, names, exact))
    plain += [_quadrature(span, found, names) for span, found in sums.items()]
    body = _added(plain or ["0"])
    if numerator is not None:
        body = f"({_code(numerator, names, exact)})/({body})"
    return f"lambda {', '.join(names.values())}: {body}"


def compile_terms(
    terms: Sequence[Term],
    symbols: Sequence[Symbol],
    numerator: Expr | None = None,
    exact: bool = False,
) -> Callable[..., Any]:
    """The function of :func:`source_of`."""
    source = source_of(terms, symbols, numerator, exact)
    # The text is generated from expression trees; symbols appear as x0, x1, … only.
    function: Callable[..., Any] = eval(source, {"__builtins__": {}, "math": math, **CALLED})
    return function


def tree_of_expr(expr: Expr, symbols: Sequence[Symbol], exact: bool = False) -> Tree:
    """One plain expression as data, see :mod:`.trees`."""
    return tree_of(source_of(_alone(expr), symbols, exact=exact))


def compile_expr(expr: Expr, symbols: Sequence[Symbol], exact: bool = False) -> Callable[..., Any]:
    """A Python function of ``symbols`` (positional) for one plain expression."""
    return compile_terms(_alone(expr), symbols, exact=exact)


def _alone(expr: Expr) -> tuple[Term, ...]:
    return (Term(Rational(1), (Arm(expr, ""),)),)
