"""Formulas in named constants as text and MathML, with their legends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

from sympy import Expr, Rational, Symbol

from costgraph.setting import foot
from costgraph.showing.export.atoms import number_text
from costgraph.showing.export.layout import (
    Call,
    Name,
    Node,
    Number,
    Ratio,
    Total,
    combined,
    labelled,
    name_mathml,
    of_expr,
    series,
    to_mathml,
    to_text,
)
from costgraph.showing.export.standalone import page_html
from costgraph.symbols import MEANINGS, symbol

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula
    from costgraph.formula.naming import Constant, Line, Named, Side

_UNITS = {"byte": "B", "FLOP": "FLOP", "s": "s"}
_SMALL = (
    (Rational(1, 10**3), "ms"), (Rational(1, 10**6), "µs"), (Rational(1, 10**9), "ns"),
)  # fmt: skip
_SIGNS = {"<=": "&#x2264;"}
_STYLE = (
    "body{font-family:Helvetica,Arial,sans-serif;margin:1.5rem;color:#111}"
    ".legend td{padding:.1rem .8rem .1rem 0}"
)


def line_node(line: Line) -> Node:
    """``count · max(amount / rate, …)`` as a tree."""
    return combined(line.count, [_side(arm) for arm in line.arms], line.norm, line.span)


def _side(arm: Side) -> Node:
    if arm.chain:
        return labelled(arm.label, series([line_node(line) for line in arm.chain]))
    top = of_expr(arm.amount)
    return labelled(arm.label, top if arm.rate is None else Ratio(top, Name(arm.rate.name)))


def _source(line: Line, limit: int = 6) -> str:
    """Where a line comes from."""
    shown = ", ".join(line.ops[:limit])
    shown = shown if len(line.ops) <= limit else f"{shown}, … ({len(line.ops)} ops)"
    return f"{shown} (link {line.link})" if line.link else shown


def amount_text(value: Expr, unit: str) -> str:
    """A value with its unit, SI-prefixed: ``33.55 MB``."""
    text = number_text(value)
    if unit == "s":
        return seconds_text(value)
    number, prefix = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    short = _UNITS.get(unit, f"{unit}s") if prefix or unit != "byte" else "byte"
    return f"{number} {prefix}{short}"


def seconds_text(value: Expr) -> str:
    """A time with its unit: ``371.8 µs``; exact where a fraction of a second is short."""
    text = number_text(value)
    if "/" in text or not 0 < abs(value) < 1:
        return f"{text} s"
    scale, unit = next(x for x in _SMALL if abs(value) >= x[0] or x is _SMALL[-1])
    return f"{float(value / scale):.4g} {unit}"


def rate_text(name: Symbol, value: Expr) -> str:
    unit = "B/s" if name.name.partition("_")[0] == "BW" else "FLOP/s"
    if not value.is_number:
        return f"{value} {unit}"
    text = number_text(value)
    number, prefix = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return f"{number} {prefix}{unit}"


def _per(constant: Constant) -> str:
    return "" if constant.per == 1 else f" per {to_text(of_expr(constant.per))}"


def bound_nodes(found: Named) -> list[tuple[str, Node]]:
    """The lines of a summary as named times."""
    return [(f"t{i + 1}", line_node(line)) for i, line in enumerate(found.lines)]


@dataclass(frozen=True)
class Equation:
    """A line of a formula: what stands left, the sign, what stands right, and from where.

    Several things on the left are in rising order; none continues the line before.
    """

    left: tuple[Node, ...]
    sign: str
    right: Node
    source: str = ""


def equations(found: Named) -> list[Equation]:
    """The formula line by line; a rate is first a quotient, then what it divides by."""
    head: Node = Call(found.formula.name, tuple(Name(s.name) for s in found.formula.symbols))
    if found.detail == "summary" and len(found.lines) > 1:
        names = tuple(Name(f"t_{i + 1}") for i in range(len(found.lines)))
        total = Total(tuple((False, n) for n in names))
        return [
            Equation((Call("max", names), head), "<=", total),
            *(
                Equation((name,), "=", line_node(line), _source(line))
                for name, line in zip(names, found.lines, strict=True)
            ),
        ]
    made = []
    if found.formula.numerator is not None:
        below = Name("t")
        made.append(Equation((head,), "=", Ratio(of_expr(found.formula.numerator), below)))
        head = below
    made.extend(_series_rows(head, found.lines))
    for part in found.parts:
        first, *more = _series_rows(Name(part.symbol.name), part.lines)
        made += [replace(first, source=f"{part.name}: {first.source}"), *more]
    return made or [Equation((head,), "=", Number(Rational(0)))]


def _series_rows(head: Node, lines: tuple[Line, ...]) -> Iterator[Equation]:
    """Lines one after the other, as what ``head`` is."""
    for index, line in enumerate(lines):
        left, sign = ((), "+") if index else ((head,), "=")
        yield Equation(left, sign, line_node(line), _source(line))


def about(formula: Formula) -> list[str]:
    """What a formula is of and its unit, a line each with what must be said."""
    shown = f"{formula.name} in {formula.unit}"
    return [shown] if formula.setting is None else formula.setting.lines(shown)


def _head(found: Named) -> str:
    arguments = ", ".join(s.name for s in found.formula.symbols)
    return f"{found.formula.name}({arguments})"


def named_text(found: Named) -> str:
    """The formula, then its legend."""
    formula = found.formula
    lead = [] if formula.setting is None else formula.setting.lines()
    out = [f"{_head(found)} [{formula.unit}] ="]
    if found.detail == "summary":
        names = [name for name, _ in bound_nodes(found)]
        if len(names) == 1:
            out = [f"{_head(found)} [{formula.unit}] = {to_text(bound_nodes(found)[0][1])}"]
        else:
            low = f"max({', '.join(names)})"
            out = [f"{low} <= {_head(found)} <= {' + '.join(names)}  [{formula.unit}]"]
            for (name, node), line in zip(bound_nodes(found), found.lines, strict=True):
                out.append(f"    {name} = {to_text(node)}")
                out.append(f"         ← {_source(line)}")
        out.extend(f"    {note}" for note in found.notes)
    else:
        top = formula.numerator
        if top is not None:
            out[0] += f" {to_text(of_expr(top))} / ("
        out.extend(_series_text(found.lines))
        if top is not None:
            out.append("    )")
        for part in found.parts:
            out.append(f"  {part.symbol} ({part.name}) =")
            out.extend(_series_text(part.lines))
    out.extend(_legend_text(found))
    return "\n".join([*lead, *out])


def _series_text(lines: tuple[Line, ...]) -> Iterator[str]:
    for index, line in enumerate(lines):
        yield f"      {'+ ' if index else '  '}{to_text(line_node(line))}"
        yield f"            ← {_source(line)}"


def underived(found: Named) -> str:
    """A sentence where constants have no derivation, and why; else empty."""
    missing = [c.symbol.name for c in found.constants if c.derivation is None]
    if found.underived and missing:
        return f"constants are not derived from the model's dimensions: {found.underived}"
    if missing and found.dims:
        which = "is" if len(missing) == 1 else "are"
        return (
            f"{', '.join(missing)} {which} not derived from the model's dimensions: in symbols "
            "the value does not come out exactly (sizes are rounded, or equal parts are counted "
            "together)"
        )
    return ""


def told(found: Named) -> tuple[str, ...]:
    """Sentences under a formula: what it leaves out and assumes, and the range it is valid in."""
    setting = found.formula.setting
    why = (underived(found),) if underived(found) else ()
    assumed = () if setting is None else setting.assumptions
    remarks = () if setting is None else setting.remarks
    return (*found.notes, *why, *assumed, *valid(found), *remarks)


def valid(found: Named) -> tuple[str, ...]:
    """What values of its symbols keep to."""
    return tuple(limit.text for limit in found.formula.limits)


def _legend_text(found: Named) -> list[str]:
    out = ["where"]
    width = max((len(c.symbol.name) for c in found.constants), default=1)
    for c in found.constants:
        derived = "" if c.derivation is None else f" = {to_text(of_expr(c.derivation))}"
        value = amount_text(c.value, c.unit)
        out.append(f"    {c.symbol.name:<{width}} = {value}{_per(c)}{derived}")
    for name, value in found.rates.items():
        out.append(f"    {name} = {rate_text(name, value)}")
    for s, v in found.dims.items():
        out.append(f"    {s} = {v}: {MEANINGS.get(s.name, '')}")
    out += [f"    {name}: {meaning}" for name, meaning in found.formula.meanings.items()]
    out += [f"    {underived(found)}"] if underived(found) else []
    setting = found.formula.setting
    return [*out, *(foot(valid(found)) if setting is None else setting.foot(*valid(found)))]


# --- MathML ----------------------------------------------------------------------------


def math(node: Node, display: bool = False) -> str:
    """A tree as a ``<math>`` element."""
    mode = ' display="block"' if display else ""
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML"{mode}>{to_mathml(node)}</math>'


def named_html(found: Named) -> str:
    """Formula and legend as HTML with MathML; all text is escaped."""
    above = f"<p>{'<br/>'.join(map(escape, about(found.formula)))}</p>"
    rows = _rows_html(found)
    legend = "".join(_row_html(p.symbol, "", escape(p.name)) for p in found.parts)
    legend += "".join(_legend_row(c) for c in found.constants)
    for name, rate in found.rates.items():
        legend += _row_html(name, escape(rate_text(name, rate)))
    for s, v in found.dims.items():
        legend += _row_html(s, str(v), escape(MEANINGS.get(s.name, "")))
    for name, meaning in found.formula.meanings.items():
        legend += _row_html(symbol(name), "", escape(meaning))
    notes = "".join(f"<li>{escape(n)}</li>" for n in told(found))
    return (
        f'<div class="costgraph-formula">{above}{rows}<table class="legend">{legend}</table>'
        + (f"<ul>{notes}</ul>" if notes else "")
        + "</div>"
    )


def named_page(found: Named) -> str:
    """:func:`named_html` as a document of its own."""
    return page_html(about(found.formula)[0], named_html(found), _STYLE)


def _rows_html(found: Named) -> str:
    above = cells = ""
    for row in equations(found):
        left = "<mo>&#x2264;</mo>".join(map(to_mathml, row.left))
        sign = f"<mo>{_SIGNS.get(row.sign, row.sign)}</mo>"
        if len(row.left) > 1:  # in the table it would push all that follows to the right
            above += _block(f"<mrow>{left}{sign}{to_mathml(row.right)}</mrow>")
            continue
        cells += (
            f'<mtr><mtd style="text-align:right"><mrow>{left}</mrow></mtd>'
            f"<mtd>{sign}</mtd>"
            f'<mtd style="text-align:left">{to_mathml(row.right)}</mtd>'
            f'<mtd style="text-align:left"><mtext>{escape(row.source)}</mtext></mtd></mtr>'
        )
    return above + _block(f'<mtable displaystyle="true">{cells}</mtable>')


def _block(inner: str) -> str:
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">{inner}</math>'


def _named_math(name: Symbol) -> str:
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML">{name_mathml(name.name)}</math>'


def _legend_row(c: Constant) -> str:
    derived = "" if c.derivation is None else math(of_expr(c.derivation))
    per = "" if c.per == 1 else f" per {math(of_expr(c.per))}"
    return _row_html(c.symbol, escape(amount_text(c.value, c.unit)) + per, derived)


def _row_html(name: Symbol, value: str, meaning: str = "") -> str:
    cells = (_named_math(name), value, meaning)
    return "<tr>" + "".join(f'<td style="text-align:left">{c}</td>' for c in cells) + "</tr>"


__all__ = ["about", "equations", "math", "named_html", "named_page", "named_text"]
