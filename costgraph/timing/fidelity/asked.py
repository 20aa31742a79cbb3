"""Which calibration a compile asks for, and where its file is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from costgraph.errors import InputError, clip, nearest
from costgraph.files import outside
from costgraph.hardware.machine import Machine
from costgraph.timing.fidelity.apply import FIDELITIES, Calibrated
from costgraph.timing.fidelity.calibration import Calibration, load_calibration, shipped, transfer
from costgraph.timing.fidelity.frameworks import framework as whole
from costgraph.timing.fidelity.frameworks import framework_names
from costgraph.timing.fidelity.host import SUFFIX, host_time


def calibrated(
    fidelity: str,
    machine: Machine,
    hardware: Any,
    calibration: str | os.PathLike[str] | None = None,
) -> Calibrated:
    """The calibration that a compile asks for.

    ``fidelity`` is a key of :data:`FIDELITIES`, with ``@vllm`` (or another framework or
    library that was measured) for its attention kernels and exchanges alone, and
    ``@vllm+host`` for its host's time per step as well. The calibration is
    a file given, else one beside the device's own file (``x.toml``,
    ``x.calibration.toml``), else the shipped one of the device, else none.

    Raises:
        InputError: the fidelity or the framework is unknown.
        HardwareError: the calibration file is wrong.
    """
    fidelity, at, framework = str(fidelity).partition("@")
    hosted = framework.endswith(SUFFIX)
    framework = framework.removesuffix(SUFFIX)
    if fidelity not in FIDELITIES:
        raise InputError(f"unknown fidelity {clip(fidelity)}{nearest(fidelity, FIDELITIES)}")
    if fidelity == "ideal" and at:
        raise InputError("fidelity 'ideal' does not depend on a framework: use 'calibrated@…'")
    if fidelity == "ideal":
        raise InputError("a calibration changes nothing at fidelity 'ideal': use 'calibrated'")
    if at and (served := whole(framework)) is not None:
        host = host_time(framework) if hosted else 0.0
        if calibration is not None:
            raise InputError(f"a calibration changes nothing for {framework}: leave it out")
        served.platform(machine)
        own = _own(machine, hardware, None)
        return Calibrated(fidelity, machine, own, framework, "", served, host)
    own = _own(machine, hardware, calibration)
    if at:
        known = () if own is None else own.frameworks
        if machine.kind == "gpu":
            known = (*(known or transfer().frameworks), *framework_names())
        if framework not in known:
            there = f"known: {', '.join(known)}" if known else "it has none of any framework"
            hint = nearest(framework, known)  # which lists few names by itself
            raise InputError(
                f"no timings of kernels by framework {clip(framework)} on {machine.name!r}"
                f"{hint if hint.startswith('; known') else f'{hint}; {there}'}"
            )
    file = "" if calibration is None else os.fsdecode(calibration)
    host = host_time(framework) if hosted else 0.0
    return Calibrated(fidelity, machine, own, framework, file, host=host)


def _own(
    machine: Machine, hardware: Any, calibration: str | os.PathLike[str] | None
) -> Calibration | None:
    if calibration is not None:
        return load_calibration(Path(os.fsdecode(calibration)))
    if isinstance(hardware, (str, os.PathLike)) and str(hardware).endswith(".toml"):
        beside = beside_of(Path(os.fsdecode(hardware)))
        if outside.is_file(beside):
            return load_calibration(beside)
    return shipped(machine.name)


def beside_of(device: Path) -> Path:
    """The calibration that stands beside a device's file."""
    return device.with_name(f"{device.stem}.calibration.toml")
