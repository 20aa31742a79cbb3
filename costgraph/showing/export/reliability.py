"""How likely deadlines are kept, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sympy import oo

from costgraph.showing.export.regimes import about_lines, foot_lines
from costgraph.showing.export.text import expr_text
from costgraph.symbols import symbol
from costgraph.units import format_quantity

if TYPE_CHECKING:
    from costgraph.asking.reliability import Reliability

#: Probabilities whose deadlines are shown.
SHOWN = (0.5, 0.9, 0.99, 0.999)


def reliability_text(found: Reliability) -> str:
    """A few lines: ranges of deadlines with their formula, and deadlines of some probabilities."""
    lines = about_lines(found.setting)
    at = "".join(f", {name}={value}" for name, value in found.workload.items())
    lines.append(f"P({found.metric} <= D){at}; {found.over} {found.channel.text}, one rate a task")
    for piece in found.pieces:
        lower = format_quantity(float(piece.lower), "s")
        upper = "" if piece.upper == oo else f" <= {format_quantity(float(piece.upper), 's')}"
        rate = expr_text(piece.rate.xreplace({found.deadline: symbol("D")}))
        lines.append(f"  {lower} < D{upper}: P({found.over} >= {rate})")
    for probability in SHOWN:
        within = format_quantity(found.within(probability), "s")
        lines.append(f"  {100 * probability:g}% within {within}")
    return "\n".join([*lines, *foot_lines(found.setting)])
