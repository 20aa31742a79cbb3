"""The patterns that an operation of attention has, whichever operation it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from costgraph.ir.op import Op
from costgraph.ops.pattern import Pattern
from costgraph.ops.quant import plain, stored_as


def _named(op: Op) -> tuple[str, ...]:
    """The fields that say what positions see, that of the result first."""
    names: tuple[str, ...] = getattr(op, "patterns", ("pattern",))
    return names


def pattern_of(op: Op) -> Pattern | None:
    """What its positions see; None for an operation that has nothing to do with it.

    An operation whose result is stored narrow as it is made has its own pattern.
    """
    inner = plain(op)
    found = getattr(inner, _named(inner)[0], None)
    return found if isinstance(found, Pattern) else None


def repatterned(op: Op, change: Callable[[Pattern], Pattern]) -> Op:
    """An operation of attention with ``change`` done to all that its positions see.

    Operations that have nothing to do with it stay.
    """
    if pattern_of(op) is None:
        return op
    inner: Any = plain(op)
    return stored_as(op, replace(inner, **{n: change(getattr(inner, n)) for n in _named(inner)}))
