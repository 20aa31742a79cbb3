"""Arguments of ONNX operators: attributes, optional operands, windows of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sympy import Expr, Integer

from costgraph.models.traced.lowering import Lowering
from costgraph.models.traced.record import Call


def given(call: Call, index: int) -> bool:
    """True if an optional operand is there."""
    return len(call.args) > index and call.args[index] is not None


def attribute(call: Call, name: str, default: Any) -> Any:
    """An attribute or its default."""
    value = call.attributes.get(name)
    return default if value is None else value


def option(
    low: Lowering, call: Call, index: int, name: str, default: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    """Whole numbers that older operator sets state as an attribute, newer ones as an operand."""
    if given(call, index):
        return low.integers(call.args[index], name)
    value = call.attributes.get(name)
    if value is None:
        return default
    return tuple(int(v) for v in value) if isinstance(value, (tuple, list)) else (int(value),)


def integers(values: Sequence[int]) -> tuple[Expr, ...]:
    """Whole numbers as exact ones."""
    return tuple(Integer(int(v)) for v in values)


def spatial(
    low: Lowering, call: Call, sizes: Sequence[Expr], kernel: Sequence[Expr]
) -> tuple[tuple[Expr, ...], tuple[Expr, ...], list[tuple[Expr, Expr]]]:
    """Strides, dilations, and padding in front and behind, per axis."""
    axes = len(kernel)
    stride = integers(attribute(call, "strides", (1,) * axes))
    dilation = integers(attribute(call, "dilations", (1,) * axes))
    if len(stride) != axes or len(dilation) != axes:
        raise low.wrong("strides and dilations need one number per axis")
    if any(v <= 0 for v in (*stride, *dilation, *(k for k in kernel if k.is_number))):
        raise low.wrong("windows, strides and dilations must be positive")
    auto = attribute(call, "auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
            if n.is_number:
                total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, Integer(0))
            elif s == 1:
                total = d * (k - 1)
            else:
                raise low.wrong(f"auto_pad of {n} positions at a stride of {s} is not known")
            pads.append((total // 2, total - total // 2))
        return stride, dilation, pads
    flat = integers(
        (0,) * 2 * axes if auto == "VALID" else attribute(call, "pads", (0,) * 2 * axes)
    )
    if len(flat) != 2 * axes or any(p < 0 for p in flat):
        raise low.wrong("pads need two numbers per axis, none of them negative")
    return stride, dilation, list(zip(flat[:axes], flat[axes:], strict=True))
