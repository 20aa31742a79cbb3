"""How one matrix of a checkpoint is stored, to the bit: payload, scales, tables beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer, Rational, ceiling

from costgraph.ir.dtypes import DType, dtype

ZERO = Integer(0)
ONE = Integer(1)
FP32 = 32
FP16 = 16


@dataclass(frozen=True)
class Layout:
    """The storage of a matrix ``(oc, ic)``, or of a stack of them.

    Scales belong to blocks of ``rows`` × ``group`` elements; the last blocks of a row or a
    column may be short and have scales of their own.

    Attributes:
        base: format of the payload.
        group: elements along the contraction that share a scale; None for a whole row.
        rows: rows that share a scale; None for all of them: one scale per matrix.
        scale_bits, zero_bits: of a block.
        outer_group, outer_bits: a second level: bits per so many scales.
        column_bits: per input column of a matrix (the group of each, GPTQ's ``g_idx``).
        matrix_bits: per matrix: scales of the whole, code tables, shapes.
        flat: groups run through the rows one after the other (bitsandbytes).
        payload: bits of an element, packing included, where they are not the format's.
        coded: elements that one code stands for.
        label: how it is called where that is not ``int4-g128`` and the like.
    """

    base: DType
    group: int | None = None
    rows: int | None = 1
    scale_bits: int = 0
    zero_bits: int = 0
    outer_group: int | None = None
    outer_bits: int = 0
    column_bits: int = 0
    matrix_bits: int = 0
    flat: bool = False
    payload: Rational | None = None
    coded: int = 1
    label: str = ""

    @property
    def name(self) -> str:
        """As formats are written: ``int4-g128``, ``e4m3-b128x128``."""
        if self.label:
            return self.label
        made = self.base.name
        if self.rows is None or not self.scale_bits:
            return made
        if self.rows != 1:
            return f"{made}-b{self.rows}x{self.group}"
        return f"{made}-row" if self.group is None else f"{made}-g{self.group}"

    def over(self, shape: tuple[Expr, ...]) -> DType:
        """The format of a matrix of this shape; its bits are exact.

        Where dimensions are symbols, blocks are taken to divide them.
        """
        oc, ic = shape[-2], shape[-1]
        known = bool(oc.is_number and ic.is_number)
        size = oc * ic

        def parts(whole: Expr, by: Expr) -> Expr:
            return ceiling(whole / by) if known else whole / by

        if self.rows is None:
            scales: Expr = ONE
        elif self.flat:
            scales = parts(size, Integer(self.group or 1))
        else:
            across = ic if self.group is None else Integer(self.group)
            scales = parts(oc, Integer(self.rows)) * parts(ic, across)
        outer = None
        if self.outer_group is not None:
            outer = scales / parts(scales, Integer(self.outer_group))
        beside = bool(self.column_bits or self.matrix_bits)
        scaled = bool(self.scale_bits or self.zero_bits)
        block = None
        if scaled and self.rows is not None and self.rows != 1:
            block = (Integer(self.rows), ic if self.group is None else Integer(self.group))
        made = DType(
            self.name,
            self.base.bits if self.payload is None else self.payload,
            self.base.compute,
            size / scales if scaled or beside else None,
            Integer(self.scale_bits),
            Integer(self.zero_bits),
            outer,
            Integer(self.outer_bits),
            block=block,
            matrix_bits=Integer(self.matrix_bits),
            column_bits=Integer(self.column_bits),
            coded=Integer(self.coded),
        )
        # Block formats bring their own scales.
        return self.base if not scaled and not beside and self.payload is None else made

    def with_side(self, matrix_bits: int) -> Layout:
        """The same with further bits per matrix."""
        return replace(self, matrix_bits=self.matrix_bits + matrix_bits)


@dataclass(frozen=True)
class Operand:
    """How the operand of a product is narrowed in front of it.

    Attributes:
        base: format of its elements.
        group: elements that share a scale; None for a whole row (a token).
        whole: one scale for all tokens.
        scale_bits: of a scale.
        dynamic: scales are found at run time.
    """

    base: DType
    group: int | None = None
    whole: bool = False
    scale_bits: int = FP32
    dynamic: bool = True

    def over(self, row: Expr) -> DType:
        """The format for rows of so many elements."""
        if self.whole:
            return self.base
        group = row if self.group is None else Integer(self.group)
        name = f"{self.base.name}-g{group}"
        return replace(self.base, name=name, group=group, scale_bits=Integer(self.scale_bits))


def _plain(name: str, bits: int, compute: str) -> DType:
    return DType(name, Integer(bits), compute)


E4M3 = dtype("e4m3")
E5M2 = dtype("e5m2")
#: Payloads of whole numbers by their width.
INTEGERS: Mapping[int, DType] = MappingProxyType(
    {bits: dtype(f"int{bits}") for bits in (2, 3, 4, 5, 6, 8)}
)
NVFP4 = Layout(_plain("nvfp4", 4, "fp4"), 16, 1, 8, matrix_bits=FP32, label="nvfp4")
MXFP4 = Layout(_plain("mxfp4", 4, "fp4"), 32, 1, 8, label="mxfp4")
MXFP8 = Layout(_plain("mxfp8", 8, "fp8"), 32, 1, 8, label="mxfp8")
#: Tables beside a matrix in 4 bit of bitsandbytes: 16 codes; for double quantisation 256 more.
_CODES, _OUTER_CODES = 16 * FP32, 256 * FP32


def bnb4(kind: str, double: bool) -> Layout:
    """bitsandbytes in 4 bit: blocks of 64 through the matrix, an fp32 maximum each.

    With double quantisation the maxima are 8 bit, with an fp32 scale per 256 of them
    (Dettmers et al., arXiv 2305.14314, section 3). The code tables stand beside each matrix.
    """
    base = _plain(kind, 4, "")
    if not double:
        return Layout(base, 64, 1, FP32, matrix_bits=_CODES, flat=True)
    tables = _CODES + _OUTER_CODES
    return Layout(
        base, 64, 1, 8, 0, 256, FP32, matrix_bits=tables, flat=True, label=f"{kind}-g64-dq"
    )
