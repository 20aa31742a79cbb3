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

from costgraph.fidelity.calibration import Fit, calibrated_devices, shipped, transfer
from costgraph.fidelity.forms import carried
from costgraph.fidelity.table import CLOCK, FLOW, RIDGE, UNIT, Datasheet
from costgraph.machine import Engine, Machine

#: Relatives differ in no figure by more than this factor.
NEAR = 2.0


@dataclass(frozen=True)
class Figures:
    """What decides how close two devices are, relative to an H100 in 16 bit.

    Attributes:
        instruction: kind of tensor instructions; empty if unknown.
        ridge: peak over memory bandwidth.
        flow: memory bandwidth per multiprocessor.
        unit: peak per multiprocessor.
        clock: of the multiprocessors; one if unknown.
    """

    instruction: str
    ridge: float
    flow: float
    unit: float
    clock: float

    def distance(self, other: Figures) -> float:
        """The largest factor between two figures; infinite for other instructions."""
        if not self.instruction or self.instruction != other.instruction:
            return math.inf
        pairs = (
            (self.ridge, other.ridge),
            (self.flow, other.flow),
            (self.unit, other.unit),
            (self.clock, other.clock),
        )
        return max(max(a / b, b / a) for a, b in pairs)

    def over(self, other: Figures | None) -> dict[str, float]:
        """Each figure over another's; over an H100's without one."""
        names = ("ridge", "flow", "unit", "clock")
        return {n: getattr(self, n) / (1.0 if other is None else getattr(other, n)) for n in names}


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
        float(machine.link().bandwidth) if machine.links else math.nan,
        math.nan if clock is None else float(clock),
        machine.instruction,
    )


def figures_of(sheet: Datasheet) -> Figures:
    """The figures of a datasheet, with its 16-bit peak."""
    return _figures(
        sheet.instruction, sheet.peak("bf16"), sheet.bandwidth, sheet.multiprocessors, sheet.clock
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
    )


def _figures(
    instruction: str, peak: float, bandwidth: float, units: float, clock: float
) -> Figures:
    return Figures(
        instruction,
        peak / bandwidth / RIDGE,
        bandwidth / units / FLOW,
        peak / units / UNIT,
        1.0 if math.isnan(clock) else clock / CLOCK,
    )


def nearest_first(own: Figures, others: Mapping[str, Figures]) -> tuple[str, ...]:
    """Names of the devices among ``others`` that are relatives, the closest first."""
    far = {name: own.distance(figures) for name, figures in others.items()}
    return tuple(sorted((n for n, x in far.items() if x <= NEAR), key=lambda n: (far[n], n)))


@lru_cache(maxsize=1)
def _fitted() -> dict[str, Machine]:
    """Devices with a shipped calibration."""
    from costgraph.hardware import load_hardware

    return {name: load_hardware(name) for name in calibrated_devices()}


def relatives(machine: Machine) -> tuple[str, ...]:
    """Fitted devices that are relatives of a machine, the closest first."""
    if not machine.instruction:
        return ()
    others = {n: m for n, m in _fitted().items() if m.instruction == machine.instruction}
    known = {name: figures_on(other, "bf16") for name, other in others.items()}
    return nearest_first(figures_on(machine, "bf16"), known)


def inherited(machine: Machine, dtype: str, kind: str, variants: tuple[str, ...]) -> Fit | None:
    """Parameters for a GPU that was never fitted, moved by its figures.

    Those of its closest relative, else those of all devices together, for the first
    of ``variants`` that either has. The errors stated are those of devices left out.
    """
    general = transfer()
    own = figures_on(machine, dtype)
    slope = {"slope": general.slope[kind]} if kind in general.slope else {}
    for variant in variants:
        pooled = general.fits.get((kind, variant))
        found, ratios = pooled, own.over(None)
        for name in relatives(machine):
            calibration = shipped(name)
            fit = None if calibration is None else calibration.fits.get((kind, variant))
            if fit is not None:
                found, ratios = fit, own.over(figures_on(_fitted()[name], dtype))
                break
        if found is not None:
            moved = {
                k: float(x) for k, x in carried(kind, ratios, {**found.values, **slope}).items()
            }
            moved.pop("slope", None)
            return replace(found, values=moved, heldout=(pooled or found).heldout)
    return None
