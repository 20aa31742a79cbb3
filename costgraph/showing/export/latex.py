"""Formulas as LaTeX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sympy import Expr, expand

from costgraph.formula.outline import label_of, outlined
from costgraph.showing.export.escaping import anchor_latex, caption_latex, text_latex
from costgraph.showing.export.layout import (
    Call,
    Name,
    Node,
    Ratio,
    combined,
    labelled,
    of_expr,
    series,
    to_latex,
)
from costgraph.showing.export.text import amount

if TYPE_CHECKING:
    from costgraph.formula import Formula
    from costgraph.formula.terms import Arm, Term


def expr_latex(expr: Expr) -> str:
    """A polynomial with short coefficients."""
    return to_latex(of_expr(expand(expr)))


def _arm(arm: Arm, formula: Formula, alone: bool) -> Node:
    label = label_of(arm, alone)
    if arm.chain:
        return labelled(label, series([_term(t, formula) for t in arm.chain]))
    parts = amount(arm, formula)
    if parts is None:
        return labelled(label, of_expr(expand(arm.expr)))
    return labelled(label, Ratio(of_expr(expand(parts[0])), of_expr(parts[1])))


def _term(term: Term, formula: Formula) -> Node:
    alone = len(term.arms) == 1
    arms = [_arm(a, formula, alone) for a in term.arms]
    return combined(expand(term.count), arms, term.norm, term.span)


def formula_latex(formula: Formula) -> str:
    """The formula as one ``aligned`` block, a line per term.

    A rate is first a quotient, then what it divides by; long bodies that run at the same
    time follow under names.
    """
    head = to_latex(Call(formula.name, tuple(Name(s.name) for s in formula.symbols)))
    lines = []
    if formula.numerator is not None:
        top = to_latex(of_expr(expand(formula.numerator)))
        lines.append(rf"{head} ={{}}& \frac{{{top}}}{{t}}")
        head = "t"
    outline = outlined(formula.terms, formula.symbols)

    def equation(left: str, terms: tuple[Term, ...], about: str = "") -> None:
        first, *rest = [to_latex(_term(t, formula)) for t in terms] or ["0"]
        said = rf"\quad\text{{({text_latex(about)})}}" if about else ""
        lines.append(rf"{left} ={{}}& {first}{said}")
        lines.extend(rf"&{{}}+ {t}" for t in rest)

    equation(head, outline.terms)
    for body in outline.bodies:
        equation(to_latex(Name(body.symbol.name)), body.terms, body.name)
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"


def displayed(block: str, label: str | None = None, caption: str | None = None) -> str:
    r"""A block as it stands in a document.

    Args:
        block: mathematics.
        label: what ``\ref`` finds: an equation with a number, or a figure.
        caption: LaTeX; the block becomes a figure that floats.

    Raises:
        InputError: a label or a caption that LaTeX would not read as one.
    """
    name = "" if label is None else f"{anchor_latex(label)}\n"
    if caption is not None:
        told = f"{caption_latex(caption)}\n{name}"
        return f"\\begin{{figure}}\n\\[\n{block}\n\\]\n{told}\\end{{figure}}"
    return f"\\begin{{equation}}\n{name}{block}\n\\end{{equation}}" if name else block
