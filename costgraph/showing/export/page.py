r"""Formulas in named constants as LaTeX: a block of equations, or pages that compile."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from costgraph.showing.export.bibtex import bibliography, citing
from costgraph.showing.export.breaking import broken, measure
from costgraph.showing.export.escaping import text_latex
from costgraph.showing.export.layout import Name, Node, of_expr, to_latex
from costgraph.showing.export.readable import (
    Equation,
    about,
    amount_text,
    equations,
    rate_text,
    told,
)
from costgraph.symbols import MEANINGS

if TYPE_CHECKING:
    from costgraph.asking.references import Reference
    from costgraph.formula.naming import Named

#: Width of the text of a page in points: landscape letter paper with margins of 15 mm.
PAGE = 700.0
#: The same of the columns of values and of derivations.
VALUES = 180.0
COLUMN = 415.0
#: How far lines that continue a formula stand in.
INDENT = 22.0
#: A left side that is wider has a line of its own: what it equals would be left a column.
LEFT = 200.0
_SIGNS = {"<=": r"\le"}
_HEAD = r"""\documentclass{article}
\usepackage[landscape,margin=15mm]{geometry}
\usepackage{amsmath}
\usepackage{longtable}
\usepackage{array}
\allowdisplaybreaks
\setlength{\emergencystretch}{40pt}
\begin{document}
"""
_TABLE = r"\begin{longtable}{@{}l>{\raggedright}p{65mm}>{\raggedright\arraybackslash}p{150mm}@{}}"


def named_latex(
    found: Named, document: bool = False, references: Sequence[Reference] = (), bib: str = ""
) -> str:
    """The formula as an ``aligned`` block; with ``document`` pages that compile.

    On a page no line is wider than the page, and a formula may go on overleaf.

    Args:
        found: the formula.
        document: pages.
        references: what a document cites.
        bib: the file of BibTeX that holds them, without its suffix; else they stand in the
            document itself.
    """
    rows = equations(found)
    if not document:
        lines = [f"{_left(row)}{to_latex(row.right)}" for row in rows]
        return _block("aligned", lines)
    heads = [_heads(row) for row in rows]
    room = PAGE - max(measure(head[-1]) for head in heads)
    lines = []
    for row, head in zip(rows, heads, strict=True):
        first, *rest = broken(row.right, room, room - INDENT)
        lines += [*head[:-1], f"{head[-1]}{first}"]
        lines.extend(rf"&\qquad {part}" for part in rest)
        lines.extend([_source(row, room - INDENT)] if row.source else [])
    said = "\n".join(rf"\item {text_latex(_signs(sentence))}" for sentence in told(found))
    items = f"\\begin{{itemize}}\n{said}\n\\end{{itemize}}\n" if said else ""
    title = "".join(rf"\noindent {text_latex(line)}\par{chr(10)}" for line in about(found.formula))
    table = "\n".join((_TABLE, *_legend(found), r"\end{longtable}"))
    listed = _cited(references, bib)
    return f"{_HEAD}{title}{_block('align*', lines)}\n\n{table}\n{items}{listed}\\end{{document}}\n"


def _signs(sentence: str) -> str:
    return sentence.replace("<=", "≤").replace(">=", "≥")


def _cited(references: Sequence[Reference], bib: str) -> str:
    """Sources and where they are listed; nothing without any."""
    if not references:
        return ""
    said = rf"\par\noindent {citing(references)}"
    listed = bibliography(references)
    if bib:
        listed = f"\\bibliographystyle{{plain}}\n\\bibliography{{{bib}}}"
    return f"{said}\n{listed}\n"


def _block(environment: str, lines: list[str]) -> str:
    body = " \\\\\n".join(lines)
    return f"\\begin{{{environment}}}\n{body}\n\\end{{{environment}}}"


def _left(row: Equation) -> str:
    """Everything up to the mark at which lines are aligned."""
    sign = _SIGNS.get(row.sign, row.sign)
    if not row.left:
        return f"&{{}}{sign} "
    return r" \le ".join(map(to_latex, row.left)) + f" {sign}{{}}& "


def _heads(row: Equation) -> list[str]:
    """The left side as it stands on a page: in front of the first line, or above it."""
    left = _left(row)
    if measure(left) <= LEFT or not row.left:
        return [left]
    above = r" \le ".join(map(to_latex, row.left))
    return [f"&{above}", _left(replace(row, left=()))]


def _source(row: Equation, room: float) -> str:
    """The operations that a line is of, under it in small type."""
    told = re.sub(r"(\+|\\_)", r"\1\\allowbreak ", text_latex(row.source))
    return rf"&\qquad \parbox{{{room:.0f}pt}}{{\raggedright\footnotesize {told}}}"


def _legend(found: Named) -> list[str]:
    rows = [(p.symbol.name, "", text_latex(p.name)) for p in found.parts]
    for c in found.constants:
        value = text_latex(amount_text(c.value, c.unit))
        if c.per != 1:
            value += f" per {_in_column(of_expr(c.per), VALUES / 2, VALUES)}"
        derived = ""
        if c.derivation is not None:
            derived = _in_column(of_expr(c.derivation), COLUMN, COLUMN)
        rows.append((c.symbol.name, value, derived))
    rows += [(s.name, text_latex(rate_text(s, v)), "") for s, v in found.rates.items()]
    rows += [(s.name, str(v), text_latex(MEANINGS.get(s.name, ""))) for s, v in found.dims.items()]
    rows += [(name, "", text_latex(what)) for name, what in found.formula.meanings.items()]
    return [rf"${to_latex(Name(name))}$ & {value} & {text} \\" for name, value, text in rows]


def _in_column(node: Node, begin: float, width: float) -> str:
    """A formula in lines of a column, the first of which has ``begin`` points left."""
    first, *rest = broken(node, begin, width - INDENT)
    return r" \newline ".join([f"${first}$", *(rf"$\qquad {part}$" for part in rest)])
