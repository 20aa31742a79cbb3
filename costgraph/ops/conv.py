"""Convolutions: the general one over any number of axes, and the short causal one with a state.

A multiply–accumulate counts 2 FLOP. Taps that fall on padding are counted, as
dense implementations (and PyTorch's counter) do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Add, Expr, Integer, Mul, expand, floor

from costgraph.errors import VerifyError
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Access, Work
from costgraph.ir.dtypes import DType, compute_type
from costgraph.ir.op import (
    Op,
    Spec,
    Tensors,
    expansion,
    merged,
    read,
    require,
    require_same,
    same,
    vector,
    write,
)
from costgraph.ir.tensor import Role

ONE = Integer(1)


def whole_floor(expr: Expr) -> Expr:
    """``floor`` of an expression whose symbols are whole numbers.

    Terms that are whole for whole symbols leave the floor, so that
    ``floor(S − 1/2)`` becomes ``S − 1``.
    """
    outside: list[Expr] = []
    inside: list[Expr] = []
    for term in Add.make_args(expr.expand()):
        coefficient, rest = term.as_coeff_Mul()
        powers = rest.as_powers_dict()
        polynomial = rest == 1 or all(
            b.is_Symbol and e.is_Integer and e > 0 for b, e in powers.items()
        )
        whole = coefficient.is_Integer and polynomial
        (outside if whole else inside).append(term)
    return Add(*outside) + floor(Add(*inside))


def output_size(size: Expr, kernel: Expr, stride: Expr, padding: Expr, dilation: Expr) -> Expr:
    """``⌊(n + 2p − δ(k − 1) − 1) / s⌋ + 1``: positions of one axis after a convolution.

    Raises:
        VerifyError: a size known as a number is smaller than the kernel's reach.
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if room.is_number and room < 0:
        raise VerifyError(f"conv: a kernel of {kernel} does not fit into {size} positions")
    return room + 1 if stride == 1 else whole_floor(room / stride) + 1


def reach(positions: Expr, kernel: Expr, stride: Expr, dilation: Expr) -> Expr:
    """``(m − 1)·s + δ(k − 1) + 1``: operand positions of ``m`` results, padding included."""
    return (positions - 1) * stride + dilation * (kernel - 1) + 1


def require_band(op: Op, given: Expr, wanted: Expr, padding: Expr) -> None:
    """Require a band of rows to be as long as its results need, but for padding at its ends."""
    missing = expand(wanted - given)
    fits = not missing.is_number or bool(0 <= missing <= padding)
    require(fits, op, "a band of {} rows, where results need {}", given, wanted)


@dataclass(frozen=True)
class Conv(Op):
    """Convolution of ``x (B, C, n…)`` by ``W (O, C/groups, k…)``, bias ``(O)``.

    Result ``(B, O, m…)`` with ``m = ⌊(n + 2p − δ(k−1) − 1)/s⌋ + 1`` per axis.
    Work: ``2·B·O·(C/groups)·∏k·∏m`` FLOP, on the tensor engine (as an implicit
    matrix product); on the vector engine where each group has one channel in
    (depthwise), since there is nothing to contract over channels. Bias: one
    addition per result element.

    Traffic: each element of ``x`` that a tap reaches is read once; a stride
    beyond the kernel's reach skips the rest.

    Attributes:
        stride, padding, dilation: per spatial axis.
        groups: groups of channels that do not mix.
        bias: a third operand.
        result: format of the result where it is not that of ``x``: sums of narrow
            products, rescaled if it is a float (2 FLOP per element).
        band: rows of the result (its first spatial axis) where ``x`` is a band of an image's
            rows, with the image's padding at those of its ends that are the image's; None
            for whole images.
    """

    kind: ClassVar[str] = "conv"
    converted: ClassVar[tuple[int, ...]] = (1,)
    stride: tuple[Expr, ...] = (ONE,)
    padding: tuple[Expr, ...] = (Integer(0),)
    dilation: tuple[Expr, ...] = (ONE,)
    groups: Expr = ONE
    bias: bool = False
    result: DType | None = None
    band: Expr | None = None

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2 + self.bias, self, f"takes {2 + self.bias} operands")
        x, w = inputs[:2]
        axes = len(x.shape) - 2
        require(axes >= 1 and len(w.shape) == axes + 2, self, "{} does not fit {}", w, x)
        given = {len(self.stride), len(self.padding), len(self.dilation)}
        require(given == {axes}, self, f"stride, padding and dilation need {axes} entries each")
        require_same(self, w.shape[1] * self.groups, x.shape[1], "channels of x and weight")
        if self.bias:
            require(len(inputs[2].shape) == 1, self, "bias {} is not a vector", inputs[2])
            require_same(self, inputs[2].shape[0], w.shape[0], "bias and output channels")
        each = list(
            zip(x.shape[2:], w.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        )
        rows: tuple[Expr, ...] = ()
        if self.band is not None:
            size, kernel, stride, padding, dilation = each.pop(0)
            require_band(self, size, reach(self.band, kernel, stride, dilation), 2 * padding)
            rows = (self.band,)
        sizes = (output_size(*axis) for axis in each)
        return (Spec((x.shape[0], w.shape[0], *rows, *sizes), self.result or x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, w = inputs[:2]
        out = outputs[0]
        products = 2 * out.numel * Mul(*w.shape[1:])
        added: Work = vector(out.numel) if self.bias else {}
        if out.dtype.is_float and not x.dtype.is_float:
            added = merged(added, vector(2 * out.numel))
        if same(w.shape[1], ONE) and self.groups != 1:
            return merged(vector(products), added, expansion(w, x))
        key = (Engine.TENSOR, compute_type(x.dtype, w.dtype))
        return merged({key: products}, added, expansion(w, x))

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        x, rest = inputs[0], inputs[1:]
        share: Expr = Mul(*x.shape[:2])
        for n, k, m, s in zip(
            x.shape[2:], inputs[1].shape[2:], outputs[0].shape[2:], self.stride, strict=True
        ):
            # Taps of neighbouring results meet or overlap unless the stride exceeds the kernel.
            gaps = s.is_number and k.is_number and s > k
            share *= m * k if gaps else n
        touched = share * x.dtype.bytes_per_element
        return (read(x, touched), *(read(t) for t in rest), write(outputs[0]))


@dataclass(frozen=True)
class CausalConv1d(Op):
    """Depthwise convolution over the ``k`` latest positions, with a state.

    Inputs ``x (B, q, D)``, ``W (D, k)``, with ``bias`` a ``(D)``, and the state
    ``(B, D, k)``: the last ``k`` columns, as published implementations keep
    them (``k − 1`` would do). Results ``y (B, q, D)`` and the new state. Of positions
    that lie ``apart`` the state has ``(k − 1)·apart`` columns.

    Work: ``2·k`` FLOP per result element on the vector engine, one more with
    bias; nothing depends on the context. The state is read and written once.
    """

    kind: ClassVar[str] = "conv1d"
    bias: bool = False
    apart: Expr = Integer(1)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 3 + self.bias, self, f"takes {3 + self.bias} operands")
        x, w, state = inputs[0], inputs[1], inputs[-1]
        require(len(x.shape) == 3 and len(w.shape) == 2, self, "{} does not fit {}", w, x)
        require_same(self, x.shape[2], w.shape[0], "channels of x and weight")
        require(state.role is Role.STATE and len(state.shape) == 3, self, "{} is no state", state)
        columns = w.shape[1] if self.apart == 1 else (w.shape[1] - 1) * self.apart
        for a, b in zip(state.shape, (x.shape[0], w.shape[0], columns), strict=True):
            require_same(self, a, b, "shape of {}", state)
        if self.bias:
            require_same(self, inputs[2].shape[0], w.shape[0], "bias and channels")
        return (Spec(x.shape, x.dtype), Spec(state.shape, state.dtype, Role.STATE))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector((2 * inputs[1].shape[1] + self.bias) * outputs[0].numel)
