"""Quantised operations: narrowing activations, and products of narrow operands.

Conventions (vector engine, FLOP per element):

===========================  ====================================================
quantise at run time         3: absolute maximum, scale, round
quantise with known scales   2: scale, round
convert an operand           its format's ``decode``, 2 unless stated: subtract the
                             zero point or look up, multiply
rescale a product            2 per result: row scale, column scale
group scales inside a sum    2 per result and group: multiply, add to the total
unpack a sparse matrix       2 per stored element: find its place, write it
sparse outliers              2 per stored outlier and row: multiply, add
===========================  ====================================================

Rescaling and conversion happen on chip, in the kernel that multiplies: they add
work and no traffic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Mul, ceiling

from costgraph.formula.least import most
from costgraph.ir.cost import ZERO, Access, Work
from costgraph.ir.dtypes import DType, compute_type
from costgraph.ir.op import (
    Op,
    Spec,
    Tensors,
    merged,
    multiplied,
    present,
    require,
    spreading,
    vector,
)
from costgraph.ir.tensor import Tensor
from costgraph.ops.experts import ExpertLinear
from costgraph.ops.linear import Linear

#: Bits of one element of each compute type.
COMPUTE_BITS = {
    "int4": 4,
    "int8": 8,
    "fp4": 4,
    "fp8": 8,
    "fp16": 16,
    "bf16": 16,
    "tf32": 32,
    "fp32": 32,
}


@dataclass(frozen=True)
class QuantizeTo(Op):
    """Stores ``x`` in a narrower format, its scales found at run time.

    Reads ``x``, writes the narrow elements and their scales; 3 FLOP per element.
    """

    kind: ClassVar[str] = "quantize"
    format: DType

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        return (Spec(inputs[0].shape, self.format, inputs[0].role),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(3 * inputs[0].numel)


@dataclass(frozen=True)
class NarrowResult(Op):
    """``inner`` with its only result stored in a narrower format as it is made.

    The scales are known beforehand (static quantisation): 2 FLOP per element
    on top of the inner operation, and a narrower store instead of a wide one.
    """

    kind: ClassVar[str] = "narrow-result"
    inner: Op
    format: DType

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        specs = self.inner.infer(inputs)
        require(len(specs) == 1, self, f"{self.inner.kind} has {len(specs)} results")
        return (Spec(specs[0].shape, self.format, specs[0].role),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        wide = self.inner.infer(inputs)[0].named(outputs[0].name)
        return merged(self.inner.work(inputs, (wide,)), vector(2 * wide.numel))

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return self.inner.accesses(inputs, outputs)


def plain(op: Op) -> Op:
    """The operation itself, where its result is stored narrow as it is made."""
    return op.inner if isinstance(op, NarrowResult) else op


def stored_as(op: Op, other: Op) -> Op:
    """``other`` with its result stored narrow where that of ``op`` is."""
    return replace(op, inner=other) if isinstance(op, NarrowResult) else other


@dataclass(frozen=True)
class QuantLinear(Linear):
    """A matrix product whose operands are stored narrow.

    Attributes:
        result: format of the result where it is not that of ``x``.
        compute: the type it executes in where the target lacks the one in
            which the operands would meet; both are then converted.
        outliers: share of the products done in the result's 16-bit type, the
            columns of outlying activations (LLM.int8, arXiv 2208.07339).
        sparse: share of the weights that a second, sparse copy adds in 16 bit
            (SpQR, arXiv 2306.03078; SqueezeLLM); its products run on the
            vector engine.
        tile: rows of ``x`` that share one conversion of a weight; None: all do. Kernels
            convert a weight as they load it, once per tile of rows.
    """

    kind: ClassVar[str] = "linear"
    result: DType | None = None
    compute: str = ""
    outliers: Expr = ZERO
    sparse: Expr = ZERO
    tile: Expr | None = None

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        (spec,) = super().infer(inputs)
        return (Spec(spec.shape, self.result or spec.dtype, spec.role),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, w = inputs[:2]
        out = outputs[0]
        executing = self.compute or compute_type(x.dtype, w.dtype)
        dense = self.product(inputs, outputs)
        wide = compute_type(out.dtype, out.dtype)
        return merged(
            multiplied(w.dtype, executing, dense * (1 - self.outliers)),
            multiplied(w.dtype, wide, dense * self.outliers) if self.outliers != 0 else {},
            vector(out.numel) if self.bias else {},
            vector(dense * self.sparse) if self.sparse != 0 else {},
            _conversion(w, executing, self.unpacked(inputs)),
            _conversion(x, executing, x.numel),
            _rescaling(x, w, out, executing),
        )

    def unpacked(self, inputs: Tensors) -> Expr:
        """Elements of the weight that one execution converts."""
        if self.tile is None:
            return self.loaded(inputs)
        x, w = inputs[:2]
        return w.numel * ceiling(x.numel / w.shape[-1] / self.tile)


@dataclass(frozen=True)
class QuantExpertLinear(QuantLinear, ExpertLinear):
    """:class:`ExpertLinear` with operands stored narrow: as :class:`QuantLinear`.

    With a ``tile`` each touched expert is converted at least once, and all of them at
    least once per ``tile`` rows: a lower bound, as tiles that are not full are not known.
    """

    kind: ClassVar[str] = "expert-linear"

    def unpacked(self, inputs: Tensors) -> Expr:
        loaded = self.loaded(inputs)
        if self.tile is None:
            return loaded
        w, numbers = inputs[1:3]
        return most(loaded, Mul(*w.shape[1:]) * numbers.numel / self.tile)


def _converted(dtype: DType, executing: str) -> bool:
    """True when elements must change type before the engine takes them."""
    if dtype.compute == executing:
        return False
    return COMPUTE_BITS.get(dtype.compute) != COMPUTE_BITS.get(executing)


def _conversion(stored: Tensor, executing: str, elements: Expr) -> Work:
    """As :func:`.op.expansion`, for a product that executes in a given type."""
    there = present(stored.dtype, elements)
    decoded = stored.dtype.decode * there
    converted = vector(decoded) if _converted(stored.dtype, executing) else {}
    return merged(converted, spreading(stored.dtype, executing, elements))


def _rescaling(x: Tensor, w: Tensor, out: Tensor, executing: str) -> Work:
    """Row and column scales of the result; group scales inside the sum.

    Converted operands carry their scales already; the units that take block
    formats (8-bit scales) apply them themselves.
    """
    if _converted(x.dtype, executing) or not _converted(x.dtype, out.dtype.compute):
        return {}
    work = 2 * out.numel
    row, stored = w.shape[-1], w.dtype
    if stored.splits(row) and not _converted(stored, executing):
        group = stored.group if stored.block is None else stored.block[1]
        assert group is not None  # what splits has groups
        work += 2 * out.numel * Mul(row, 1 / group)
    return vector(work)
