"""Element formats: how many bits one element costs, and what computes on it.

Sizes are exact. A format with group-wise scales stores, per element,

    bits + (scale_bits + zero_bits) / group + outer_bits / (group * outer_group)

bits, so a 128-wide group with a 16-bit scale adds 1/8 bit per element. Where zeros are
left out (:class:`Sparsity`), ``kept * (bits + index_bits) + flag_bits`` stands for ``bits``.
Elements that are stored wider than the rest, and anything else that lies beside them, are
fields of the format as well: :attr:`DType.parts` tells every bit apart.

What a matrix has once, whatever its size (code books, a scale of the whole), is no bits per
element: a part of a matrix needs all of it. :meth:`DType.size` counts it with each matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import sympy
from sympy import Add, Expr, Integer, Mul

from costgraph.errors import InputError, clip, nearest
from costgraph.formula.least import least

_NONE, _ONE = Integer(0), Integer(1)
_SCALE = Integer(16)
#: FLOP to convert one element, unless its format says otherwise: subtract the zero point
#: or look up, multiply.
DECODE = Integer(2)

#: Compute types by width; two operands meet in the wider one of their kind.
_FLOAT_RANK = {"fp4": 0, "fp8": 1, "fp16": 2, "bf16": 2, "tf32": 3, "fp32": 4}
_INT_RANK = {"int4": 0, "int8": 1}


@dataclass(frozen=True)
class Sparsity:
    """How a matrix with zeros is stored, and what multiplies it.

    Attributes:
        layout: as written in options and tables (``tiled-csl``, ``2:4`` …).
        kept: share of the elements that are stored.
        index_bits: bits that locate one stored element.
        flag_bits: bits per element, stored or not (a bitmap; a row's pointer, spread over it).
        rates: compute types in which tensor units multiply it as it is stored, with how many
            times the dense rate they do.
        skips: kernels multiply what is stored and nothing else, on vector units.
    """

    layout: str
    kept: Expr
    index_bits: Expr = _NONE
    flag_bits: Expr = _NONE
    rates: tuple[tuple[str, Expr], ...] = ()
    skips: bool = False

    def rate(self, compute: str) -> Expr | None:
        """How many times the dense rate tensor units reach in a type; None if they take none."""
        return next((rate for name, rate in self.rates if name == compute), None)

    def stored(self, bits: Expr) -> Expr:
        """Bits per element of the matrix, zeros included, for payloads of ``bits``."""
        return self.kept * (bits + self.index_bits) + self.flag_bits


@dataclass(frozen=True)
class Outliers:
    """Elements that a format stores wider than the rest.

    Attributes:
        fraction: share of the elements.
        bits: payload bits of one of them.
        index_bits: bits that locate one of them.
        mask_bits: bits per element, of all elements, that mark them.
        apart: they lie in a sparse tensor besides a dense one that holds every element
            (SpQR, SqueezeLLM); otherwise they take the place of narrow ones.
    """

    fraction: Expr
    bits: Expr
    index_bits: Expr = _NONE
    mask_bits: Expr = _NONE
    apart: bool = False


@dataclass(frozen=True)
class Recent:
    """The last ``rows`` positions of a cache, which stay in a ``wide`` format (KIVI)."""

    rows: Expr
    wide: DType


@dataclass(frozen=True)
class DType:
    """A storage format.

    Attributes:
        name: as written in options and tables (``bf16``, ``int4``, ``nf4`` …).
        bits: payload bits per element; may be a symbol.
        compute: the narrowest compute type that takes the format natively, or
            an empty string for code-book formats, which are always expanded
            to the type of the other operand.
        group: elements that share a scale, or None for no scale.
        scale_bits, zero_bits: bits of one group's scale and zero point.
        outer_group, outer_bits: a second level of scales: ``outer_bits`` per
            ``outer_group`` groups.
        sparse: how zeros are left out, or None. Scales belong to groups of elements of the
            matrix, zeros included.
        block: (rows, columns) of a matrix that share a scale, where a scale is that of a
            block and not of a stretch of one row; then ``group`` elements are in it.
        outliers: elements that are stored wider, or None.
        extras: what else is stored, as (name, bits per element): masks, micro-exponents,
            code books.
        decode: FLOP to convert one element to the type in which it meets others.
        bit_planes: bits of an element where it is a sum of bits, though ``compute`` is no
            integer type or ``bits`` is no whole number; None otherwise. See :attr:`planes`.
        recent: positions of a cache that stay wide, or None. They are not in
            :attr:`bits_per_element`, which is that of the others: see :meth:`size`.
        matrix_bits: bits that each matrix has besides, whatever its size: code books, code
            tables, a scale of the whole. Not in :attr:`bits_per_element`.
        column_bits: bits of each column of a matrix besides, whatever its rows: the group
            that it belongs to. Not in :attr:`bits_per_element`.
        coded: elements that one code stands for (vector codes); they are stored together
            or not at all.
    """

    name: str
    bits: Expr
    compute: str
    group: Expr | None = None
    scale_bits: Expr = _NONE
    zero_bits: Expr = _NONE
    outer_group: Expr | None = None
    outer_bits: Expr = _NONE
    sparse: Sparsity | None = None
    block: tuple[Expr, Expr] | None = None
    outliers: Outliers | None = None
    extras: tuple[tuple[str, Expr], ...] = ()
    decode: Expr = DECODE
    bit_planes: Expr | None = None
    recent: Recent | None = None
    matrix_bits: Expr = _NONE
    column_bits: Expr = _NONE
    coded: Expr = _ONE

    @property
    def planes(self) -> Expr | None:
        """Bits of an element that are weighed and added up; None for any other code.

        Elements of which some are wider, in place of narrow ones, have none in common.
        """
        if self.outliers is not None and not self.outliers.apart:
            return None
        if self.bit_planes is not None:
            return self.bit_planes
        return None if self.is_float else self.bits

    @cached_property
    def parts(self) -> Mapping[str, Expr]:
        """Bits per element by what they are for; they add up to :attr:`bits_per_element`."""
        found = {"payload": self.bits}
        if self.group is not None:
            found["scale"] = self.scale_bits / self.group
            found["zero"] = self.zero_bits / self.group
            if self.outer_group is not None:
                found["outer"] = self.outer_bits / (self.group * self.outer_group)
        if (wide := self.outliers) is not None:
            if not wide.apart:
                found["payload"] = self.bits * (1 - wide.fraction)
            found["outliers"] = wide.fraction * wide.bits
            found["positions"] = wide.fraction * wide.index_bits + wide.mask_bits
        if (sparse := self.sparse) is not None:
            for name in ("payload", "outliers"):
                found[name] = found.get(name, _NONE) * sparse.kept
            placed = sparse.kept * sparse.index_bits + sparse.flag_bits
            found["positions"] = found.get("positions", _NONE) + placed
        found.update(self.extras)
        return MappingProxyType({name: bits for name, bits in found.items() if bits != 0})

    @cached_property
    def bits_per_element(self) -> Expr:
        """Stored bits per element, all :attr:`parts` included (exact).

        What a matrix has once is none of it: see :meth:`beside`.
        """
        return Add(*self.parts.values())

    @cached_property
    def bytes_per_element(self) -> Expr:
        """Stored bytes per element (exact rational or symbolic)."""
        return self.bits_per_element / 8

    @property
    def unpacking(self) -> Expr:
        """FLOP per element to make it one of a wider type, as a kernel loads it.

        Outliers that lie apart are added to what the dense tensor holds: 2 each, to find
        their place and to add.
        """
        if self.outliers is None or not self.outliers.apart:
            return self.decode
        return self.decode + 2 * self.outliers.fraction

    def wide_rows(self, rows: Expr) -> Expr:
        """How many of ``rows`` positions of a cache stay wide."""
        return _NONE if self.recent is None else least(rows, self.recent.rows)

    def along(self, row: Expr) -> DType:
        """The format in rows of so many elements: a group ends where its row does."""
        group = self.group
        if group is None or self.block is not None or not (group.is_number and row.is_number):
            return self
        return replace(self, group=row) if group > row else self

    def splits(self, row: Expr) -> bool:
        """Whether a sum over a row meets several scales, which its kernel has to apply.

        Units that take block formats (8-bit scales) apply them themselves.
        """
        group = self.group if self.block is None else self.block[1]
        if group is None or (self.is_float and self.scale_bits == 8):
            return False
        return not (group == row or (group.is_number and row.is_number and group >= row))

    def beside(self, shape: Sequence[Expr]) -> Expr:
        """Bytes that do not grow with the elements, of all matrices ``(…, oc, ic)`` together."""
        if self.matrix_bits == 0 and self.column_bits == 0:
            return _NONE
        once = self.matrix_bits + self.column_bits * (shape[-1] if shape else _NONE)
        return Mul(*shape[:-2]) * once / 8

    def size(self, shape: Sequence[Expr]) -> Expr:
        """Bytes of a tensor of this format (exact); positions are axis 1 of a cache."""
        if self.recent is None:
            return Mul(*shape) * self.bytes_per_element + self.beside(shape)
        batch, rows, *rest = shape
        wide = self.wide_rows(rows)
        stored = (rows - wide) * self.bytes_per_element + wide * self.recent.wide.bytes_per_element
        return Mul(batch, *rest) * stored

    @property
    def is_float(self) -> bool:
        """True for formats that compute in floating point or are expanded to it."""
        return not self.compute.startswith("int")

    @property
    def grouped(self) -> bool:
        """True when elements share scales in groups along the contraction."""
        return self.group is not None

    def __str__(self) -> str:
        return self.name if self.sparse is None else f"{self.name} {self.sparse.layout}"


def _plain(name: str, bits: int, compute: str | None = None) -> DType:
    return DType(name, Integer(bits), name if compute is None else compute)


BF16 = _plain("bf16", 16)
FP16 = _plain("fp16", 16)
FP32 = _plain("fp32", 32)
INT32 = _plain("int32", 32, "int8")
INT64 = _plain("int64", 64, "int8")

_PLAIN = (
    BF16,
    FP16,
    FP32,
    INT32,
    INT64,
    _plain("int8", 8),
    _plain("int6", 6, "int8"),
    _plain("int5", 5, "int8"),
    _plain("int4", 4),
    _plain("int3", 3, "int4"),
    _plain("int2", 2, "int4"),
    _plain("int1", 1, "int4"),
    _plain("fp8", 8),
    _plain("e4m3", 8, "fp8"),
    _plain("e5m2", 8, "fp8"),
    _plain("fp6", 6, "fp8"),
    _plain("fp4", 4, "fp4"),
    _plain("nf4", 4, ""),
    # Block formats of the OCP Microscaling specification v1.0: 32 elements, E8M0 scale.
    DType("mxfp8", Integer(8), "fp8", Integer(32), Integer(8)),
    DType("mxfp6", Integer(6), "fp8", Integer(32), Integer(8)),
    DType("mxfp4", Integer(4), "fp4", Integer(32), Integer(8)),
    # NVFP4: 16 elements, E4M3 scale; the per-tensor scale is 32 bits per tensor, not counted.
    DType("nvfp4", Integer(4), "fp4", Integer(16), Integer(8)),
)
FORMATS: dict[str, DType] = {f.name: f for f in _PLAIN}
_ALIASES = {
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "float": "fp32",
    "float8_e4m3fn": "e4m3",
    "float8_e5m2": "e5m2",
}


def dtype(spec: str | DType) -> DType:
    """The format called ``spec`` (``bf16``, ``float16``, ``int4`` …).

    Raises:
        InputError: no such format.
    """
    if isinstance(spec, DType):
        return spec
    if isinstance(spec, str):
        key = spec.strip().lower().removeprefix("torch.")
        key = _ALIASES.get(key, key)
        if key in FORMATS:
            return FORMATS[key]
    raise InputError(f"unknown number format {clip(spec)}{nearest(str(spec), FORMATS)}")


def with_groups(
    base: DType,
    group: Expr,
    scale_bits: Expr = _SCALE,
    zero_bits: Expr = _NONE,
    outer_group: Expr | None = None,
    outer_bits: Expr = _NONE,
) -> DType:
    """``base`` with a scale (and zero point) per ``group`` elements.

    ``group`` = infinity means one scale for the whole tensor: nothing per element.
    """
    if group == sympy.oo:
        return replace(base, group=None, scale_bits=_NONE, zero_bits=_NONE)
    return replace(
        base,
        name=f"{base.name}-g{group}",
        group=group,
        scale_bits=scale_bits,
        zero_bits=zero_bits,
        outer_group=outer_group,
        outer_bits=outer_bits,
    )


def compute_type(a: DType, b: DType) -> str:
    """The compute type in which a product of ``a`` and ``b`` elements runs.

    An integer type only if both operands are integers, a narrow float only if
    both are as narrow; otherwise the narrower operand is expanded to the wider
    one's type (survey 2402.16363, section 3.1.1).
    """
    if a.compute in _INT_RANK and b.compute in _INT_RANK:
        return max(a.compute, b.compute, key=_INT_RANK.__getitem__)
    floats = [x.compute for x in (a, b) if x.compute in _FLOAT_RANK]
    if not floats:  # integers against a code book: nothing native, expand to 16 bit
        return "fp16"
    if len(floats) == 2:
        return max(floats, key=_FLOAT_RANK.__getitem__)
    # An expanded operand needs a type that can hold it: at least 16-bit float.
    return max(floats[0], "fp16", key=_FLOAT_RANK.__getitem__)


def converts(stored: DType, other: DType) -> bool:
    """True when ``stored`` elements must be converted before meeting ``other``.

    Not where both are as wide, unless nothing computes on the stored ones.
    """
    if stored.bits == other.bits and stored.compute:
        return False
    return stored.compute != compute_type(stored, other)
