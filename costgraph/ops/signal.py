"""Operations that sample and transform: spectra, grids, bags of embeddings, distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, Mul, ceiling, log

from costgraph.errors import VerifyError
from costgraph.ir.cost import Access, Work
from costgraph.ir.dtypes import FP32, INT64, DType
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

ONE = Integer(1)


@dataclass(frozen=True)
class Fourier(Op):
    """A discrete Fourier transform over the ``axes`` of the operand, result of ``shape``.

    ``5·n·⌈log2 n⌉`` FLOP per transform of ``n`` complex numbers, half of it where operand or
    result are real: the usual count of fast transforms (Frigo and Johnson, FFTW, 2005),
    exact for powers of two.
    """

    kind: ClassVar[str] = "fourier"
    axes: tuple[int, ...] = ()
    shape: tuple[Expr, ...] = ()
    result: DType = FP32

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        x = inputs[0]
        within = all(0 <= a < len(x.shape) for a in self.axes)
        require(within and len(x.shape) == len(self.shape), self, "{} to {}", x, self.shape)
        return (Spec(self.shape, self.result),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, y = inputs[0], outputs[0]
        real = x.dtype.bits != y.dtype.bits
        total: Expr = Integer(0)
        whole = x if x.numel == y.numel or x.dtype.bits < y.dtype.bits else y
        for axis in self.axes:
            n = whole.shape[axis]
            if not n.is_number:
                raise VerifyError(f"{self.kind}: a transform over {n} places has no exact count")
            total += 5 * whole.numel * ceiling(log(n, 2))
        return vector(total / 2 if real else total)


@dataclass(frozen=True)
class GridSample(Op):
    """``x (B, C, n…)`` at points ``grid (B, m…, a)`` of ``a`` axes: ``(B, C, m…)``.

    ``linear`` blends ``2^a`` neighbours (a product and a sum each, one sum less),
    ``cubic`` ``4^a``; ``nearest`` copies. Per point and axis the place is scaled, shifted
    and rounded down, and the weights of the neighbours are products of one per axis, two
    FLOP each. Of ``x`` all is read at most once.
    """

    kind: ClassVar[str] = "grid-sample"
    mode: str = "linear"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes an image and a grid")
        x, grid = inputs
        axes = len(x.shape) - 2
        fits = len(grid.shape) == axes + 2 and grid.shape[-1] == axes
        require(fits and axes > 0, self, "{} at {}", x, grid)
        require_same(self, x.shape[0], grid.shape[0], "batch")
        return (Spec((*x.shape[:2], *grid.shape[1:-1]), x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, grid = inputs
        axes = len(x.shape) - 2
        points = Mul(*grid.shape[:-1])
        taps = {"linear": 2**axes, "cubic": 4**axes}.get(self.mode, 0)
        blend = (2 * taps - 1) * outputs[0].numel if taps else Integer(0)
        return vector(3 * axes * points + 2 * taps * points + blend)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return (*(read(t) for t in inputs), write(outputs[0]))


@dataclass(frozen=True)
class EmbeddingBag(Op):
    """Rows of ``table (V, d)`` by ``indices``, summed or averaged in ``bags``: ``(bags, d)``.

    One row is read per index; 1 FLOP per element of those rows, and one per result
    element for a mean.
    """

    kind: ClassVar[str] = "embedding-bag"
    bags: Expr = ONE
    mean: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) >= 2 and len(inputs[1].shape) == 2, self, "takes indices and a table")
        return (Spec((self.bags, inputs[1].shape[1]), inputs[1].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        rows = inputs[0].numel * inputs[1].shape[1]
        return vector(rows + (outputs[0].numel if self.mean else 0))

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        indices, table, *offsets = inputs
        rows = indices.numel * table.shape[1] * table.dtype.bytes_per_element
        return (read(indices), read(table, rows), *(read(t) for t in offsets), write(outputs[0]))


@dataclass(frozen=True)
class Distances(Op):
    """Euclidean distances of all rows of ``a (…, n, d)`` and ``b (…, m, d)``: ``(…, n, m)``.

    A difference, a product and a sum per pair and number, a root per pair.
    """

    kind: ClassVar[str] = "distances"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes two operands")
        a, b = inputs
        fits = len(a.shape) == len(b.shape) >= 2
        require(fits, self, "{} to {}", a, b)
        for x, y in zip((*a.shape[:-2], a.shape[-1]), (*b.shape[:-2], b.shape[-1]), strict=True):
            require_same(self, x, y, "shapes of {} and {}", a, b)
        return (Spec((*a.shape[:-1], b.shape[-2]), a.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        pairs = outputs[0].numel
        return vector_special(3 * pairs * inputs[0].shape[-1], pairs)


@dataclass(frozen=True)
class Search(Op):
    """The place of each number ``x`` in sorted ``edges (…, n)``: ``⌈log2 (n + 1)⌉`` comparisons."""

    kind: ClassVar[str] = "search"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2 and len(inputs[0].shape) >= 1, self, "takes edges and numbers")
        return (Spec(inputs[1].shape, INT64),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        size = inputs[0].shape[-1]
        if not size.is_number:
            raise VerifyError(f"{self.kind}: a search in {size} places has no exact count")
        return vector(ceiling(log(size + 1, 2)) * outputs[0].numel)
