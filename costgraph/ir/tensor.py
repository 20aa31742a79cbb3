"""Tensors: a name, a symbolic shape, an element format and a role."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

from sympy import Add, Expr, Integer, Mul

from costgraph.formula.outline import INSIDE
from costgraph.ir.dtypes import DType

#: Sides of kernels are shorter, rows of matrices are not.
KERNEL = 16
ZERO = Integer(0)
#: The off-chip memory of whoever runs an operation.
MEMORY = "memory"


class Role(Enum):
    """What a tensor is for; bytes are accounted by role."""

    WEIGHT = "weight"
    ACTIVATION = "activation"
    KV = "kv"
    STATE = "state"

    def __lt__(self, other: Role) -> bool:
        return self.value < other.value


def inside(level: str) -> str:
    """The unit that computes in a level of memory: a host's processor, memory that computes."""
    return INSIDE + level


def level_of(unit: str) -> str:
    """The level of memory in which a unit computes; empty for a device or one of several."""
    return unit.removeprefix(INSIDE) if unit.startswith(INSIDE) else ""


def _share_text(share: Expr) -> str:
    """A share: a symbol, a short fraction, or a percentage."""
    short = not share.is_number or (share.is_Rational and share.q <= 1000)
    return str(share) if short else f"{100 * float(share):.4g} %"


@dataclass(frozen=True)
class Spread:
    """Where a tensor is kept that does not lie in the memory as a whole.

    Attributes:
        shares: the part of it in each farther level, by the level's name.
        near: the part for which the memory has room: what stays there, and what the rest
            passes through.
    """

    shares: tuple[tuple[str, Expr], ...]
    near: Expr

    def at(self, level: str) -> Expr:
        """The part in a level."""
        return Add(*(share for name, share in self.shares if name == level))

    @property
    def told(self) -> tuple[str, ...]:
        """Where it is, in words: ``3/5 in ddr``; the part that is here where that is all said."""
        if not self.shares:
            part = self.near.is_number and self.near < 1
            return (f"{_share_text(self.near)} of it here",) if part else ()
        return tuple(
            f"in {level}" if share == 1 else f"{_share_text(share)} in {level}"
            for level, share in self.shares
        )


@dataclass(frozen=True)
class Tensor:
    """A value in a graph.

    Attributes:
        name: unique within its graph.
        shape: dimensions as sympy expressions (elements).
        dtype: element format.
        role: accounting role.
        stored: bytes set aside for the tensor where that differs from its
            payload (paged caches); None otherwise.
        level: where it lies: in the memory of whoever runs its operations, or in a farther
            level of the machine by name (``ddr``, ``nvme``), which is read over the link to
            the host. What operations make lies in the memory.
        spread: where it is kept between uses, if not in the memory as a whole. Operations
            read it from the memory: what brings it there is an operation of its own.
    """

    name: str
    shape: tuple[Expr, ...]
    dtype: DType
    role: Role = Role.ACTIVATION
    stored: Expr | None = None
    level: str = MEMORY
    spread: Spread | None = None

    @cached_property
    def numel(self) -> Expr:
        """Number of elements."""
        return Mul(*self.shape)

    @cached_property
    def bytes(self) -> Expr:
        """Payload in bytes (exact), scales included."""
        return self._kept_as.size(self.shape)

    @property
    def _kept_as(self) -> DType:
        """The format in rows of this length: a part of a matrix has scales for its own rows."""
        if self.role is not Role.WEIGHT or len(self.shape) < 2:
            return self.dtype
        return self.dtype.along(self._row)

    @property
    def _row(self) -> Expr:
        """Elements of a row: the last axis of matrices; of kernels ``(oc, …)`` all but the first.

        Stacks of matrices have three axes, kernels three or more, the last ones short.
        """
        last = self.shape[-1]
        short = last.is_number and last < KERNEL
        kernel = len(self.shape) > 3 or (len(self.shape) == 3 and short)
        return Mul(*self.shape[1:]) if kernel else last

    @cached_property
    def narrow(self) -> Expr:
        """Elements that are stored in the format proper: all but recent positions of a cache."""
        if self.dtype.recent is None:
            return self.numel
        batch, rows, *rest = self.shape
        return Mul(batch, rows - self.dtype.wide_rows(rows), *rest)

    def of_matrices(self, elements: Expr) -> Expr:
        """Bytes of some of a stack's matrices ``(…, oc, ic)``, ``elements`` in all."""
        plain = elements * self._kept_as.bytes_per_element
        beside = self.dtype.beside(self.shape)
        return plain if beside == 0 else plain + beside * elements / self.numel

    @property
    def footprint(self) -> Expr:
        """Bytes set aside in memory."""
        return self.kept if self.spread is None else self.kept * self.spread.near

    @property
    def kept(self) -> Expr:
        """Bytes set aside at all levels together, without what it passes through."""
        return self.bytes if self.stored is None else self.stored

    def footprint_at(self, level: str) -> Expr:
        """Bytes set aside in a farther level."""
        return ZERO if self.spread is None else self.kept * self.spread.at(level)

    def renamed(self, name: str) -> Tensor:
        """The same tensor under another name."""
        return replace(self, name=name)

    def __str__(self) -> str:
        where = "" if self.level == MEMORY else f" in {self.level}"
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]{where}"
