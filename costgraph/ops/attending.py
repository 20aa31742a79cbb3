"""The pattern that an operation of attention has, whichever operation it is."""

from __future__ import annotations

from dataclasses import replace

from costgraph.ir.op import Op
from costgraph.ops.pattern import Pattern
from costgraph.ops.quant import NarrowResult, plain


def pattern_of(op: Op) -> Pattern | None:
    """What its positions see; None for an operation that has nothing to do with it.

    An operation whose result is stored narrow as it is made has its own pattern.
    """
    found = getattr(plain(op), "pattern", None)
    return found if isinstance(found, Pattern) else None


def with_pattern(op: Op, pattern: Pattern) -> Op:
    """An operation that has a pattern, under another one."""
    if isinstance(op, NarrowResult):
        return replace(op, inner=with_pattern(op.inner, pattern))
    return replace(op, pattern=pattern)  # type: ignore[type-var]
