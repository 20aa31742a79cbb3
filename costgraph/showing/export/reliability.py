"""How likely deadlines are kept, as text and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sympy import Expr, oo, sstr

from costgraph.ir.workload import plain
from costgraph.showing.export.regimes import foot_lines, setting_object
from costgraph.showing.export.text import expr_text
from costgraph.symbols import symbol
from costgraph.units import apart, format_quantity

if TYPE_CHECKING:
    from costgraph.asking.reliability import Reliability

#: Probabilities whose deadlines are shown where none are asked for.
SHOWN = (0.5, 0.9, 0.99, 0.999)
#: How deadlines are called in expressions.
DEADLINE = symbol("D")


def reliability_text(
    found: Reliability,
    deadlines: Sequence[str | float] = (),
    within: Sequence[float] = (),
) -> str:
    """A few lines: ranges of deadlines with their formula, and what is asked for of them.

    Args:
        found: what is shown.
        deadlines: whose probabilities are shown.
        within: probabilities whose deadlines are shown; without either, those of :data:`SHOWN`.
    """
    lines = [] if found.setting is None else found.setting.lines(warning=found.fit.warning)
    at = "".join(f", {name}={value}" for name, value in found.workload.items())
    lines.append(f"P({found.metric} <= D){at}; {found.over} {found.channel.text}, one rate a task")
    finite = (e for piece in found.pieces for e in (piece.lower, piece.upper) if e != oo)
    ends = apart(finite, lambda end, digits: format_quantity(float(end), "s", digits), 4)
    for piece in found.pieces:
        lower = ends[piece.lower]
        upper = "" if piece.upper == oo else f" <= {ends[piece.upper]}"
        rate = expr_text(piece.rate.xreplace({found.deadline: DEADLINE}))
        lines.append(f"  {lower} < D{upper}: P({found.over} >= {rate})")
    for deadline in deadlines:
        shown = format_quantity(float(found.seconds(deadline)), "s")
        lines.append(f"  {100 * found.at(deadline):.4g}% within {shown}")
    for probability in _probabilities(deadlines, within):
        shown = format_quantity(found.within(probability), "s")
        lines.append(f"  {100 * probability:g}% within {shown}")
    return "\n".join([*lines, *foot_lines(found.setting)])


def _probabilities(deadlines: Sequence[str | float], within: Sequence[float]) -> Sequence[float]:
    """Those whose deadlines are shown: the ones asked for, or usual ones where nothing is."""
    return within or (() if deadlines else SHOWN)


def reliability_object(
    found: Reliability,
    deadlines: Sequence[str | float] = (),
    within: Sequence[float] = (),
) -> dict[str, Any]:
    """The same as plain values: expressions are exact text, times are seconds."""

    def exact(expr: Expr) -> str:
        return str(sstr(expr.xreplace({found.deadline: DEADLINE})))

    return {
        **setting_object(found.setting),
        "metric": found.metric,
        "over": found.over,
        "channel": found.channel.text,
        "point": plain(found.workload),
        "fit": found.fit.to_dict(),
        "deadline": DEADLINE.name,
        "pieces": [
            {
                "from": exact(p.lower),
                "to": exact(p.upper),
                "rate": exact(p.rate),
                "probability": exact(p.probability),
            }
            for p in found.pieces
        ],
        "deadlines": [
            {"seconds": float(found.seconds(d)), "probability": found.at(d)} for d in deadlines
        ],
        "within": [
            {"probability": p, "seconds": found.within(p)}
            for p in _probabilities(deadlines, within)
        ],
    }
