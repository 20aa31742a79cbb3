"""How a tensor is quantised: an element format, how its scales are grouped, what lies beside.

Groups run along the contracted dimension; where they do not divide it, the last one is
short and still has a scale of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import sympy
from sympy import Expr, Integer, ceiling

from costgraph.ir.dtypes import DType, Outliers, Recent, dtype, with_groups

ZERO = Integer(0)
FP16 = Integer(16)

#: One scale per row of the contraction (per channel, per token, per head).
ROW = "row"
#: One scale per position of a cache, all heads together.
TOKEN = "token"
#: One scale per tensor: nothing per element.
TENSOR = "tensor"


@dataclass(frozen=True)
class Scheme:
    """How a tensor is quantised.

    Attributes:
        base: format of the payload, with its outliers and extras; a block format brings
            its own scales.
        group: elements per scale, or :data:`ROW`, :data:`TOKEN` or :data:`TENSOR`.
        rows: rows of a matrix that share the scales of their groups: blocks of ``rows`` by
            ``group`` elements.
        scale_bits, zero_bits: bits of a group's scale and zero point.
        outer_group, outer_bits: second-level scales (groups per scale, bits).
        planar: a scale per group and bit of the payload, as of binary planes (BCQ).
        book_bits: bits of a code book per row, for each of ``2^bits`` values.
        recent: positions of a cache that stay wide.
        keys: how keys are stored, where that is not how values are.
        unrotated: keys are cached as they are before rotary embedding, and rotated as
            they are read.
    """

    base: DType
    group: Expr | str = TENSOR
    scale_bits: Expr = FP16
    zero_bits: Expr = ZERO
    outer_group: Expr | None = None
    outer_bits: Expr = ZERO
    planar: bool = False
    book_bits: Expr = ZERO
    recent: Expr = ZERO
    keys: Scheme | None = None
    unrotated: bool = False
    rows: int = 1

    def over(self, row: Expr, token: Expr | None = None, height: Expr | None = None) -> DType:
        """The element format for rows of ``row`` elements, in a cache ``token`` per position.

        ``height`` is how many rows a matrix has, for scales that several rows share.
        """
        base = self.base
        if self.book_bits != 0:
            book = ("code book", self.book_bits * 2**base.bits / row)
            base = replace(base, extras=(*base.extras, book))
        if self.group == TENSOR or self.group == sympy.oo:
            return base
        rows: dict[Expr | str, Expr] = {ROW: row, TOKEN: row if token is None else token}
        group = rows[self.group] if self.group in rows else _even(self.group, row)
        if self.rows != 1:
            base = replace(base, block=(Integer(self.rows), group))
            shared = Integer(self.rows)
            group *= shared if height is None else _even(shared, height)
        scale_bits = self.scale_bits * base.bits if self.planar else self.scale_bits
        made = with_groups(
            base, group, scale_bits, self.zero_bits, self.outer_group, self.outer_bits
        )
        shown = self.group if isinstance(self.group, Expr) else group
        if self.rows != 1:
            return replace(made, name=f"{base.name}-b{self.rows}x{shown}")
        # As checkpoints with double quantisation are called.
        double = "" if self.outer_group is None else "-dq"
        return replace(made, name=f"{base.name}-g{shown}{double}")

    def narrowed(self, bits: Expr, name: str) -> Scheme:
        """The same with another payload per element."""
        planes = None if self.base.bit_planes is None else bits
        base = replace(self.base, name=name, bits=bits, bit_planes=planes)
        return replace(self, base=base)

    def changed(self, changes: Mapping[str, Any]) -> Scheme:
        """The scheme with options applied; a stated group opens up a block format."""
        if not changes:
            return self
        scheme, base = self, self.base
        if base.grouped:
            scheme = replace(scheme, group=base.group, scale_bits=base.scale_bits)
            base = replace(base, group=None, scale_bits=ZERO)
        elif scheme.group == TENSOR and "group" not in changes:
            return scheme
        keys = None if scheme.keys is None else scheme.keys.changed(changes)
        return replace(scheme, base=base, keys=keys, **changes)


def outlying(
    made: DType, wide: DType, fraction: Expr | None, index_bits: Expr | None, apart: bool
) -> DType:
    """``made`` with a ``fraction`` of its elements in the format ``wide``.

    A format that has outliers keeps what is not given. ``apart`` says where those of
    other formats lie: in a sparse tensor besides, found by ``index_bits`` each, or in
    place of narrow ones, as whole columns that need none.
    """
    own = made.outliers
    if own is not None:
        own = replace(
            own,
            fraction=own.fraction if fraction is None else fraction,
            index_bits=own.index_bits if index_bits is None else index_bits,
        )
        return replace(made, outliers=own)
    if fraction is None or fraction == 0:
        return made
    if apart:
        index = FP16 if index_bits is None else index_bits
        sparse = Outliers(fraction, wide.bits, index, apart=True)
        return replace(made, name=f"{made.name}+sparse", outliers=sparse)
    return replace(made, name=f"{made.name}+{wide.name}", outliers=Outliers(fraction, wide.bits))


def remembering(made: DType, wide: DType, rows: Expr) -> DType:
    """The format of a cache whose last ``rows`` positions stay ``wide``."""
    if rows == 0:
        return made
    return replace(made, name=f"{made.name}+{rows}x{wide.name}", recent=Recent(rows, wide))


def _even(group: Expr | str, row: Expr) -> Expr:
    """Mean elements per scale: ``group``, less where it does not divide the row."""
    assert isinstance(group, Expr)
    if group.is_number and row.is_number:
        return row / ceiling(row / group)
    return group


def grouped(
    base: str | DType,
    group: int | str,
    scale: int = 16,
    zero: int = 0,
    outer: int = 0,
    outer_bits: int = 0,
) -> Scheme:
    """A scheme from plain numbers."""
    return Scheme(
        dtype(base),
        Integer(group) if isinstance(group, int) else group,
        Integer(scale),
        Integer(zero),
        Integer(outer) if outer else None,
        Integer(outer_bits),
    )
