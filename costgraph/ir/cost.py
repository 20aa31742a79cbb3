"""The cost vector: typed, exact, additive.

FLOPs are keyed by (engine, compute type), bytes by (memory level, role,
direction), messages by link. Keys of different kinds never add up; expressions stay exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import reduce
from typing import TypeVar

from sympy import Add, Expr, Integer

from costgraph.hardware.links import Messages
from costgraph.hardware.machine import Engine
from costgraph.ir.tensor import MEMORY, Role


class Direction(Enum):
    """Read from, or written to, a memory level."""

    READ = "read"
    WRITE = "write"

    def __lt__(self, other: Direction) -> bool:
        return self.value < other.value


FlopKey = tuple[Engine, str]
ByteKey = tuple[str, Role, Direction]
Work = Mapping[FlopKey, Expr]
_K = TypeVar("_K")
_V = TypeVar("_V", Expr, Messages)

ZERO = Integer(0)
ONE = Integer(1)


@dataclass(frozen=True)
class Access:
    """Bytes of one tensor moved once by an operation, to or from a level of memory."""

    tensor: str
    role: Role
    direction: Direction
    bytes: Expr
    level: str = MEMORY


@dataclass(frozen=True)
class Cost:
    """Work and traffic of an operation, a graph or a phase.

    Attributes:
        flops: FLOP per (engine, compute type).
        bytes: bytes per (memory level, role, direction).
        launches: kernels launched.
        links: messages by the name of the link that they cross.
    """

    flops: Work = field(default_factory=dict)
    bytes: Mapping[ByteKey, Expr] = field(default_factory=dict)
    launches: Expr = ZERO
    links: Mapping[str, Messages] = field(default_factory=dict)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            _added(self.flops, other.flops),
            _added(self.bytes, other.bytes),
            self.launches + other.launches,
            _added(self.links, other.links),
        )

    def scaled(self, factor: Expr) -> Cost:
        """Every component times ``factor``."""
        return self.mapped(lambda e: e * factor)

    def mapped(self, f: Callable[[Expr], Expr]) -> Cost:
        """``f`` applied to every component."""
        return Cost(
            {k: f(v) for k, v in self.flops.items()},
            {k: f(v) for k, v in self.bytes.items()},
            f(self.launches),
            {k: v.mapped(f) for k, v in self.links.items()},
        )

    @property
    def total_flops(self) -> Expr:
        """FLOP over all engines and types."""
        return Add(*self.flops.values())

    @property
    def total_bytes(self) -> Expr:
        """Bytes over all levels, roles and directions; what crosses links is not among them."""
        return Add(*self.bytes.values())

    @property
    def total_wire(self) -> Expr:
        """Bytes on the wire over all links."""
        return Add(*(m.wire for m in self.links.values()))

    def bytes_of(
        self, role: Role | None = None, direction: Direction | None = None, level: str | None = None
    ) -> Expr:
        """Bytes whose key matches everything given."""
        return Add(
            *(
                value
                for (lv, ro, di), value in self.bytes.items()
                if level in (None, lv) and role in (None, ro) and direction in (None, di)
            )
        )

    def flops_of(self, engine: Engine | None = None, dtype: str | None = None) -> Expr:
        """FLOP whose key matches everything given."""
        return Add(
            *(
                value
                for (en, dt), value in self.flops.items()
                if engine in (None, en) and dtype in (None, dt)
            )
        )


def total(costs: Iterable[Cost]) -> Cost:
    """Sum of cost vectors."""
    return reduce(Cost.__add__, costs, Cost())


def from_accesses(
    work: Work,
    accesses: Iterable[Access],
    launches: Expr = ONE,
    links: Mapping[str, Messages] | None = None,
) -> Cost:
    """The cost vector of work plus memory accesses and messages over links."""
    moved: dict[ByteKey, Expr] = {}
    for access in accesses:
        key = (access.level, access.role, access.direction)
        moved[key] = moved.get(key, ZERO) + access.bytes
    kept = {k: v for k, v in work.items() if v != 0}
    return Cost(kept, {k: v for k, v in moved.items() if v != 0}, launches, links or {})


def _added(a: Mapping[_K, _V], b: Mapping[_K, _V]) -> dict[_K, _V]:
    out = dict(a)
    for key, value in b.items():
        out[key] = out[key] + value if key in out else value
    return out
