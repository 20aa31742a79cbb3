"""What a workload needs in memory, against what there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Fit:
    """What a workload needs in memory, against what the device has.

    Attributes:
        hardware: the device.
        bytes: needed; None where a symbol without a value decides it.
        capacity: that programs can have on the device; None where its file states none.
        least: whether sizes that were not given were taken as one, so that the
            workload may need more.
        more: finds what would hold it, as a clause; asked only where it does not fit.
        farther: of farther levels of memory in which something is kept.
        beyond: a sentence where it has more positions than the model's file states.
    """

    hardware: str
    bytes: float | None
    capacity: float | None
    least: bool = False
    more: Callable[[], str] | None = field(default=None, compare=False, repr=False)
    farther: tuple[Fit, ...] = ()
    beyond: str = ""

    @property
    def fits(self) -> bool | None:
        """Whether it fits, in farther levels as well; None where that is not known."""
        found = {self._own, *(f.fits for f in self.farther)}
        return False if False in found else None if None in found else True

    @property
    def _own(self) -> bool | None:
        if self.bytes is None or self.capacity is None:
            return None
        if self.bytes > self.capacity:
            return False
        return None if self.least else True

    @property
    def warning(self) -> str:
        """What must be said beside its numbers, or nothing: of memory, and of positions."""
        return "; ".join(self.cautions)

    @property
    def cautions(self) -> tuple[str, ...]:
        """The sentences of :attr:`warning`."""
        return tuple(filter(None, (self.full, self.beyond)))

    @cached_property
    def full(self) -> str:
        """A sentence where it does not fit into memory, otherwise empty."""
        return "; ".join(w for w in (self._full, *(f.full for f in self.farther)) if w)

    @property
    def _full(self) -> str:
        if self._own is not False or self.bytes is None or self.capacity is None:
            return ""
        from costgraph.units import format_quantity

        needs = f"{'at least ' if self.least else ''}{format_quantity(self.bytes, 'B')}"
        has = format_quantity(self.capacity, "B")
        more = "" if self.more is None else self.more()
        return f"does not fit: it needs {needs}, {self.hardware} has {has}{more and f'; {more}'}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "bytes": self.bytes,
            "capacity": self.capacity,
            "fits": self.fits,
            "warning": self.warning,
            **({"farther": [f.to_dict() for f in self.farther]} if self.farther else {}),
        }
