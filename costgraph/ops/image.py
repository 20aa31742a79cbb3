"""Operations on images: means, enlarging, moving patches, modulation.

Images are ``(B, C, n…)``, sequences ``(B, n, d)``. Both are kept channels-last in
memory, as fast convolution kernels want them, so turning one into the other is a
view. FLOP conventions are those of :mod:`costgraph.ops.elementwise`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Add as Sum
from sympy import Expr, Integer, Mul

from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Access, Work
from costgraph.ir.dtypes import FP32, compute_type
from costgraph.ir.op import (
    Op,
    Spec,
    Tensors,
    read,
    require,
    require_same,
    vector,
    vector_special,
    write,
)
from costgraph.ir.tensor import Tensor

ONE = Integer(1)


@dataclass(frozen=True)
class MeanPool(Op):
    """Mean over the positions of ``x (B, C, n…)`` or, ``sequence``, ``(B, n, C)``: ``(B, C)``.

    1 FLOP per element.
    """

    kind: ClassVar[str] = "mean-pool"
    sequence: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) >= 3, self, "takes one operand")
        x = inputs[0]
        return (Spec((x.shape[0], x.shape[-1 if self.sequence else 1]), x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(inputs[0].numel)


@dataclass(frozen=True)
class Upsample(Op):
    """Nearest-neighbour enlargement of ``x (B, C, n…)`` by ``factor`` per axis; no arithmetic."""

    kind: ClassVar[str] = "upsample"
    factor: Expr = Integer(2)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) >= 3, self, "takes one (B, C, n…)")
        x = inputs[0]
        return (Spec((*x.shape[:2], *(n * self.factor for n in x.shape[2:])), x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}


def _reshaped(op: Op, inputs: Tensors, shape: tuple[Expr, ...]) -> tuple[Spec, ...]:
    require(len(inputs) == 1, op, "takes one operand")
    require_same(op, Mul(*shape), inputs[0].numel, "number of elements")
    return (Spec(shape, inputs[0].dtype),)


@dataclass(frozen=True)
class Rearrange(Op):
    """The elements of an operand in another order and ``shape``: read once, written once.

    Windows of an image, cyclic shifts, patches side by side.
    """

    kind: ClassVar[str] = "rearrange"
    shape: tuple[Expr, ...]

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        return _reshaped(self, inputs, self.shape)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}


@dataclass(frozen=True)
class AsImage(Op):
    """A view of ``x (B, ∏n, C)`` as ``(B, C, n…)``: a sequence becomes an image again."""

    kind: ClassVar[str] = "as-image"
    is_view: ClassVar[bool] = True
    size: tuple[Expr, ...]

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) == 3, self, "takes (B, n, C)")
        b, n, c = inputs[0].shape
        require_same(self, Mul(*self.size), n, "positions")
        return (Spec((b, c, *self.size), inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}


@dataclass(frozen=True)
class Cut(Op):
    """Views of ``x (B, n, d…)`` cut along the sequence into parts of ``lengths``."""

    kind: ClassVar[str] = "cut"
    is_view: ClassVar[bool] = True
    lengths: tuple[Expr, ...]

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) >= 2, self, "takes one sequence")
        x = inputs[0]
        require_same(self, Sum(*self.lengths), x.shape[1], "lengths and sequence")
        return tuple(Spec((x.shape[0], n, *x.shape[2:]), x.dtype) for n in self.lengths)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}


@dataclass(frozen=True)
class Prepend(Op):
    """Learned tokens ``(k, d)`` in front of each sequence ``x (B, n, d)``: a copy."""

    kind: ClassVar[str] = "prepend"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes tokens and a sequence")
        tokens, x = inputs
        require(len(tokens.shape) == 2 and len(x.shape) == 3, self, "{} before {}", tokens, x)
        require_same(self, tokens.shape[1], x.shape[2], "widths")
        return (Spec((x.shape[0], x.shape[1] + tokens.shape[0], x.shape[2]), x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}


@dataclass(frozen=True)
class Interpolate(Op):
    """A grid of learned positions ``(P, d)`` read at ``count`` other places: ``(count, d)``.

    Bilinear: 4 products and 3 sums per element, from 4 rows read each. ``cubic``: 16
    and 15, from 16 rows.
    """

    kind: ClassVar[str] = "interpolate"
    count: Expr
    taps: int = 4

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) == 2, self, "takes one table")
        return (Spec((self.count, inputs[0].shape[1]), inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector((2 * self.taps - 1) * outputs[0].numel)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return (read(inputs[0], self.taps * outputs[0].bytes), write(outputs[0]))


@dataclass(frozen=True)
class PackRows(Op):
    """Rows of tiles ``x (B, n, d)`` as the lines of a grid, its padding cut off: ``(B, count, d)``.

    Learned rows at the ends of lines are among the result. ``mixed`` of its rows are
    interpolated, as :class:`Interpolate` has it; all others are read and written once.
    """

    kind: ClassVar[str] = "pack-rows"
    count: Expr
    mixed: Expr = Integer(0)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) == 3, self, "takes rows of tiles")
        b, _, d = inputs[0].shape
        return (Spec((b, self.count, d), inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(7 * outputs[0].numel * self.mixed / self.count) if self.mixed != 0 else {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        row = outputs[0].bytes / self.count
        return (read(inputs[0], row * (self.count + 3 * self.mixed)), write(outputs[0]))


@dataclass(frozen=True)
class InsertRows(Op):
    """Rows ``(B, G, d)`` take places of, or ``added`` are added to, those of ``x (B, q, d)``.

    The result shares memory with ``x``: only the rows move. Adding costs 1 FLOP per
    element of the rows and reads the places, too.
    """

    kind: ClassVar[str] = "insert-rows"
    added: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes x and rows")
        x, rows = inputs
        require(len(x.shape) == len(rows.shape) == 3, self, "{} into {}", rows, x)
        for axis in (0, 2):
            require_same(self, x.shape[axis], rows.shape[axis], f"axis {axis}")
        return (Spec(x.shape, x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(inputs[1].numel) if self.added else {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        x, rows = inputs
        amount = rows.numel * x.dtype.bytes_per_element
        before = (read(x, amount),) if self.added else ()
        return (*before, read(rows), write(outputs[0], amount))


@dataclass(frozen=True)
class WindowMask(Op):
    """A mask ``(w, q, q)`` added to scores ``(B·w, H, q, q)`` of ``w`` windows; 1 FLOP each."""

    kind: ClassVar[str] = "window-mask"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes scores and a mask")
        scores, mask = inputs
        require(len(scores.shape) == 4 and len(mask.shape) == 3, self, "{} on {}", mask, scores)
        for a, b in zip(scores.shape[2:], mask.shape[1:], strict=True):
            require_same(self, a, b, "positions of scores and mask")
        return (Spec(scores.shape, scores.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(outputs[0].numel)


def _per_sample(op: Op, inputs: Tensors) -> tuple[Spec, ...]:
    x = inputs[0]
    require(len(x.shape) == 3, op, "{} is no sequence", x)
    for other in inputs[1:]:
        require(len(other.shape) == 2, op, "{} is not (B, d)", other)
        for a, b in zip(other.shape, (x.shape[0], x.shape[2]), strict=True):
            require_same(op, a, b, "shapes of {} and {}", x, other)
    return (Spec(x.shape, x.dtype),)


@dataclass(frozen=True)
class Modulate(Op):
    """``x·(1 + scale) + shift``: ``x (B, n, d)``, shift and scale ``(B, d)`` per sample.

    2 FLOP per element, one more per element of the scale (adaptive layer norm,
    Peebles and Xie, arXiv 2212.09748).
    """

    kind: ClassVar[str] = "modulate"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 3, self, "takes x, shift and scale")
        return _per_sample(self, inputs)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(2 * outputs[0].numel + inputs[2].numel)


@dataclass(frozen=True)
class Gate(Op):
    """``x·gate``: ``x (B, n, d)``, gate ``(B, d)`` per sample; 1 FLOP per element."""

    kind: ClassVar[str] = "gate"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes x and a gate")
        return _per_sample(self, inputs)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(outputs[0].numel)


@dataclass(frozen=True)
class AddChannels(Op):
    """``x (B, C, n…)`` plus one value ``(B, C)`` per channel; 1 FLOP per element."""

    kind: ClassVar[str] = "add-channels"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2 and len(inputs[1].shape) == 2, self, "takes x and (B, C)")
        for a, b in zip(inputs[0].shape, inputs[1].shape, strict=False):
            require_same(self, a, b, "batch and channels")
        return (Spec(inputs[0].shape, inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(outputs[0].numel)


@dataclass(frozen=True)
class Sinusoid(Op):
    """Sines and cosines of a number ``(B)`` at ``width/2`` frequencies: ``(B, width)``.

    One product per frequency, one special evaluation per element.
    """

    kind: ClassVar[str] = "sinusoid"
    width: Expr

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        return (Spec((*inputs[0].shape, self.width), inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        n = outputs[0].numel
        return vector_special(n / 2, n)


@dataclass(frozen=True)
class Similarity(Op):
    """Every ``x (m, d)`` against every ``y (n, d)``, scaled: ``(m, n)``; ``2·m·n·d`` FLOP.

    A third operand is the scale, a single number: 1 FLOP per result.
    """

    kind: ClassVar[str] = "similarity"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 3, self, "takes two matrices and a scale")
        x, y, scale = inputs
        require(len(x.shape) == len(y.shape) == 2, self, "{} against {}", x, y)
        require_same(self, x.shape[1], y.shape[1], "widths")
        require_same(self, scale.numel, ONE, "elements of the scale")
        return (Spec((x.shape[0], y.shape[0]), x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, y = inputs[:2]
        product = 2 * outputs[0].numel * x.shape[1]
        engine = (Engine.TENSOR, compute_type(x.dtype, y.dtype))
        return {engine: product, (Engine.VECTOR, "fp32"): outputs[0].numel}


def steps(name: str, batch: Expr) -> Tensor:
    """A number per sample that says how far denoising has come."""
    return Tensor(name, (batch,), FP32)
