"""Formulas as LaTeX."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sympy import Expr, Rational, expand, latex

from costgraph.export.text import amount

if TYPE_CHECKING:
    from costgraph.formula import Formula
    from costgraph.formula.terms import Arm, Term

_NUMBERED = re.compile(r"([A-Za-z])(\d+)\Z")
#: Dimensions whose second letter is a subscript.
_SUBSCRIPTED = {"Hk": ("H", "k"), "dh": ("d", "h")}


def name_parts(name: str) -> tuple[str, str]:
    """A symbol name and its subscript: ``F_bf16``, ``W1`` and ``Hk`` have one."""
    if name in _SUBSCRIPTED:
        return _SUBSCRIPTED[name]
    match = _NUMBERED.match(name)
    if match is not None:
        return match[1], match[2]
    head, _, rest = name.partition("_")
    return head, rest.replace("_", ",")


def symbol_latex(name: str) -> str:
    """A symbol name: subscripts from underscores, words upright."""
    head, rest = name_parts(name)
    base = head if len(head) == 1 else rf"\mathrm{{{head}}}"
    if not rest:
        return base
    return base + (
        f"_{{{rest}}}" if len(rest) == 1 or rest.isdigit() else rf"_{{\mathrm{{{rest}}}}}"
    )


def number_latex(value: Rational) -> str:
    """A number, exact where short, in scientific notation otherwise."""
    if value.is_Integer and abs(value) < 10**6:
        return str(value)
    if value.is_Rational and value.q <= 64 and abs(value.p) < 10**4:
        sign = "-" if value < 0 else ""
        return rf"{sign}\tfrac{{{abs(value.p)}}}{{{value.q}}}"
    mantissa, exponent = (
        f"{float(value):.4g}".split("e")
        if "e" in f"{float(value):.4g}"
        else (f"{float(value):.3e}".split("e"))
    )
    return rf"{float(mantissa):.4g}\times10^{{{int(exponent)}}}"


def expr_latex(expr: Expr) -> str:
    """A polynomial with short coefficients; other expressions as sympy prints them."""
    parts = expand(expr).as_coefficients_dict()
    shown = ""
    for monomial, coefficient in sorted(parts.items(), key=lambda p: (bool(p[1] < 0), str(p[0]))):
        size = number_latex(abs(coefficient))
        if monomial == 1:
            body = size
        else:
            factors = latex(
                monomial,
                symbol_names={s: symbol_latex(s.name) for s in monomial.free_symbols},
            )
            body = factors if coefficient in (1, -1) else rf"{size}\,{factors}"
        shown += ("-" if coefficient < 0 else "+" if shown else "") + body
    return shown or "0"


def _arm(arm: Arm, formula: Formula) -> str:
    parts = amount(arm, formula)
    if parts is None:
        return expr_latex(arm.expr)
    return rf"\frac{{{expr_latex(parts[0])}}}{{{expr_latex(parts[1])}}}"


def _term(term: Term, formula: Formula) -> str:
    arms = [_arm(a, formula) for a in term.arms]
    if len(arms) == 1:
        body = arms[0]
        if "frac" not in body and term.count != 1:
            body = rf"\left({body}\right)"
    else:
        inner = r",\; ".join(arms)
        body = (
            rf"\max\left({inner}\right)"
            if term.norm is None
            else rf"\left\lVert {inner}\right\rVert_{{{float(term.norm):.3g}}}"
        )
    if term.span is not None:
        lower, upper = expr_latex(term.span.lower), expr_latex(term.span.upper)
        body = rf"\sum_{{{term.span.symbol}={lower}}}^{{{upper}}} {body}"
    if term.count == 1:
        return body
    count = expr_latex(term.count)
    if "+" in count[1:] or "-" in count[1:]:
        count = rf"\left({count}\right)"
    return rf"{count}\,{body}"


def formula_latex(formula: Formula) -> str:
    """The formula as one ``aligned`` block, a line per term."""
    from costgraph.formula.terms import collected

    arguments = ", ".join(symbol_latex(s.name) for s in formula.symbols)
    name = formula.name.replace("_", r"\_")
    head = rf"\operatorname{{{name}}}({arguments})"
    terms = [_term(t, formula) for t in collected(formula.terms)] or ["0"]
    if formula.numerator is not None:
        total = " + ".join(terms)
        return rf"{head} = \frac{{{expr_latex(formula.numerator)}}}{{{total}}}"
    lines = [rf"{head} ={{}}& {terms[0]}", *(rf"&{{}}+ {t}" for t in terms[1:])]
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"
