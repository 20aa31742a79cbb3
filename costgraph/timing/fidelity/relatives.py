"""Relatives: fitted devices whose parameters carry over to one that was never fitted.

Kernels are written for one kind of tensor instruction (``wgmma`` on Hopper,
``tcgen05`` on Blackwell for data centres, ``mma`` on all other NVIDIA devices since
Volta; PTX ISA, section "Asynchronous Warpgroup Level Matrix Instructions" and
"TensorCore 5th Generation"). Devices with the same kind run the same kernels; where
their figures are close as well, one's fitted parameters serve the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from costgraph.hardware.machine import Engine, Machine
from costgraph.timing.fidelity.calibration import Fit, calibrated_devices, shipped, transfer
from costgraph.timing.fidelity.collective import topology
from costgraph.timing.fidelity.forms import FIGURES, carried
from costgraph.timing.fidelity.labels import alike
from costgraph.timing.fidelity.table import CLOCK, FLOW, POWER, RIDGE, UNIT, Datasheet

#: Relatives differ in no figure by more than this factor.
NEAR = 2.0
#: Those of products: a chip at another clock or memory. How close a card's products come to its
#: peak is its own; all devices together say more of a new one than a card half as fast (held
#: against devices left out: docs/fidelity.md).
CLOSER: Mapping[str, float] = {"gemm": 1.35}


@dataclass(frozen=True)
class Figures:
    """What decides how close two devices are, relative to an H100 in 16 bit.

    Attributes:
        instruction: kind of tensor instructions; empty if unknown.
        ridge: peak over memory bandwidth.
        flow: memory bandwidth per multiprocessor.
        unit: peak per multiprocessor.
        clock: of the multiprocessors; one if unknown.
        power: watts of the board per 16-bit peak; one if unknown. Decides nothing of closeness.
    """

    instruction: str
    ridge: float
    flow: float
    unit: float
    clock: float
    power: float = 1.0

    def distance(self, other: Figures) -> float:
        """The largest factor between two figures; infinite for other instructions."""
        if not self.instruction or self.instruction != other.instruction:
            return math.inf
        return max(max(x, 1 / x) for name, x in self.over(other).items() if name != "power")

    def over(self, other: Figures) -> dict[str, float]:
        """Each figure over another's."""
        return {n: getattr(self, n) / getattr(other, n) for n in FIGURES}


#: What figures are relative to, and pooled parameters stand for.
REFERENCE = Figures("wgmma", 1.0, 1.0, 1.0, 1.0)


def sheet_of(machine: Machine) -> Datasheet:
    """What tables of timings need to know of a device."""
    names = {"fp16": "16", "bf16": "16", "fp8": "fp8", "fp4": "fp4", "fp32": "fp32"}
    peaks = {
        names[kind]: float(rate)
        for (engine, kind), rate in machine.peaks.items()
        if engine is Engine.TENSOR and kind in names
    }
    l2, clock = machine.figures.get("onchip.l2"), machine.topology.clock
    return Datasheet(
        peaks,
        float(machine.memory.bandwidth),
        float(machine.multiprocessors or 1),
        math.inf if l2 is None else float(l2.value),
        *_link_of(machine),
        math.nan if clock is None else float(clock),
        machine.instruction,
        math.nan if machine.power is None else float(machine.power),
    )


def _link_of(machine: Machine) -> tuple[float, float, bool, str]:
    """Bandwidth, latency, reductions on the way and topology of the device's widest link."""
    if not machine.links:
        return math.nan, 0.0, False, "switch"
    link = machine.link()
    name = next(n for n, x in machine.links.items() if x is link)
    latency = 0.0 if link.latency is None else float(link.latency)
    return float(link.bandwidth), latency, link.in_network, topology(machine, name)


def figures_of(sheet: Datasheet) -> Figures:
    """The figures of a datasheet, with its 16-bit peak."""
    peak = sheet.peak("bf16")
    return _figures(
        sheet.instruction,
        peak,
        sheet.bandwidth,
        sheet.multiprocessors,
        sheet.clock,
        sheet.power / peak,
    )


def figures_on(machine: Machine, dtype: str) -> Figures:
    """The figures of a machine, with the peak that products of a type take."""
    clock = machine.topology.clock
    # Without a number of multiprocessors, one of an H100's bandwidth.
    bandwidth = float(machine.memory.bandwidth)
    units = bandwidth / FLOW if machine.multiprocessors is None else float(machine.multiprocessors)
    return _figures(
        machine.instruction,
        float(machine.peak(Engine.TENSOR, dtype)),
        bandwidth,
        units,
        math.nan if clock is None else float(clock),
        math.nan if machine.power is None else _per_peak(machine),
    )


def _per_peak(machine: Machine) -> float:
    """Joules of the board per FLOP at its 16-bit peak."""
    return float(machine.power / machine.peak(Engine.TENSOR, "bf16"))


def _figures(
    instruction: str, peak: float, bandwidth: float, units: float, clock: float, power: float
) -> Figures:
    return Figures(
        instruction,
        peak / bandwidth / RIDGE,
        bandwidth / units / FLOW,
        peak / units / UNIT,
        1.0 if math.isnan(clock) else clock / CLOCK,
        1.0 if math.isnan(power) else power / POWER,
    )


def nearest_first(own: Figures, others: Mapping[str, Figures], kind: str = "") -> tuple[str, ...]:
    """Names of the devices among ``others`` that lend fits of a kind, the closest first."""
    far = {name: own.distance(figures) for name, figures in others.items()}
    most = CLOSER.get(kind, NEAR)
    return tuple(sorted((n for n, x in far.items() if x <= most), key=lambda n: (far[n], n)))


@lru_cache(maxsize=1)
def _fitted() -> dict[str, Machine]:
    """Devices of which kernels were fitted."""
    from costgraph.hardware import load_hardware

    own = ((name, shipped(name)) for name in calibrated_devices())
    return {n: load_hardware(n) for n, found in own if found is not None and found.has_kernels}


@lru_cache(maxsize=1)
def _known() -> dict[str, Figures]:
    """Figures of the devices with a shipped calibration."""
    return {name: figures_on(machine, "bf16") for name, machine in _fitted().items()}


def relatives(machine: Machine, kind: str = "") -> tuple[str, ...]:
    """Fitted devices that lend a machine their fits of a kind, the closest first."""
    if not machine.instruction:
        return ()
    return nearest_first(figures_on(machine, "bf16"), _known(), kind)


def inherited(machine: Machine, dtype: str, kind: str, variants: tuple[str, ...]) -> Fit | None:
    """Parameters for a GPU that was never fitted, moved by its figures.

    Those of its closest relative, also of a data type of the same width, else those of all
    devices together, for the first of ``variants`` that either has.
    The errors stated are those of devices left out. A kernel that says nothing of other devices
    (:attr:`.Fit.kernel`) is not lent.
    """
    general = transfer()
    own = figures_on(machine, dtype)
    slope = {"slope": general.slope[kind]} if kind in general.slope else {}
    near = [(n, fitted) for n in relatives(machine, kind) if (fitted := shipped(n)) is not None]
    for variant in variants:
        pooled = general.fits.get((kind, variant))
        found, reference = pooled, REFERENCE
        lent = ((name, c.find(kind, alike(variant))) for name, c in near)
        for name, fit in lent:
            if fit is not None and not fit.kernel:
                found, reference = fit, figures_on(_fitted()[name], dtype)
                break
        if found is not None:
            moved = carried(kind, own.over(reference), {**found.values, **slope})
            values = {name: float(moved[name]) for name in found.values}
            return replace(found, values=values, heldout=(pooled or found).heldout)
    return None
