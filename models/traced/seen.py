"""What a mask means for attention: the pairs that positions leave."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.formula.envelope import dominates
from costgraph.formula.least import least
from costgraph.ir.op import same
from costgraph.models.traced.laws import Ramp, Shown

ZERO = Integer(0)


@dataclass(frozen=True)
class Seen:
    """The pairs that positions leave: in the words of the operations of attention."""

    causal: bool = False
    window: Expr | None = None
    reach: Expr | None = None


def seen(law: Shown, rows: Expr, columns: Expr) -> Seen | None:
    """What conditions leave of ``rows`` queries and ``columns`` keys; None if no operation says it.

    The last query stands at the last key, as in attention over a cache.
    """
    ahead: list[Expr] = []  # bounds of how many keys after its own position a query sees,
    behind: list[Expr] = []  # and of how many before it
    if not law.within:
        return Seen()
    for ramp in law.within:
        if _always(ramp, rows, columns):
            continue
        along = ramp.along(-1)
        down = -along if rows == 1 else ramp.along(-2)
        outside = {axis for axis, _ in ramp.steps} - {-1, -2}
        if outside or along == 0 or down != -along or not along.is_number:
            return None
        if along < 0:
            ahead.append(ramp.start / down - (columns - rows))
        else:
            behind.append(ramp.start / along + (columns - rows))
    # A single query, the last, has no key after it.
    last = least(*ahead) if ahead else ZERO if rows == 1 else None
    first = least(*behind) if behind else None
    if last is None:
        return Seen() if first is None else None
    if same(last, ZERO):
        return Seen(causal=True, window=None if first is None else first + 1)
    if first is not None and same(first, last) and same(rows, columns):
        return Seen(reach=first)
    return None


def _always(ramp: Ramp, rows: Expr, columns: Expr) -> bool:
    """True if a condition holds at every place of scores."""
    least_ = ramp.start
    for axis, step in ramp.steps:
        if step.is_positive:
            continue
        if axis not in (-1, -2):
            return False
        least_ = least_ + step * ((columns if axis == -1 else rows) - 1)
    return isinstance(least_, Expr) and dominates(least_, ZERO)
