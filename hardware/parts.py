"""What a machine is made of: engines, memory, links, what they cost; symbols or numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import sympy

from costgraph.hardware.portable import Portable


class Engine(Enum):
    """The kind of execution unit that does a piece of work."""

    TENSOR = "tensor"
    """Matrix multiply-accumulate units (tensor cores, matrix cores, systolic arrays)."""
    VECTOR = "vector"
    """Element-wise arithmetic."""
    SPECIAL = "special"
    """Transcendental functions (exp, tanh, …)."""

    def __lt__(self, other: Engine) -> bool:
        return self.value < other.value


@dataclass(frozen=True)
class Figure:
    """One number of a device file with where it comes from.

    ``key`` is what its file calls the source.
    """

    value: sympy.Expr
    unit: str
    source: str
    key: str = ""


@dataclass(frozen=True)
class Memory:
    """The main memory.

    Attributes:
        bandwidth: byte/s.
        capacity: byte, as the maker states it; None if it does not.
        usable: byte that programs can have, where known.
        reserved: byte of it that are kept from them, see :meth:`Machine.reserving`.
    """

    bandwidth: sympy.Expr
    capacity: sympy.Expr | None = None
    usable: sympy.Expr | None = None
    reserved: sympy.Expr = sympy.Integer(0)

    @property
    def room(self) -> sympy.Expr | None:
        """Byte for a program: what is usable, else the capacity; None if neither is known."""
        room = self.capacity if self.usable is None else self.usable
        return None if room is None else room - self.reserved


@dataclass(frozen=True)
class Tier(Portable):
    """A memory level beside the main memory, nearer (cache, SRAM) or farther (DDR, NVMe).

    Attributes:
        bandwidth: byte/s, or None if not stated.
        capacity: byte, or None if not stated.
        peaks: FLOP/s per (engine, compute type) of the units inside the level
            (processing in memory); empty for plain memory.
        parts: how many parts with memory of their own the level has: modules, and units in
            them. What all of them need comes to each; all figures are those of all together.
        exchange: the link by which the parts exchange data; empty where only who the level
            belongs to can bring it from one to another.
        beyond: it is reached by way of the host, over the link to that as well.
    """

    bandwidth: sympy.Expr | None = None
    capacity: sympy.Expr | None = None
    peaks: Mapping[tuple[Engine, str], sympy.Expr] = field(default_factory=dict)
    parts: sympy.Expr = sympy.Integer(1)
    exchange: str = ""
    beyond: bool = False


@dataclass(frozen=True)
class Link:
    """What connects a device to others (or to its host), as one device sees it.

    Attributes:
        bandwidth: byte/s in one direction, all lanes of the device together.
        latency: seconds per message (the alpha of the Hockney model), or None.
        devices: how many devices such links join directly, or None.
        in_network: switches on the link add up what they pass on (reductions in the
            network, such as NVLink SHARP).
        wiring: ``switch`` (any device reaches any other at full bandwidth), ``mesh``
            (every pair has a link of its own) or ``torus`` (links to neighbours only).
        axes: dimensions of a torus; a device has two links along each.
        wraps: a slice of a torus closes to a ring along an axis whose extent is a
            multiple of this; None if no slice does.
        cubes: only where all extents are such multiples: slices of whole cubes.
    """

    bandwidth: sympy.Expr
    latency: sympy.Expr | None = None
    devices: sympy.Expr | None = None
    in_network: bool = False
    wiring: str = "switch"
    axes: sympy.Expr | None = None
    wraps: sympy.Expr | None = None
    cubes: bool = False


#: How the devices that a link joins are wired to each other.
WIRINGS = ("switch", "mesh", "torus")


@dataclass(frozen=True)
class Node:
    """One server: ``devices`` in it, or None if not stated."""

    devices: sympy.Expr | None = None


@dataclass(frozen=True)
class Energy(Portable):
    """Energy of work and traffic.

    Attributes:
        flop: joule per FLOP by (engine, compute type).
        byte: joule per byte by memory level (``memory``, or a tier's name).
    """

    flop: Mapping[tuple[Engine, str], sympy.Expr] = field(default_factory=dict)
    byte: Mapping[str, sympy.Expr] = field(default_factory=dict)


@dataclass(frozen=True)
class Price:
    """What one device costs: ``hour`` in USD per hour of renting it, or None."""

    hour: sympy.Expr | None = None


@dataclass(frozen=True)
class Topology:
    """How a device is divided; each figure None if not stated.

    Attributes:
        numa_domains: parts of a device (or host) with memory of their own.
        cores: independent cores.
        clock: clock of the compute units in Hz, as the peaks assume it.
        remote: byte/s at which one of the domains reads the memory of another.
        core_bandwidth: byte/s at which one core reads the memory while no other does.
    """

    numa_domains: sympy.Expr | None = None
    cores: sympy.Expr | None = None
    clock: sympy.Expr | None = None
    remote: sympy.Expr | None = None
    core_bandwidth: sympy.Expr | None = None
