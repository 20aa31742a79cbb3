"""Element formats: how many bits one element costs, and what computes on it.

Sizes are exact. A format with group-wise scales stores, per element,

    bits + (scale_bits + zero_bits) / group + outer_bits / (group * outer_group)

bits, so a 128-wide group with a 16-bit scale adds 1/8 bit per element. Where zeros are
left out (:class:`Sparsity`), ``kept * (bits + index_bits) + flag_bits`` stands for ``bits``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import sympy
from sympy import Expr, Integer

from costgraph.errors import InputError, clip, nearest

_NONE = Integer(0)
_SCALE = Integer(16)

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

    @cached_property
    def bits_per_element(self) -> Expr:
        """Stored bits per element, scales, zero points and positions included (exact)."""
        total = self.bits if self.sparse is None else self.sparse.stored(self.bits)
        if self.group is not None:
            total = total + (self.scale_bits + self.zero_bits) / self.group
            if self.outer_group is not None:
                total = total + self.outer_bits / (self.group * self.outer_group)
        return total

    @cached_property
    def bytes_per_element(self) -> Expr:
        """Stored bytes per element (exact rational or symbolic)."""
        return self.bits_per_element / 8

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
        return DType(base.name, base.bits, base.compute)
    label = f"{base.name}-g{group}"
    return DType(
        label, base.bits, base.compute, group, scale_bits, zero_bits, outer_group, outer_bits
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


def expands(stored: DType, other: DType) -> bool:
    """True when ``stored`` elements must be converted before meeting ``other``."""
    return stored.compute != compute_type(stored, other) and stored.bits != other.bits
