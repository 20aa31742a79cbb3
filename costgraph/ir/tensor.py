"""Tensors: a name, a symbolic shape, an element format and a role."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

from sympy import Expr, Mul

from costgraph.ir.dtypes import DType

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
    """

    name: str
    shape: tuple[Expr, ...]
    dtype: DType
    role: Role = Role.ACTIVATION
    stored: Expr | None = None
    level: str = MEMORY

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
        matrix = self.role is Role.WEIGHT and len(self.shape) > 1
        return self.dtype.along(self.shape[-1]) if matrix else self.dtype

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
        return self.bytes if self.stored is None else self.stored

    def renamed(self, name: str) -> Tensor:
        """The same tensor under another name."""
        return replace(self, name=name)

    def __str__(self) -> str:
        where = "" if self.level == MEMORY else f" in {self.level}"
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]{where}"
