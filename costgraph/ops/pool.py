"""Operations of image models beside convolutions: pooling, norms over channels, resizing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, Mul

from costgraph.errors import VerifyError
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Work
from costgraph.ir.dtypes import compute_type
from costgraph.ir.op import (
    Op,
    Spec,
    Tensors,
    expansion,
    merged,
    require,
    require_same,
    vector,
    vector_special,
)
from costgraph.ops.conv import reach, require_band, whole_floor

ONE = Integer(1)


def pooled_size(
    size: Expr, kernel: Expr, stride: Expr, padding: Expr, dilation: Expr, ceil: bool
) -> Expr:
    """Positions of one axis after pooling; ``padding`` counts both ends together.

    ``⌊(n + p − δ(k − 1) − 1)/s⌋ + 1``, rounded up with ``ceil``; a window that would
    start in the padding behind the end is left out then, as frameworks do.
    """
    room = size + padding - dilation * (kernel - 1) - 1
    if room.is_number and room < 0:
        raise VerifyError(f"pool: a window of {kernel} does not fit into {size} positions")
    if stride == 1:
        return room + 1
    if not ceil:
        return whole_floor(room / stride) + 1
    out = whole_floor((room + stride - 1) / stride) + 1
    if out.is_Integer and (out - 1) * stride >= size + padding / 2:
        out -= 1
    return out


@dataclass(frozen=True)
class Pool(Op):
    """Maximum or average over windows of ``x (B, C, n…)``.

    ``∏k − 1`` comparisons per result for ``max``; ``∏k`` FLOP for ``average`` (sums and
    one scaling).

    Attributes:
        kernel, stride, dilation: per spatial axis.
        padding: both ends together, per spatial axis.
        ceil: sizes are rounded up.
        function: ``max`` or ``average``.
        band: rows of the result (its first spatial axis) where ``x`` is a band of an image's
            rows, as for a convolution; None for whole images.
    """

    kind: ClassVar[str] = "pool"
    kernel: tuple[Expr, ...] = ()
    stride: tuple[Expr, ...] = ()
    padding: tuple[Expr, ...] = ()
    dilation: tuple[Expr, ...] = ()
    ceil: bool = False
    function: str = "max"
    band: Expr | None = None

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        require(self.function in ("max", "average"), self, f"unknown function {self.function!r}")
        x = inputs[0]
        axes = len(self.kernel)
        given = {len(self.stride), len(self.padding), len(self.dilation)}
        require(given == {axes} and len(x.shape) > axes > 0, self, "{} axes of {}", axes, x)
        each = list(
            zip(x.shape[-axes:], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        rows: tuple[Expr, ...] = ()
        if self.band is not None:
            size, kernel, stride, padding, dilation = each.pop(0)
            # Rounded up, a last window may end a stride behind the padding.
            room = padding + (stride if self.ceil else 0)
            require_band(self, size, reach(self.band, kernel, stride, dilation), room)
            rows = (self.band,)
        sizes = (pooled_size(*axis, self.ceil) for axis in each)
        return (Spec((*x.shape[:-axes], *rows, *sizes), x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        each = Mul(*self.kernel) - (self.function == "max")
        return vector(each * outputs[0].numel)


@dataclass(frozen=True)
class AdaptivePool(Op):
    """Average or maximum of ``x (B, C, n…)`` in as many windows per axis as ``sizes`` says.

    1 FLOP per element (sums and one scaling), for the maximum less one per result.
    Windows that overlap (where sizes do not divide) count their elements once.
    """

    kind: ClassVar[str] = "adaptive-pool"
    sizes: tuple[Expr, ...] = ()
    function: str = "average"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        x = inputs[0]
        require(0 < len(self.sizes) < len(x.shape), self, "{} to {}", x, self.sizes)
        return (Spec((*x.shape[: -len(self.sizes)], *self.sizes), x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        spared = outputs[0].numel if self.function == "max" else Integer(0)
        return vector(inputs[0].numel - spared)


@dataclass(frozen=True)
class LocalResponseNorm(Op):
    """``x / (k + α/n · Σ x²)^β`` over ``size`` neighbouring channels.

    A square, two additions of a running sum, scale, offset, power (``exp(β·log)``: a
    product and two special evaluations) and a division: 7 FLOP and 2 special evaluations
    per element. Source: Krizhevsky et al., 2012, section 3.3.
    """

    kind: ClassVar[str] = "local-response-norm"
    size: Expr = Integer(5)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        return (Spec(inputs[0].shape, inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        n = inputs[0].numel
        return vector_special(7 * n, 2 * n)


@dataclass(frozen=True)
class Resize(Op):
    """``x`` at other ``sizes``: ``nearest`` copies, ``linear`` blends two taps per axis.

    Linear interpolation over ``a`` axes takes ``3·(2^a − 1)`` FLOP per result
    element, cubic with four taps ``7·(4^a − 1)/3``.
    """

    kind: ClassVar[str] = "resize"
    shape: tuple[Expr, ...] = ()
    mode: str = "nearest"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        require(len(inputs[0].shape) == len(self.shape), self, "{} to {}", inputs[0], self.shape)
        return (Spec(self.shape, inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        axes = sum(a != b for a, b in zip(inputs[0].shape, self.shape, strict=True))
        per = {"linear": 3 * (2**axes - 1), "cubic": 7 * (4**axes - 1) // 3}.get(self.mode, 0)
        return vector(per * outputs[0].numel) if per else {}


@dataclass(frozen=True)
class ConvTranspose(Op):
    """Transposed convolution of ``x (B, C, n…)`` by ``W (C, O/groups, k…)``, bias ``(O)``.

    Each operand element meets every tap: ``2·B·C·(O/groups)·∏k·∏n`` FLOP.
    ``sizes`` are the positions of the result, which padding leaves open.
    """

    kind: ClassVar[str] = "conv-transpose"
    converted: ClassVar[tuple[int, ...]] = (1,)
    sizes: tuple[Expr, ...] = ()
    groups: Expr = ONE
    bias: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2 + self.bias, self, f"takes {2 + self.bias} operands")
        x, w = inputs[:2]
        axes = len(self.sizes)
        fits = len(x.shape) == len(w.shape) == axes + 2
        require(fits, self, "{} does not fit {}", w, x)
        require_same(self, w.shape[0], x.shape[1], "channels of x and weight")
        return (Spec((x.shape[0], w.shape[1] * self.groups, *self.sizes), x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, w = inputs[:2]
        key = (Engine.TENSOR, compute_type(x.dtype, w.dtype))
        product: Work = {key: 2 * x.numel * Mul(*w.shape[1:])}
        added: Work = vector(outputs[0].numel) if self.bias else {}
        return merged(product, added, expansion(w, x))
