"""Frameworks that were timed as whole models, not kernel by kernel: llama.cpp.

An operation takes ``launch`` for each kernel that the framework starts for it, and the larger
of its slowed arms:

    T = launch·kernels + max(C·slow, M/em·max(1, em·BW/(stream·SM·clock)))
    slow = max(1, (F/(issue·SM·clock) + F/(expand·BW) + 1/ec)·[experts])

with ``F`` the peak of its products, ``BW`` the memory's bandwidth, ``SM`` multiprocessors.
Without a norm: formulas stay as simple as the roofline's. No factor is below one, so neither is
a time below the roofline's. One file per framework in ``hardware/frameworks``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from sympy import Expr, Integer, Max, Rational

from costgraph.errors import HardwareError, clip, nearest
from costgraph.files import outside
from costgraph.hardware.machine import Engine, Machine
from costgraph.ir.op import Op
from costgraph.ir.program import Phase
from costgraph.ops.fused import Fused
from costgraph.quoting import visible
from costgraph.timing.fidelity.calibration import (
    LARGEST_FILE,
    folder_of,
    heldout_of,
    ranged,
)

ONE, ZERO = Integer(1), Integer(0)
#: Parameters: limits, and what each is.
PARAMETERS: Mapping[str, tuple[float, float, str]] = {
    "launch": (1e-8, 1e-3, "seconds per kernel"),
    "em": (0.02, 1.0, "efficiency of memory bandwidth"),
    "stream": (0.1, 1e4, "byte that a multiprocessor streams per clock"),
    "issue": (1.0, 1e6, "FLOP of products that a multiprocessor issues per clock"),
    "expand": (1.0, 1e6, "FLOP of products per byte of their weights' expansion in memory"),
    "ec": (0.003, 1.0, "efficiency of products"),
    "experts": (1.0, 100.0, "how much longer products grouped by expert take"),
}
#: Those that every platform has.
NEEDED = ("launch", "em")
#: The platform that runs on devices with a kind of tensor instructions.
PLATFORMS = {"mma": "cuda", "wgmma": "cuda", "tcgen05": "cuda", "simdgroup": "metal"}
#: Steps whose errors are told apart: one query per sequence, or more.
STEPS = ("decode", "prompt")


def step_of(phase: Phase) -> str:
    """Which of :data:`STEPS` a phase is: ``decode`` with one query per sequence."""
    return "decode" if phase.is_single_query else "prompt"


@dataclass(frozen=True)
class Framework:
    """What was fitted for a framework.

    Attributes:
        name: as behind ``calibrated@``.
        provenance: where the timings come from.
        platforms: values of :data:`PARAMETERS` by platform; a missing one has no effect.
        heldout: errors and quantiles on runs kept back, by :data:`STEPS`.
    """

    name: str
    provenance: str
    platforms: Mapping[str, Mapping[str, float]]
    heldout: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def platform(self, machine: Machine) -> str:
        """The platform that serves a device.

        Raises:
            HardwareError: none was timed on devices of its kind, or the device lacks a figure.
        """
        name = PLATFORMS.get(machine.instruction, "")
        if name not in self.platforms:
            raise HardwareError(
                f"{self.name} was not timed on devices like {machine.name!r}: its parameters are "
                f"of {', '.join(self.platforms)} (tensor instructions "
                f"{', '.join(i for i, p in PLATFORMS.items() if p in self.platforms)})"
            )
        values = self.platforms[name]
        if {"stream", "issue"} & set(values):
            for given, key in (
                (machine.multiprocessors, "onchip.multiprocessors"),
                (machine.topology.clock, "topology.clock"),
            ):
                if given is None:
                    raise HardwareError(
                        f"{self.name} on {machine.name!r} needs {key}: state it in its file"
                    )
        return name

    def factors(self, machine: Machine, dtype: str, grouped: bool) -> tuple[Expr, Expr]:
        """By how much products and reads of memory are slower than at the device's figures.

        Args:
            machine: with figures, not symbols.
            dtype: data type of the products.
            grouped: they are products by expert.
        """
        values = {k: exact(v) for k, v in self.platforms[self.platform(machine)].items()}
        cycles = (machine.multiprocessors or ONE) * (machine.topology.clock or ONE)
        bandwidth, peak = machine.memory.bandwidth, machine.peak(Engine.TENSOR, dtype)
        slow: Expr = ZERO
        if "issue" in values:
            slow += peak / (values["issue"] * cycles)
        if "expand" in values:
            slow += peak / (values["expand"] * bandwidth)
        if "ec" in values:
            slow += 1 / values["ec"]
        if grouped:
            slow *= values.get("experts", ONE)
        read = 1 / values["em"]
        if "stream" in values:
            read = Max(read, bandwidth / (values["stream"] * cycles))
        return Max(ONE, slow), read

    def launch(self, machine: Machine) -> Rational:
        """Seconds per kernel."""
        return exact(self.platforms[self.platform(machine)]["launch"])

    def trust(self, machine: Machine, step: str) -> str:
        """Whose parameters, and how good: ``llama.cpp on cuda, median of whole steps 5 %``."""
        median = self.heldout[step]["median"]
        return f"{self.name} on {self.platform(machine)}, median of whole steps {median:.0f} %"


def kernels(op: Op) -> int:
    """Kernels that a framework starts which runs each operation by itself."""
    return len(op.body.nodes) if isinstance(op, Fused) else 1


def exact(value: float) -> Rational:
    """A fitted value to six digits as an exact number."""
    return Rational(f"{value:.6g}")


def framework_from(data: Mapping[str, Any], label: str) -> Framework:
    """The framework that a parsed file describes.

    Raises:
        HardwareError: a key is unknown or missing, or a value is out of range.
    """

    def fail(message: str) -> HardwareError:
        return HardwareError(f"{label}: {message}")

    places = tuple(dict.fromkeys(PLATFORMS.values()))
    known = ("framework", "provenance", "heldout", *places)
    for key in data:
        if key not in known:
            raise fail(f"unknown key {clip(key)}{nearest(key, known)}")
    texts = [data.get(key) for key in ("framework", "provenance")]
    for key, text in zip(("framework", "provenance"), texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise fail(f"{key!r} must be a text")
    platforms = {}
    for place in places:
        if place not in data:
            continue
        table = data[place]
        if not isinstance(table, dict):
            raise fail(f"[{place}] must be a table")
        for key in table:
            if key not in PARAMETERS:
                raise fail(f"unknown key {clip(key)} in [{place}]{nearest(key, PARAMETERS)}")
        for key in NEEDED:
            if key not in table:
                raise fail(f"[{place}] lacks {key!r} ({PARAMETERS[key][2]})")
        platforms[place] = {
            k: ranged(v, f"{place}.{k}", fail, *PARAMETERS[k][:2]) for k, v in table.items()
        }
    if not platforms:
        raise fail(f"needs a table of parameters: {', '.join(places)}")
    errors = data.get("heldout")
    if not isinstance(errors, dict) or set(errors) != set(STEPS):
        raise fail(f"needs tables {', '.join(f'[heldout.{s}]' for s in STEPS)}")
    heldout = {step: heldout_of(errors[step], f"heldout.{step}", fail) for step in STEPS}
    return Framework(visible(str(texts[0])), visible(str(texts[1])), platforms, heldout)


def load_framework(path: Path) -> Framework:
    """The framework in a file.

    Raises:
        HardwareError: the file cannot be read or breaks the schema.
    """
    data = outside.read_toml(path, LARGEST_FILE, "a file of a framework", HardwareError)
    return framework_from(data, visible(path.name))


def framework_names() -> tuple[str, ...]:
    """Names of the frameworks that were timed as whole models."""
    return tuple(sorted(p.stem for p in folder_of("frameworks").glob("*.toml")))


@lru_cache(maxsize=8)
def framework(name: str) -> Framework | None:
    """A shipped framework, if there is one."""
    if name not in framework_names():
        return None
    return load_framework(folder_of("frameworks") / f"{name}.toml")
