"""Compiling: a model, a machine and a pipeline become formulas."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from costgraph.counting.accounting import Accounting
from costgraph.counting.accounting import accounting as find_accounting
from costgraph.hardware.machine import Machine
from costgraph.hardware.systems import System, with_levels
from costgraph.ir.program import Program
from costgraph.rewriting import pipeline
from costgraph.rewriting.pipeline import Pass

if TYPE_CHECKING:
    from costgraph.compiling.options import Passes
    from costgraph.timing.fidelity.apply import Calibrated

from costgraph.compiling.compiled import Compiled

Model = str | os.PathLike[str] | Mapping[str, Any] | Program
Hardware = str | os.PathLike[str] | Machine | System


def _tuner(convention: Accounting, timing: Calibrated | None) -> pipeline.Resolve:
    """Decides options that wait for a search, with all passes that run later."""

    def resolve(item: Pass, *, program: Program, system: System, later: tuple[Pass, ...]) -> Pass:
        from costgraph.compiling.tune import tuned

        item = item.prepared(program, system)

        def compiled(candidate: Pass | None) -> Compiled:
            passes = (*(() if candidate is None else (candidate,)), *later)
            made, trace = pipeline.run(program, passes, system, resolve)
            device = system.device
            return Compiled(
                made, device, convention, passes, trace, device, timing=timing, system=system
            )

        return tuned(item, program, system, compiled)

    return resolve


def compile(
    model: Model,
    hardware: Hardware,
    passes: Passes = "",
    *,
    accounting: str | Accounting = "exact",
    symbolic_hardware: bool = False,
    symbolic_model: bool = False,
    fidelity: str = "ideal",
    calibration: str | os.PathLike[str] | None = None,
    reserve: str | float | None = None,
    **options: Any,
) -> Compiled:
    """Compile a model for a machine, optionally through a pipeline of passes.

    Args:
        model: a shipped or hub name, a ``config.json`` (path, directory or
            parsed object) or a :class:`Program`.
        hardware: a shipped device or system by name, several of one (``8xh100``,
            ``2x8xh200``), a device with its host (``rtx-4090+i9-13900k``), the path of a
            TOML file, a :class:`Machine` or a :class:`System`.
        passes: pipeline text such as ``"fuse,quantize{weights=int4}"``, a pass, or a list of
            those.
        accounting: ``exact``, or a named convention such as ``survey``.
        symbolic_hardware: keep peaks and bandwidth as symbols (``F_bf16``,
            ``BW`` …) in the formulas.
        symbolic_model: keep model dimensions as symbols (``d``, ``L``, ``H`` …).
        fidelity: ``ideal`` (the roofline, a lower bound), ``calibrated`` (forms
            fitted on measured timings), or ``low``, ``median``, ``high``: the
            calibrated time at the 10, 50 and 90 % quantiles of its errors.
        calibration: a calibration file in place of the shipped one.
        reserve: memory that the driver and the framework keep, of what the device has
            for programs: byte, a text (``"2 GB"``) or a share (``"10%"``); default nothing.
        options: importer options (``weights``, ``activations``, ``kv``,
            ``mask``, ``logits``, ``quantization``), see
            :func:`costgraph.models.import_config`; and numbers for symbols of the
            program or of passes that are no size of a request (``K=20`` denoising
            steps, ``G=1024`` image tokens), which are then fixed for good.

    Raises:
        CostgraphError: anything that is wrong with the input, in one line.
    """
    from costgraph.compiling.options import fixing, passes_of, split_options
    from costgraph.hardware import load_system
    from costgraph.models import load_model

    convention = find_accounting(accounting)
    reading, values = split_options(options)
    if symbolic_model:
        reading["symbolic"] = True
    program = load_model(model, **reading)
    system = load_system(hardware)
    machine = with_levels(system).under(convention.device_figures).reserving(reserve)
    system = replace(system, device=machine)
    chosen = passes_of(passes)
    timing = None
    if fidelity != "ideal" or calibration is not None:
        from costgraph.timing.fidelity.asked import calibrated

        timing = calibrated(fidelity, machine, hardware, calibration)
    program, trace = pipeline.run(program, chosen, system, _tuner(convention, timing))
    # As they were written; those that a given program went through before are its own.
    chosen = trace.passes[len(trace.passes) - len(chosen) :]
    if values:
        program = fixing(Compiled(program, machine, convention, chosen, trace), values)
    shown = machine.symbolic() if symbolic_hardware else machine
    twin = None
    if not symbolic_model and not isinstance(model, Program):
        twin = partial(
            compile,
            model,
            hardware,
            chosen,  # with options decided: symbols decide none
            accounting=accounting,
            symbolic_hardware=symbolic_hardware,
            symbolic_model=True,
            fidelity=fidelity,
            calibration=calibration,
            reserve=reserve,
            **options,
        )
    return Compiled(program, shown, convention, chosen, trace, machine, twin, timing, system)
