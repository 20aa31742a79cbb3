"""Formulas as LaTeX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sympy import Expr, expand

from costgraph.showing.export.layout import Call, Name, Node, Ratio, combined, of_expr, to_latex
from costgraph.showing.export.text import amount

if TYPE_CHECKING:
    from costgraph.formula import Formula
    from costgraph.formula.terms import Arm, Term


def expr_latex(expr: Expr) -> str:
    """A polynomial with short coefficients."""
    return to_latex(of_expr(expand(expr)))


def _arm(arm: Arm, formula: Formula) -> Node:
    parts = amount(arm, formula)
    if parts is None:
        return of_expr(expand(arm.expr))
    return Ratio(of_expr(expand(parts[0])), of_expr(parts[1]))


def _term(term: Term, formula: Formula) -> Node:
    return combined(expand(term.count), [_arm(a, formula) for a in term.arms], term.norm, term.span)


def formula_latex(formula: Formula) -> str:
    """The formula as one ``aligned`` block, a line per term.

    A rate is first a quotient, then what it divides by.
    """
    from costgraph.formula.terms import collected

    head = to_latex(Call(formula.name, tuple(Name(s.name) for s in formula.symbols)))
    lines = []
    if formula.numerator is not None:
        top = to_latex(of_expr(expand(formula.numerator)))
        lines.append(rf"{head} ={{}}& \frac{{{top}}}{{t}}")
        head = "t"
    first, *rest = [to_latex(_term(t, formula)) for t in collected(formula.terms)] or ["0"]
    lines += [rf"{head} ={{}}& {first}", *(rf"&{{}}+ {t}" for t in rest)]
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"
