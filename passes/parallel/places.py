"""Where a tensor's elements lie on the devices of a group, and why a split is not possible."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, Max, ceiling

from costgraph.errors import InputError
from costgraph.symbols import unnamed

ONE = Integer(1)
#: What stands for the degree while splits are tried: it divides everything.
ANY = unnamed("ranks")


@dataclass(frozen=True)
class Place:
    """A tensor on a group of devices.

    Attributes:
        axis: the axis of which each device holds a part, or None.
        length: elements of that axis on one device.
        partial: every device holds a summand of the tensor.
        weighted: the summands are attention over each device's keys, to be weighted first.
        tokens: the part is one of the tokens; it is put together wherever it is needed whole.
        away: rows of tokens at the devices of their experts.
        roots: nodes whose weights began the split; they stay whole if it is in the way.
    """

    axis: int | None = None
    length: Expr | None = None
    partial: bool = False
    weighted: bool = False
    tokens: bool = False
    away: bool = False
    roots: frozenset[str] = frozenset()

    @property
    def is_whole(self) -> bool:
        """True if every device holds all of it."""
        return self.axis is None and not self.partial


WHOLE = Place()


class BlockedError(Exception):
    """A split that an operation does not take; ``roots`` are the nodes that began it."""

    def __init__(self, reason: str, roots: frozenset[str]) -> None:
        super().__init__(reason)
        self.roots = roots


class UnevenError(InputError):
    """A length that the degree does not divide."""


def part(length: Expr, degree: Expr, what: str) -> Expr:
    """``length / degree``, for numbers only where it is whole.

    Raises:
        UnevenError: it is not.
    """
    if not (length.is_Integer and degree.is_Integer) or length % degree == 0:
        return length / degree
    raise UnevenError(f"{what}: {length} do not divide by {degree}")


def group_part(heads: Expr, degree: Expr, what: str) -> Expr:
    """Heads of one device where several devices may hold the same one: at least one.

    Raises:
        UnevenError: the devices would not hold equally many.
    """
    if degree == ANY:
        return heads / degree
    if not (heads.is_Integer and degree.is_Integer):
        return Max(ONE, heads / degree)
    if heads >= degree:
        return part(heads, degree, what)
    if degree % heads == 0:
        return ONE
    raise UnevenError(f"{what}: {degree} devices do not share {heads} evenly")


def rows_part(rows: Expr, degree: Expr) -> Expr:
    """Rows of a vocabulary on one device, filled up: ``⌈V / degree⌉``."""
    return rows / degree if degree == ANY else ceiling(rows / degree)
