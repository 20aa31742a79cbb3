"""Formulas as plain text for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from sympy import Expr, Poly, PolynomialError, Pow, expand, fraction, together
from sympy.printing.str import StrPrinter

from costgraph.errors import InputError
from costgraph.formula.outline import Reference, label_of, link_of, outlined, rate_of, split_level
from costgraph.setting import foot
from costgraph.showing.export.atoms import PREFIXES, cancelling, exact_text, number_text
from costgraph.showing.export.table import value_text

if TYPE_CHECKING:
    from costgraph.formula import Formula
    from costgraph.formula.terms import Arm, Term

_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


_NORM = "(aᵖ + bᵖ)^(1/p), a smooth maximum; seconds"


class _Plain(StrPrinter):  # type: ignore[misc]
    """Minima and maxima as in prose, ``min(T, 4096)``: symbols before numbers."""

    def _print_Min(self, expr: Expr) -> str:
        return self._clipped("min", expr)

    def _print_Max(self, expr: Expr) -> str:
        return self._clipped("max", expr)

    def _clipped(self, name: str, expr: Expr) -> str:
        parts = sorted(expr.args, key=lambda a: (a.is_number, str(a)))
        return f"{name}({', '.join(self._print(a) for a in parts)})"


def sstr(expr: Expr) -> str:
    """An expression in plain text."""
    return str(_Plain().doprint(expr))


def _power(text: str) -> str:
    """Powers as superscripts: ``B**2`` is ``B²``; ``(3/4)^B`` where they are symbols."""
    shown = re.sub(r"\*\*(\d+)(?![\d.])", lambda m: m[1].translate(_SUPERSCRIPT), text)
    return shown.replace("**", "^").replace("*", "·")


def expr_text(expr: Expr) -> str:
    """A polynomial with short coefficients, ``33.55M·B + 16384·B·T``.

    An expression over a sum is written as one fraction.
    """
    if not expr.is_Add and fraction(expr)[1].is_Add:
        return ratio_text(expr)
    parts = expand(expr).as_coefficients_dict()
    told = exact_text if cancelling(parts.values()) else number_text
    shown: list[str] = []
    for monomial, coefficient in sorted(
        parts.items(), key=lambda p: (bool(p[1] < 0), *_order(p[0]))
    ):
        sign = "-" if coefficient < 0 else "+"
        size = told(abs(coefficient))
        body = size if monomial == 1 else _monomial_text(size, monomial)
        shown.append(f"{sign} {body}" if shown else body if sign == "+" else f"-{body}")
    return " ".join(shown) or "0"


def ratio_text(expr: Expr) -> str:
    """A rational expression as one fraction with short coefficients."""
    # Powers such as (31/32)**B would fall apart into a quotient of powers.
    powers = any(p.exp.free_symbols for p in expr.atoms(Pow))
    top, bottom = fraction(expr if powers else together(expr))
    if bottom == 1:
        return expr_text(top)
    # Common sizes cancel: what is left reads as numbers near one.
    scale = _leading(bottom)
    if not getattr(scale, "is_Rational", False):
        scale = 1
    above, below = (expr_text(expand(part / scale)) for part in (top, bottom))

    def wrapped(text: str) -> str:
        return f"({text})" if " + " in text or " - " in text else text

    below = f"({below})" if "·" in below and " " not in below else wrapped(below)
    return f"{wrapped(above)} / {below}"


def _leading(expr: Expr) -> Expr:
    """The leading coefficient, or the largest one where there are powers of symbols."""
    try:
        return Poly(expr, *sorted(expr.free_symbols, key=str)).LC() if expr.free_symbols else 1
    except PolynomialError:
        return max(abs(c) for c in expand(expr).as_coefficients_dict().values())


def _monomial_text(size: str, monomial: Expr) -> str:
    """A coefficient's text times a monomial, what divides behind a slash."""
    top, bottom = fraction(monomial)
    factors = [] if top == 1 else [_power(sstr(f)) for f in _factors(top)]
    if size != "1" or not factors:
        factors.insert(0, size)
    body = "·".join(factors)
    if bottom == 1:
        return body
    below = _power(sstr(bottom))
    return f"{body}/{below}" if bottom.is_Symbol else f"{body}/({below})"


def _factors(monomial: Expr) -> list[Expr]:
    factors = monomial.args if monomial.is_Mul else (monomial,)
    return sorted(factors, key=lambda f: (not f.is_Symbol, sstr(f)))


def _order(monomial: Expr) -> tuple[int, str]:
    degree = len(monomial.args) if monomial.is_Mul else (0 if monomial == 1 else 1)
    return degree, sstr(monomial)


def amount(arm: Arm, formula: Formula) -> tuple[Expr, Expr] | None:
    """(amount, rate) of an arm whose resource has a rate, else None."""
    rate = rate_of(formula.rates, arm.resource)
    if rate is None or isinstance(arm, Reference):
        return None
    return expand(arm.expr * rate), rate


def rate_text(rate: Expr, resource: str) -> str:
    """A rate with its unit: ``154.8 TFLOP/s``, or its symbol."""
    if not rate.is_number:
        return str(sstr(rate))
    unit = "B/s" if split_level(resource)[1] == "memory" else "FLOP/s"
    for scale, prefix in PREFIXES:
        if rate >= scale:
            return f"{float(rate / scale):.4g} {prefix}{unit}"
    return f"{float(rate):.4g} {unit}"


def arm_text(arm: Arm, formula: Formula) -> str:
    """One arm as an amount over a rate, or a body as its terms."""
    if arm.chain:
        return " + ".join(term_text(t, formula) for t in arm.chain).replace(" + -", " - ")
    parts = amount(arm, formula)
    if parts is None:
        return expr_text(arm.expr)
    top = expr_text(parts[0])
    if "+" in top or " - " in top:
        top = f"({top})"
    return f"{top} / {rate_text(parts[1], arm.resource)}"


def term_text(term: Term, formula: Formula) -> str:
    """``32 · max(…, …)`` with its sum over contexts, if any."""
    if len(term.arms) == 1:
        body = arm_text(term.arms[0], formula)
        if term.count != 1 and (" + " in body or " / " in body):
            body = f"({body})"
    else:
        inner = " , ".join(_labelled(a, formula) for a in term.arms)
        body = f"max( {inner} )" if term.norm is None else f"‖ {inner} ‖{norm_text(term.norm)}"
    if term.span is not None:
        span = term.span
        body = f"Σ[{span.symbol} = {_bound(span.lower)} … {_bound(span.upper)}] {body}"
    if term.count == 1:
        return body
    count = expr_text(term.count)
    return f"{count} · {body}" if " " not in count else f"({count}) · {body}"


def _labelled(arm: Arm, formula: Formula) -> str:
    label, text = label_of(arm, alone=False), arm_text(arm, formula)
    return f"{label}: {text}" if label else text


def norm_text(norm: Expr) -> str:
    """The exponent of a norm as a subscript: ``₁.₈``."""
    return f"{float(norm):.3g}".translate(_SUBSCRIPT)


def _bound(expr: Expr) -> str:
    """A bound of a sum, its constant last: ``S + N - 1``."""
    constant, rest = expand(expr).as_coeff_Add()
    if rest == 0 or constant == 0:
        return expr_text(expr)
    return f"{expr_text(rest)} {'-' if constant < 0 else '+'} {number_text(abs(constant))}"


def source_text(ops: tuple[str, ...], arms: Iterable[Arm] = (), limit: int = 6) -> str:
    """Where a line comes from: operations, and the link where it is a link's time alone."""
    shown = ", ".join(ops[:limit])
    shown = shown if len(ops) <= limit else f"{shown}, … ({len(ops)} ops)"
    links = {link_of(a.resource) for a in arms}
    on = links.pop() if len(links) == 1 else ""
    return f"{shown} (link {on})" if on else shown


def formula_text(formula: Formula, legend: bool = True) -> str:
    """The formula, one line per term, with its operations, symbols and assumptions.

    Where every symbol has a value, the formula's is shown.
    """
    outline = outlined(formula.terms, formula.symbols)
    lines = [] if formula.setting is None else formula.setting.lines()
    lines.append(f"{_head(formula)} =")
    indent = "    "
    if formula.numerator is not None:
        lines[-1] += f" {expr_text(formula.numerator)} / ("
        indent = "      "
    lines.extend(_series_lines(outline.terms, formula, indent))
    if formula.numerator is not None:
        lines.append("    )")
    for body in outline.bodies:
        lines.append(f"  {body.symbol} ({body.name}) =")
        lines.extend(_series_lines(body.terms, formula, "    "))
    if legend:
        known = formula.meanings
        if any(t.any_smooth for t in formula.terms):
            known["‖a, b‖ₚ"] = _NORM
        if known:
            lines.append("where")
            lines.extend(f"    {name}: {meaning}" for name, meaning in known.items())
        bounds = [x.text for x in formula.limits]
        lines += foot(bounds) if formula.setting is None else formula.setting.foot(*bounds)
    return "\n".join(lines)


def _head(formula: Formula) -> str:
    """Its name and its symbols with its unit, or its value."""
    if not formula.symbols:
        with suppress(InputError):  # a sum of too many terms
            return f"{formula.name} = {value_text(float(formula()), formula.unit)}"
    return f"{formula.name}({', '.join(s.name for s in formula.symbols)}) [{formula.unit}]"


def _series_lines(terms: tuple[Term, ...], formula: Formula, indent: str) -> list[str]:
    """Terms one after the other, each with where it comes from."""
    lines = []
    for index, term in enumerate(terms):
        sign = "  " if index == 0 else "+ "
        lines.append(f"{indent}{sign}{term_text(term, formula)}")
        if term.ops:
            lines.append(f"{indent}      ← {source_text(term.ops, term.arms)}")
    return lines or [f"{indent}0"]


__all__ = ["arm_text", "expr_text", "formula_text", "number_text", "rate_text", "term_text"]
