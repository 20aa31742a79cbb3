"""How likely deadlines are kept, as text and as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, log10
from typing import TYPE_CHECKING, Any

from sympy import Expr, oo, sstr

from costgraph.ir.workload import plain
from costgraph.showing.export.regimes import foot_lines, setting_object
from costgraph.showing.export.text import expr_text
from costgraph.symbols import symbol
from costgraph.units import apart, format_quantity

if TYPE_CHECKING:
    from costgraph.asking.reliability import Kept, Reliability

#: Probabilities whose deadlines are shown where none are asked for.
SHOWN = (0.5, 0.9, 0.99, 0.999)
#: Significant digits of what is printed, and the most that a float has.
DIGITS, MOST = 4, 17
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
    used = [float(found.seconds(d)) for d in deadlines]
    reached = {p: found.within(p) for p in _probabilities(deadlines, within)}
    fine = {piece: _digits(piece, (*used, *reached.values())) for piece in found.pieces}
    finite = (e for piece in found.pieces for e in (piece.lower, piece.upper) if e != oo)
    most = max(fine.values(), default=DIGITS)
    ends = apart(finite, lambda end, digits: format_quantity(float(end), "s", digits), most)
    for piece in found.pieces:
        lower = ends[piece.lower]
        upper = "" if piece.upper == oo else f" <= {ends[piece.upper]}"
        steady = f"D - {float(piece.steady):.{fine[piece]}g}" if piece.steady else "D"
        rate = f"{expr_text(piece.share)} / ({steady})"
        lines.append(f"  {lower} < D{upper}: P({found.over} >= {rate})")

    def shown(seconds: float) -> str:
        own = (n for piece, n in fine.items() if piece.lower <= seconds <= piece.upper)
        return format_quantity(seconds, "s", next(own, DIGITS))

    for deadline, seconds in zip(deadlines, used, strict=True):
        lines.append(f"  {100 * found.at(deadline):.4g}% within {shown(seconds)}")
    for probability, seconds in reached.items():
        lines.append(f"  {100 * probability:g}% within {shown(seconds)}")
    return "\n".join([*lines, *foot_lines(found.setting)])


def _digits(piece: Kept, used: Iterable[float]) -> int:
    """Significant digits of ``D`` and ``A`` with which ``D − A`` is right to :data:`DIGITS`.

    Where the range begins, if that is above ``A``, and at deadlines that are used in it.
    """
    inside = (d for d in used if piece.lower < d <= piece.upper)
    gaps = [float(d - piece.steady) for d in (piece.lower, *inside) if d > piece.steady]
    if not gaps or piece.steady == 0:
        return DIGITS
    return min(DIGITS + max(0, ceil(log10(float(piece.steady) / min(gaps)))), MOST)


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
        **setting_object(found.setting, *found.fit.cautions),
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
