"""What a machine is: peaks, memory levels, on-chip storage; symbols or numbers.

A :class:`Machine` holds sympy expressions throughout. A machine read from a
device file holds exact rationals; :meth:`Machine.symbolic` replaces each figure
by a symbol, so that a formula can be derived first and bound to a device last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import sympy

from costgraph.errors import HardwareError, InputError, clip, nearest
from costgraph.hardware.parts import Energy as Energy
from costgraph.hardware.parts import Engine as Engine
from costgraph.hardware.parts import Figure as Figure
from costgraph.hardware.parts import Link as Link
from costgraph.hardware.parts import Memory as Memory
from costgraph.hardware.parts import Node, Topology
from costgraph.hardware.parts import Price as Price
from costgraph.hardware.parts import Tier as Tier
from costgraph.hardware.portable import Portable
from costgraph.number import number
from costgraph.symbols import symbol
from costgraph.units import parse_quantity
from costgraph.views import view_text

#: Compute types from narrow to wide. Work in a type the machine lacks runs in
#: the next wider type of its kind that the machine has.
WIDENING: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "int4": ("int8", "fp16", "bf16", "tf32", "fp32"),
        "int8": ("fp16", "bf16", "tf32", "fp32"),
        "fp4": ("fp8", "fp16", "bf16", "tf32", "fp32"),
        "fp8": ("fp16", "bf16", "tf32", "fp32"),
        "fp16": ("bf16", "tf32", "fp32"),
        "bf16": ("fp16", "tf32", "fp32"),
        "tf32": ("fp32",),
        "fp32": ("tf32",),
    }
)


#: Kinds of tensor instructions. NVIDIA (PTX ISA): ``mma`` of a warp, ``wgmma`` of a
#: warp group (Hopper), ``tcgen05`` of a block (Blackwell for data centres); AMD:
#: ``mfma`` (CDNA), ``wmma`` (RDNA). Apple: ``simdgroup`` (matrices of a SIMD group, Metal).
INSTRUCTIONS = ("mma", "wgmma", "tcgen05", "mfma", "wmma", "simdgroup")


@dataclass(frozen=True)
class Machine(Portable):
    """A device as the roofline sees it.

    Attributes:
        name: short name, as used on the command line.
        title: full product name.
        peaks: peak rate in FLOP/s per (engine, compute type), dense.
        memory: the off-chip memory (HBM, GDDR, DDR).
        onchip: on-chip storage in byte available to a fused kernel (the
            register files taken together), or None if not stated.
        shared: scratchpad (shared memory) in byte per multiprocessor, or None.
        multiprocessors: independent multiprocessors (SMs, CUs, cores), or None.
        power: board power in watt, or None.
        figures: every figure of the device file by its key, with its source.
        conventions: figures that a named accounting uses instead, by accounting.
        aliases: other names under which the device is found.
        kind: ``gpu``, ``cpu``, ``tpu``, ``accelerator``, ``spatial`` (weights in
            SRAM over many chips), ``pim`` (compute inside memory) or ``fpga``.
        idle: power without work in watt, or None.
        tiers: further memory levels by name.
        links: connections by name (``nvlink``, ``pcie``, ``host`` …).
        node: the server that the device is usually part of.
        energy: energy per FLOP and byte, empty if not stated.
        price: what renting costs.
        topology: cores, NUMA domains, clock.
        instruction: kind of tensor instructions, which decides the kernels that run
            (:data:`INSTRUCTIONS`); empty if not stated.
        sparsity: compute types in which tensor units multiply 2:4 sparse matrices, with
            how many times the dense rate they reach; empty if not stated.
        notes: what a reader of any result must know.
    """

    name: str
    title: str
    peaks: Mapping[tuple[Engine, str], sympy.Expr]
    memory: Memory
    onchip: sympy.Expr | None = None
    shared: sympy.Expr | None = None
    multiprocessors: sympy.Expr | None = None
    power: sympy.Expr | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    conventions: Mapping[str, Mapping[str, sympy.Expr]] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    kind: str = "gpu"
    idle: sympy.Expr | None = None
    tiers: Mapping[str, Tier] = field(default_factory=dict)
    links: Mapping[str, Link] = field(default_factory=dict)
    node: Node = field(default_factory=Node)
    energy: Energy = field(default_factory=Energy)
    price: Price = field(default_factory=Price)
    topology: Topology = field(default_factory=Topology)
    instruction: str = ""
    sparsity: Mapping[str, sympy.Expr] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __hash__(self) -> int:
        # Figures are in mappings, which have none.
        return hash((self.name, self.title))

    def __repr__(self) -> str:
        return f"<Machine {self.name}: {self.title}>"

    def _repr_html_(self) -> str:
        return view_text("machine_html", self)

    def resolve(self, engine: Engine, dtype: str) -> tuple[Engine, str]:
        """The (engine, compute type) that executes work stated in ``dtype``.

        The stated type if the machine has it, else the next wider one
        (:data:`WIDENING`). Element-wise work takes the vector engine's widest type
        where nothing as wide is stated. Special functions fall back to the vector
        engine, and vector work to the tensor engine's widest type, on machines whose
        file states no separate figure.

        Raises:
            HardwareError: nothing on the machine can execute the work.
        """
        chain = (dtype, *WIDENING.get(dtype, ()))
        engines = {
            Engine.TENSOR: (Engine.TENSOR, Engine.VECTOR),
            Engine.VECTOR: (Engine.VECTOR, Engine.TENSOR),
            Engine.SPECIAL: (Engine.SPECIAL, Engine.VECTOR, Engine.TENSOR),
        }[engine]
        for candidate in engines:
            for name in chain:
                if (candidate, name) in self.peaks:
                    return candidate, name
            if candidate is not engine or engine is not Engine.TENSOR:
                # A stand-in, or element-wise work: the engine's widest type will do.
                for name in ("fp32", "tf32", "fp16", "bf16"):
                    if (candidate, name) in self.peaks:
                        return candidate, name
        have = ", ".join(sorted({d for _, d in self.peaks}))
        raise HardwareError(
            f"hardware {self.name!r}: no peak for {dtype} work on the {engine.value} engine, "
            f"nor for a wider type (it has {have})"
        )

    def peak(self, engine: Engine, dtype: str) -> sympy.Expr:
        """Peak rate in FLOP/s for work stated in ``dtype``; see :meth:`resolve`."""
        return self.peaks[self.resolve(engine, dtype)]

    def ridge(self, dtype: str) -> sympy.Expr:
        """Ridge point in FLOP/byte: tensor peak of ``dtype`` over memory bandwidth."""
        return self.peak(Engine.TENSOR, dtype) / self.memory.bandwidth

    def ridges(self) -> dict[str, sympy.Expr]:
        """Ridge points in FLOP/byte of every type that matrix products run in.

        Machines without matrix units multiply on their vector units.
        """
        engine = Engine.TENSOR
        if not any(e is engine for e, _ in self.peaks):
            engine = Engine.VECTOR
        return {
            dtype: peak / self.memory.bandwidth
            for (unit, dtype), peak in self.peaks.items()
            if unit is engine
        }

    def main_type(self) -> str:
        """The type by which machines are compared: 16-bit float, else the widest there is."""
        known = self.ridges()
        order = ("bf16", "fp16", "fp32", "tf32", "fp8", "int8", "fp4", "int4")
        return next(t for t in order if t in known)

    def tier(self, name: str) -> Tier:
        """The memory level called ``name``; ``memory`` is the main memory.

        Raises:
            HardwareError: the machine states no such level.
        """
        if name == "memory":
            return Tier(self.memory.bandwidth, self.memory.room)
        if name not in self.tiers:
            known = ("memory", *self.tiers)
            raise HardwareError(
                f"hardware {self.name!r} has no memory level {clip(name)}{nearest(name, known)}"
            )
        return self.tiers[name]

    def link(self, name: str | None = None) -> Link:
        """The connection called ``name``; without a name the widest one.

        Of equally wide ones, one that says how many devices it joins.

        Raises:
            HardwareError: the machine states no such link.
        """
        if not self.links:
            raise HardwareError(f"hardware {self.name!r} states no links; add a table [links.NAME]")
        if name is None:
            return max(
                self.links.values(), key=lambda x: (float(x.bandwidth), x.devices is not None)
            )
        if name not in self.links:
            raise HardwareError(
                f"hardware {self.name!r} has no link {clip(name)}{nearest(name, self.links)}"
            )
        return self.links[name]

    def inside(self, name: str) -> Machine:
        """The machine that the compute units inside a memory level see.

        Peaks and memory are those of the level: what an operation costs that runs
        there (processing in memory).

        Raises:
            HardwareError: no such level, or nothing computes in it.
        """
        tier = self.tier(name)
        if not tier.peaks or tier.bandwidth is None:
            raise HardwareError(
                f"hardware {self.name!r}: nothing computes in level {name!r}; "
                f"state [tiers.{name}.peaks] and a bandwidth"
            )
        return replace(
            self,
            name=f"{self.name}.{name}",
            peaks=tier.peaks,
            memory=Memory(tier.bandwidth, tier.capacity),
            onchip=None,
            shared=None,
            multiprocessors=None,
            energy=Energy(),
            power=None,
            idle=None,
        )

    def paced(self, pace: sympy.Expr) -> Machine:
        """The machine with so many times the peaks and the memory bandwidth, all else alike."""
        if pace == 1:
            return self
        peaks = {key: peak * pace for key, peak in self.peaks.items()}
        memory = replace(self.memory, bandwidth=self.memory.bandwidth * pace)
        return replace(self, peaks=MappingProxyType(peaks), memory=memory)

    def as_tier(self) -> Tier:
        """The device as a memory level that computes: PIM products are made for this."""
        return Tier(self.memory.bandwidth, self.memory.room, self.peaks)

    def with_tier(self, name: str, tier: Tier) -> Machine:
        """The machine with one more memory level (or another one of that name)."""
        return replace(self, tiers=MappingProxyType({**self.tiers, name: tier}))

    def symbolic(self) -> Machine:
        """The same machine with each peak, bandwidth and latency as a symbol.

        ``F_bf16`` … are tensor peaks, ``F_vector_fp32`` … those of the other
        engines, ``BW`` the memory bandwidth and ``M`` the bytes that programs can have;
        ``BW_nvlink``, ``BW_ddr`` … are bandwidths of links and of farther memory, and
        ``alpha_nvlink`` … seconds per message. Where a memory level and the link to it have
        one name, the level's own bandwidth is ``BW_hbm_pim_memory`` …
        """
        links = {
            name: replace(
                link,
                bandwidth=symbol(link_symbol_name("BW", name)),
                latency=symbol(link_symbol_name("alpha", name)) if link.latency else link.latency,
            )
            for name, link in self.links.items()
        }
        tiers = {
            name: tier
            if tier.bandwidth is None
            else replace(tier, bandwidth=self._tier_symbol(name))
            for name, tier in self.tiers.items()
        }
        return replace(
            self,
            peaks={key: symbol(peak_symbol_name(*key)) for key in self.peaks},
            memory=Memory(symbol("BW"), symbol("M") if self.memory.room is not None else None),
            links=MappingProxyType(links),
            tiers=MappingProxyType(tiers),
        )

    def meanings(self) -> dict[str, str]:
        """What the symbols that :meth:`symbolic` introduces stand for, with their units."""
        found = {
            peak_symbol_name(*key): f"peak of the {key[0].value} engine in {key[1]}, FLOP/s"
            for key in self.peaks
        }
        found |= {"BW": "memory bandwidth, byte/s", "M": "memory that programs can have, byte"}
        for name in self.tiers:
            found[self._tier_symbol(name).name] = f"bandwidth of the memory {name}, byte/s"
        for name in self.links:
            found[link_symbol_name("BW", name)] = f"bandwidth of the link {name}, byte/s"
            found[link_symbol_name("alpha", name)] = f"latency of the link {name}, s per message"
        return found

    def reserving(self, kept: str | int | float | sympy.Expr | None) -> Machine:
        """The machine with less usable memory: what the driver and the framework keep.

        Args:
            kept: byte, as a number or a text with its unit (``"2 GB"``), or a share of
                what is usable (``"10%"``); None or ``0`` for nothing.

        Raises:
            InputError: it is neither, or leaves nothing.
            HardwareError: the machine states no memory.
        """
        if kept is None or kept == 0 or kept == "0":
            return self
        room = self.memory.room
        if room is None:
            raise HardwareError(f"hardware {self.name!r} states no memory to reserve a part of")
        amount = _kept(kept, room)
        if not 0 < amount < room:
            raise InputError(f"reserve: {clip(kept)} of {float(room):.4g} byte leaves nothing")
        return replace(self, memory=replace(self.memory, reserved=self.memory.reserved + amount))

    def _tier_symbol(self, name: str) -> sympy.Symbol:
        """The symbol for a memory level's bandwidth, which no link has."""
        taken = {link_symbol_name("BW", link) for link in self.links}
        found = link_symbol_name("BW", name)
        return symbol(link_symbol_name("BW", f"{name[:30]}_memory") if found in taken else found)

    def bindings(self) -> dict[sympy.Symbol, sympy.Expr]:
        """Values of the symbols that :meth:`symbolic` introduces."""
        values = {symbol(peak_symbol_name(*key)): value for key, value in self.peaks.items()}
        values[symbol("BW")] = self.memory.bandwidth
        if self.memory.room is not None:
            values[symbol("M")] = self.memory.room
        for name, tier in self.tiers.items():
            if tier.bandwidth is not None:
                values[self._tier_symbol(name)] = tier.bandwidth
        for name, link in self.links.items():
            values[symbol(link_symbol_name("BW", name))] = link.bandwidth
            if link.latency:
                values[symbol(link_symbol_name("alpha", name))] = link.latency
        return values

    def under(self, convention: str) -> Machine:
        """The machine with the figures that the named accounting uses instead.

        Keys of a convention are ``bandwidth``, ``capacity``, ``onchip`` and
        ``ENGINE.DTYPE`` for peaks. Without such a table the machine itself.
        """
        changes = self.conventions.get(convention)
        if not changes:
            return self
        peaks = dict(self.peaks)
        memory, onchip = self.memory, self.onchip
        for key, value in changes.items():
            if key == "bandwidth":
                memory = replace(memory, bandwidth=value)
            elif key == "capacity":
                memory = replace(memory, capacity=value, usable=None)
            elif key == "onchip":
                onchip = value
            else:
                engine, dtype = key.split(".")
                peaks[Engine(engine), dtype] = value
        return replace(self, peaks=peaks, memory=memory, onchip=onchip)


def _kept(kept: Any, room: sympy.Expr) -> sympy.Expr:
    """Bytes that a text or a number asks to keep."""
    if not isinstance(kept, str):
        return sympy.Rational(Fraction(number(kept, "reserve")))
    text = kept.strip()
    share = text.removesuffix("%").strip()
    if text != share and re.fullmatch(r"\d{1,2}(\.\d{1,6})?", share):
        return room * sympy.Rational(share) / 100
    return parse_quantity(text, "size", "reserve")


def peak_symbol_name(engine: Engine, dtype: str) -> str:
    """Name of the symbol for one peak: ``F_bf16``, ``F_vector_fp32``."""
    return f"F_{dtype}" if engine is Engine.TENSOR else f"F_{engine.value}_{dtype}"


def link_symbol_name(figure: str, link: str) -> str:
    """Name of the symbol for a figure of a link: ``BW_nvlink``, ``alpha_nvlink_c2c``."""
    return f"{figure}_{re.sub(r'[^A-Za-z0-9]+', '_', link)}"[:40]
