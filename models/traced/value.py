"""A value while a traced graph is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sympy import Expr

from costgraph.ir.dtypes import DType
from costgraph.models.traced.known import Numbers
from costgraph.models.traced.record import Source

if TYPE_CHECKING:
    from costgraph.models.traced.laws import Law


@dataclass(frozen=True)
class Value:
    """A value while a graph is read.

    Attributes:
        name: unique; the tensor's name once it is needed as one.
        known: its elements, where they are few and known.
        source: what it is, if no call made it.
        flip: the matrix whose transpose it is, if nothing has needed it yet.
        axes: the order of axes in which it views ``flip``.
        law: how its elements follow from their places, where they do.
        stored: the narrow numbers that it is read from, if nothing has needed it wide yet.
    """

    name: str
    shape: tuple[Expr, ...]
    dtype: DType
    known: Numbers | None = None
    source: Source | None = None
    flip: Value | None = None
    axes: tuple[int, ...] = ()
    law: Law | None = None
    stored: Value | None = None

    @property
    def is_weight(self) -> bool:
        """True for what is stored with the model, as it is stored."""
        return self.source is not None and self.source.role == "weight"

    @property
    def narrow(self) -> Value:
        """The narrow numbers that it is read from, or itself."""
        return self if self.stored is None else self.stored

    @property
    def number(self) -> Any:
        """The single known element, or None."""
        return self.known[0] if self.known is not None and len(self.known) == 1 else None
