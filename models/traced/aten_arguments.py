"""Arguments of ATen calls: by position or by name, optional, one per axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sympy import Expr, Integer

from costgraph.ir.dtypes import DType
from costgraph.models.traced.formats import format_of
from costgraph.models.traced.lowering import Lowering
from costgraph.models.traced.record import Call
from costgraph.models.traced.value import Value


def argument(call: Call, place: int, name: str, default: Any) -> Any:
    """An argument by position or by name."""
    if len(call.args) > place:
        return call.args[place]
    return call.attributes.get(name, default)


def stated(call: Call) -> DType | None:
    """The format that the trace states for the first result."""
    kind = call.results[0].dtype if call.results else None
    return None if kind is None else format_of(kind, call.name)


def stated_shape(low: Lowering, call: Call, result: int = 0) -> tuple[Expr, ...]:
    """The shape that the trace states for a result.

    Raises:
        ModelError: it does not.
    """
    shape = call.results[result].shape if len(call.results) > result else None
    if shape is None:
        raise low.wrong("the trace does not state its shape")
    return shape


def optional(low: Lowering, call: Call, place: int, name: str) -> Value | None:
    """An operand that may be left out."""
    item = argument(call, place, name, None)
    return None if item is None else low.value(item)


def per_axis(values: Any, axes: int, default: int) -> tuple[Expr, ...]:
    """One number per axis from a list, a single number or nothing."""
    if values is None or values == ():
        return (Integer(default),) * axes
    listed: Sequence[int] = values if isinstance(values, tuple) else (values,)
    made = tuple(Integer(v) for v in listed)
    return made * axes if len(made) == 1 else made
