"""Formulas in named constants: text, LaTeX and MathML, with their legends."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from sympy import Expr, Symbol

from costgraph.export.layout import (
    Call,
    Name,
    Node,
    Norm,
    Product,
    Ratio,
    Series,
    Total,
    name_mathml,
    of_expr,
    to_latex,
    to_mathml,
    to_text,
)
from costgraph.export.text import number_text
from costgraph.symbols import LEGEND

if TYPE_CHECKING:
    from costgraph.formula.naming import Constant, Line, Named

_UNITS = {"byte": "B", "FLOP": "FLOP", "s": "s"}


def _line(line: Line) -> Node:
    """``count · max(amount / rate, …)`` as a tree."""
    arms: list[Node] = []
    for amount, rate in line.arms:
        top = of_expr(amount)
        arms.append(top if rate is None else Ratio(top, Name(rate.name)))
    body: Node = arms[0]
    if len(arms) > 1:
        body = Call("max", tuple(arms)) if line.norm is None else Norm(tuple(arms), line.norm)
    if line.span is not None:
        ends = (of_expr(line.span.lower), of_expr(line.span.upper))
        body = Series(Name(line.span.symbol.name), *ends, body)
    if line.count == 1:
        return body
    return Product((of_expr(line.count), body))


def _ops(ops: tuple[str, ...], limit: int = 6) -> str:
    shown = ", ".join(ops[:limit])
    return shown if len(ops) <= limit else f"{shown}, … ({len(ops)} ops)"


def _amount(value: Expr, unit: str) -> str:
    """A value with its unit, SI-prefixed: ``33.55 MB``."""
    text = number_text(value)
    if unit == "s":
        return f"{text} s"
    number, prefix = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    short = _UNITS.get(unit, unit) if prefix or unit != "byte" else "byte"
    return f"{number} {prefix}{short}"


def _rate(name: Symbol, value: Expr) -> str:
    unit = "B/s" if name.name == "BW" else "FLOP/s"
    if not value.is_number:
        return f"{value} {unit}"
    text = number_text(value)
    number, prefix = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return f"{number} {prefix}{unit}"


def _per(constant: Constant) -> str:
    return "" if constant.per == 1 else f" per {to_text(of_expr(constant.per))}"


def _bounds(found: Named) -> list[tuple[str, Node]]:
    """The lines of a summary as named times."""
    return [(f"t{i + 1}", _line(line)) for i, line in enumerate(found.lines)]


def _head(found: Named) -> str:
    arguments = ", ".join(s.name for s in found.formula.symbols)
    return f"{found.formula.name}({arguments})"


def named_text(found: Named) -> str:
    """The formula, then its legend."""
    formula = found.formula
    out = [f"{_head(found)} [{formula.unit}] ="]
    if found.detail == "summary":
        names = [name for name, _ in _bounds(found)]
        if len(names) == 1:
            out = [f"{_head(found)} [{formula.unit}] = {to_text(_bounds(found)[0][1])}"]
        else:
            low = f"max({', '.join(names)})"
            out = [f"{low} <= {_head(found)} <= {' + '.join(names)}  [{formula.unit}]"]
            for (name, node), line in zip(_bounds(found), found.lines, strict=True):
                out.append(f"    {name} = {to_text(node)}")
                out.append(f"         ← {_ops(line.ops)}")
        out.extend(f"    {note}" for note in found.notes)
    else:
        top = formula.numerator
        if top is not None:
            out[0] += f" {to_text(of_expr(top))} / ("
        for index, line in enumerate(found.lines):
            sign = "  " if index == 0 else "+ "
            out.append(f"      {sign}{to_text(_line(line))}")
            out.append(f"            ← {_ops(line.ops)}")
        if top is not None:
            out.append("    )")
    out.extend(_legend_text(found))
    return "\n".join(out)


def _legend_text(found: Named) -> list[str]:
    out = ["where"]
    width = max((len(c.symbol.name) for c in found.constants), default=1)
    for c in found.constants:
        derived = "" if c.derivation is None else f" = {to_text(of_expr(c.derivation))}"
        value = _amount(c.value, c.unit)
        out.append(f"    {c.symbol.name:<{width}} = {value}{_per(c)}{derived}")
    for name, value in found.rates.items():
        out.append(f"    {name} = {_rate(name, value)}")
    for s, v in found.dims.items():
        out.append(f"    {s} = {v}: {LEGEND.get(s.name, '')}")
    for s in found.formula.symbols:
        if s.name in LEGEND:
            out.append(f"    {s.name}: {LEGEND[s.name]}")
    if found.formula.assumptions:
        out.append("assuming")
        out.extend(f"    {sentence}" for sentence in found.formula.assumptions)
    return out


# --- LaTeX -----------------------------------------------------------------------------


def _text_latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {c: rf"\{c}" for c in "#$%&_{}"}
    plain = {"←": "", "…": r"\dots{}", "−": "-", "·": r"\textperiodcentered{}", "<": r"\textless{}"}
    plain |= {">": r"\textgreater{}", "×": r"$\times$", "γ": r"$\gamma$", "α": r"$\alpha$"}
    return "".join(special.get(c, plain.get(c, c if ord(c) < 256 else "?")) for c in text)


def _head_latex(found: Named) -> str:
    arguments = ", ".join(to_latex(Name(s.name)) for s in found.formula.symbols)
    name = found.formula.name
    return rf"\operatorname{{{_text_latex(name)}}}({arguments})"


def _body_latex(found: Named) -> str:
    head = _head_latex(found)
    rows: list[str] = []
    if found.detail == "summary":
        bounds = _bounds(found)
        if len(bounds) == 1:
            rows.append(rf"{head} ={{}}& {to_latex(bounds[0][1])}")
        else:
            names = [to_latex(Name(f"t_{i + 1}")) for i in range(len(bounds))]
            rows.append(rf"\max({', '.join(names)}) \le {head} \le{{}}& {' + '.join(names)}")
            rows.extend(
                rf"{name} ={{}}& {to_latex(node)}"
                for name, (_, node) in zip(names, bounds, strict=True)
            )
    else:
        shown = [to_latex(_line(line)) for line in found.lines] or ["0"]
        if found.formula.numerator is not None:
            top = to_latex(of_expr(found.formula.numerator))
            return rf"{head} = \frac{{{top}}}{{{' + '.join(shown)}}}"
        rows.append(rf"{head} ={{}}& {shown[0]}")
        rows.extend(rf"&{{}}+ {line}" for line in shown[1:])
    return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"


def named_latex(found: Named, document: bool = False) -> str:
    """The formula as an ``aligned`` block; with ``document`` a page that compiles."""
    body = _body_latex(found)
    if not document:
        return body
    rows = []
    for c in found.constants:
        value = _text_latex(_amount(c.value, c.unit))
        per = "" if c.per == 1 else f" per ${to_latex(of_expr(c.per))}$"
        derived = "" if c.derivation is None else f"${to_latex(of_expr(c.derivation))}$"
        rows.append(f"${to_latex(Name(c.symbol.name))}$ & {value}{per} & {derived} \\\\")
    for name, value in found.rates.items():
        rows.append(f"${to_latex(Name(name.name))}$ & {_text_latex(_rate(name, value))} & \\\\")
    for s, v in found.dims.items():
        meaning = _text_latex(LEGEND.get(s.name, ""))
        rows.append(f"${to_latex(Name(s.name))}$ & {v} & {meaning} \\\\")
    for s in found.formula.symbols:
        if s.name in LEGEND:
            rows.append(f"${to_latex(Name(s.name))}$ & & {_text_latex(LEGEND[s.name])} \\\\")
    items = "\n".join(rf"\item {_text_latex(a)}" for a in found.formula.assumptions)
    assumed = f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}\n" if items else ""
    return (
        "\\documentclass{article}\n\\usepackage[landscape,margin=15mm]{geometry}\n"
        "\\usepackage{amsmath}\n\\usepackage{longtable}\n\\usepackage{array}\n"
        "\\begin{document}\n\\noindent\n"
        f"$\\displaystyle\n{body}\n$\n\n"
        "\\medskip\n\\begin{longtable}{@{}l>{\\raggedright}p{50mm}>{\\raggedright\\arraybackslash}"
        "p{165mm}@{}}\n" + "\n".join(rows) + "\n\\end{longtable}\n" + assumed + "\\end{document}\n"
    )


# --- MathML ----------------------------------------------------------------------------


def math(node: Node, display: bool = False) -> str:
    """A tree as a ``<math>`` element."""
    mode = ' display="block"' if display else ""
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML"{mode}>{to_mathml(node)}</math>'


def _head_node(found: Named) -> Node:
    return Call(found.formula.name, tuple(Name(s.name) for s in found.formula.symbols))


def named_html(found: Named) -> str:
    """Formula and legend as HTML with MathML; all text is escaped."""
    rows = _rows_html(found)
    legend = "".join(_legend_row(c) for c in found.constants)
    for name, value in found.rates.items():
        legend += (
            f"<tr><td>{_named_math(name)}</td><td>{escape(_rate(name, value))}</td><td></td></tr>"
        )
    for s, v in found.dims.items():
        meaning = escape(LEGEND.get(s.name, ""))
        legend += f"<tr><td>{_named_math(s)}</td><td>{v}</td><td>{meaning}</td></tr>"
    for s in found.formula.symbols:
        if s.name in LEGEND:
            legend += (
                f"<tr><td>{_named_math(s)}</td><td></td><td>{escape(LEGEND[s.name])}</td></tr>"
            )
    notes = "".join(f"<li>{escape(n)}</li>" for n in (*found.notes, *found.formula.assumptions))
    return (
        f'<div class="costgraph-formula">{rows}<table class="legend">{legend}</table>'
        + (f"<ul>{notes}</ul>" if notes else "")
        + "</div>"
    )


def _rows_html(found: Named) -> str:
    head = to_mathml(_head_node(found))
    table: list[tuple[str, str, str, str]] = []
    if found.detail == "summary" and len(found.lines) > 1:
        names = tuple(Name(f"t_{i + 1}") for i in range(len(found.lines)))
        low = to_mathml(Call("max", names))
        high = to_mathml(Total(tuple((False, n) for n in names)))
        table.append((f"<mrow>{low}<mo>&#x2264;</mo>{head}</mrow>", "&#x2264;", high, ""))
        for name, line in zip(names, found.lines, strict=True):
            table.append((to_mathml(name), "=", to_mathml(_line(line)), _ops(line.ops)))
    elif found.formula.numerator is not None:
        total = Total(tuple((False, _line(line)) for line in found.lines))
        whole = Ratio(of_expr(found.formula.numerator), total)
        table.append((head, "=", to_mathml(whole), ""))
    else:
        for index, line in enumerate(found.lines):
            first = index == 0
            sign = "=" if first else "+"
            table.append((head if first else "", sign, to_mathml(_line(line)), _ops(line.ops)))
    cells = "".join(
        f'<mtr><mtd style="text-align:right">{left}</mtd><mtd><mo>{sign}</mo></mtd>'
        f'<mtd style="text-align:left">{right}</mtd>'
        f'<mtd style="text-align:left"><mtext>{escape(ops)}</mtext></mtd></mtr>'
        for left, sign, right, ops in table
    )
    return (
        '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">'
        f'<mtable displaystyle="true">{cells}</mtable></math>'
    )


def _named_math(name: Symbol) -> str:
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML">{name_mathml(name.name)}</math>'


def _legend_row(c: Constant) -> str:
    derived = "" if c.derivation is None else math(of_expr(c.derivation))
    per = "" if c.per == 1 else f" per {math(of_expr(c.per))}"
    value = escape(_amount(c.value, c.unit))
    return f"<tr><td>{_named_math(c.symbol)}</td><td>{value}{per}</td><td>{derived}</td></tr>"


__all__ = ["math", "named_html", "named_latex", "named_text"]
