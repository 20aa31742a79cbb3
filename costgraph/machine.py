"""What a machine is: peaks, memory levels, on-chip storage; symbols or numbers.

A :class:`Machine` holds sympy expressions throughout. A machine read from a
device file holds exact rationals; :meth:`Machine.symbolic` replaces each figure
by a symbol, so that a formula can be derived first and bound to a device last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from types import MappingProxyType
from typing import Any

import sympy

from costgraph.errors import HardwareError
from costgraph.symbols import symbol


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


@dataclass(frozen=True)
class Figure:
    """One number of a device file with where it comes from."""

    value: sympy.Expr
    unit: str
    source: str


@dataclass(frozen=True)
class Memory:
    """A memory level: ``bandwidth`` in byte/s, ``capacity`` in byte."""

    bandwidth: sympy.Expr
    capacity: sympy.Expr | None = None


@dataclass(frozen=True)
class Machine:
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

    def resolve(self, engine: Engine, dtype: str) -> tuple[Engine, str]:
        """The (engine, compute type) that executes work stated in ``dtype``.

        The stated type if the machine has it, else the next wider one
        (:data:`WIDENING`). Special functions fall back to the vector engine, and
        vector work to the tensor engine's widest type, on machines whose file
        states no separate figure.

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
            if candidate is not engine:  # a stand-in engine: its widest type will do
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

    def symbolic(self) -> Machine:
        """The same machine with each peak and the bandwidth as a symbol.

        ``F_bf16`` … are tensor peaks, ``F_vector_fp32`` … those of the other
        engines, ``BW`` the memory bandwidth and ``M`` its capacity.
        """
        return replace(
            self,
            peaks={key: symbol(peak_symbol_name(*key)) for key in self.peaks},
            memory=Memory(symbol("BW"), symbol("M") if self.memory.capacity is not None else None),
        )

    def bindings(self) -> dict[sympy.Symbol, sympy.Expr]:
        """Values of the symbols that :meth:`symbolic` introduces."""
        values = {symbol(peak_symbol_name(*key)): value for key, value in self.peaks.items()}
        values[symbol("BW")] = self.memory.bandwidth
        if self.memory.capacity is not None:
            values[symbol("M")] = self.memory.capacity
        return values

    def __getstate__(self) -> dict[str, Any]:
        """The fields with tables as plain dicts, because read-only views do not pickle."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, _read_only(value))

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
                memory = replace(memory, capacity=value)
            elif key == "onchip":
                onchip = value
            else:
                engine, dtype = key.split(".")
                peaks[Engine(engine), dtype] = value
        return replace(self, peaks=peaks, memory=memory, onchip=onchip)


def peak_symbol_name(engine: Engine, dtype: str) -> str:
    """Name of the symbol for one peak: ``F_bf16``, ``F_vector_fp32``."""
    return f"F_{dtype}" if engine is Engine.TENSOR else f"F_{engine.value}_{dtype}"


def _plain(value: Any) -> Any:
    """Mappings as dicts, at every depth."""
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _read_only(value: Any) -> Any:
    """Dicts as read-only views, at every depth."""
    if not isinstance(value, dict):
        return value
    return MappingProxyType({k: _read_only(v) for k, v in value.items()})
