"""Commands that fit calibrations and check them on the machine they run on."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costgraph.cli.values import real, whole
from costgraph.errors import InputError, clip

if TYPE_CHECKING:
    from costgraph.timing.fidelity.calibration import Calibration
    from costgraph.timing.fidelity.kernels import Library
    from costgraph.timing.fidelity.study import Study


def add_commands(commands: Any) -> None:
    """Add ``calibrate`` and ``validate``."""
    command = commands.add_parser(
        "calibrate",
        help="fit the calibrated forms to timings, or to this machine",
        description="Fit the forms to tables of timings (columns: docs/fidelity.md), or measure "
        "this machine. Prints parameters with their uncertainty and errors on unseen shapes.",
    )
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="tables", nargs="+", metavar="CSV", help="tables")
    source.add_argument("--this-machine", action="store_true", help="measure it")
    command.add_argument(
        "--device", metavar="NAME", help="device of the timings, or this machine's GPU"
    )
    command.add_argument(
        "--library", choices=("numpy", "torch"),
        help="what is measured with --this-machine (numpy); torch with --device: its GPU",
    )  # fmt: skip
    command.add_argument(
        "--threads", type=whole, metavar="N", help="threads of the library (its own)"
    )
    command.add_argument("-o", "--output", metavar="FILE", help="where to write the result")
    command.add_argument("--minutes", type=real, default=1.0, help="time to measure (1)")
    command.add_argument("--plot", metavar="FILE", help="measured over predicted, PNG or SVG")
    command.set_defaults(run=_calibrate)
    command = commands.add_parser(
        "validate",
        help="measure a small transformer here and compare with predictions",
        description="Runs a small decoder over batches and contexts, and prints measured time "
        "against the roofline and the calibrated formula of the device file.",
    )
    command.add_argument("--on", required=True, metavar="FILE", help="file of calibrate")
    command.add_argument(
        "--library", choices=("numpy", "torch"), help="what runs it (what FILE was measured with)"
    )
    command.add_argument(
        "--threads", type=whole, metavar="N", help="threads of the library (as FILE)"
    )
    command.add_argument("--minutes", type=real, default=1.0, help="time to measure (1)")
    command.set_defaults(run=_validate)


def _minutes(value: float) -> float:
    if not 0.02 <= value <= 60:
        raise InputError(f"--minutes must be from 0.02 to 60, not {value:g}")
    return value


def _calibrate(arguments: argparse.Namespace) -> int:
    if arguments.this_machine:
        return _this_machine(arguments)
    from costgraph.files.writing import write_whole
    from costgraph.hardware import load_hardware
    from costgraph.timing.fidelity.calibration import calibration_text
    from costgraph.timing.fidelity.relatives import sheet_of
    from costgraph.timing.fidelity.study import study
    from costgraph.timing.fidelity.table import read_table

    if not arguments.device:
        raise InputError("calibrate --from needs --device NAME (or a device's TOML file)")
    machine = load_hardware(arguments.device)
    sheet = sheet_of(machine)
    studies = []
    for path in arguments.tables:
        table = read_table(path)
        studies.append(study(table, {str(h): sheet for h in set(table.columns["hw"])}))
    kinds = [s.kind for s in studies]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise InputError(f"two tables of kind {kind!r}: put their rows into one file")
    made = _fitted(machine.name, studies, f"timings of {', '.join(map(str, arguments.tables))}")
    if arguments.plot:
        _plot(arguments.plot, made, studies)
    if arguments.output:
        write_whole(arguments.output, calibration_text(made).encode())
    return 0


def _fitted(name: str, studies: list[Study], provenance: str) -> Calibration:
    """Fit every study, print what came out, and return the calibration."""
    import numpy as np

    from costgraph.showing.export.table import plain_table
    from costgraph.timing.fidelity.calibration import Calibration, Fit
    from costgraph.timing.fidelity.fit import errors, fit
    from costgraph.timing.fidelity.study import crossfit, fitted_for, form_model

    fits = {}
    for s in studies:
        if len(s.table) < 2 * len(s.form.parameters):
            raise InputError(
                f"{len(s.table)} rows of kind {s.kind!r} are too few for "
                f"{len(s.form.parameters)} parameters: give at least twice as many"
            )
        labels = {**s.labels, "group": s.labels["variant"], "device": s.labels["shared"]}
        s = replace(s, labels=labels)
        made = fit(form_model(s.form), s.form.parameters, s.f, s.seconds, labels, starts=3)
        unseen, _ = crossfit(s)
        print(f"{s.kind}: {s.form.text}\n")
        for variant in np.unique(s.labels["variant"]):
            m = s.labels["variant"] == variant
            values, stderr = fitted_for(s, made, m)
            mean, median = errors(unseen[m], s.seconds[m])
            low, mid, high = np.quantile(s.seconds[m] / unseen[m], (0.1, 0.5, 0.9))
            held = {"rows": float(m.sum()), "mean": mean, "median": median,
                    "q10": float(low), "q50": float(mid), "q90": float(high)}  # fmt: skip
            fits[s.kind, str(variant)] = Fit(s.kind, str(variant), values, held, stderr)
            rows = [(p.name, f"{values[p.name]:.4g}", _uncertainty(stderr[p.name]), p.meaning)
                    for p in s.form.parameters]  # fmt: skip
            print(plain_table(("parameter", "value", "error", f"{variant}"), rows))
            print(
                f"unseen shapes: {mean:.1f} % mean, {median:.1f} % median error over "
                f"{int(m.sum())} rows; 80 % of times are {low:.2f} to {high:.2f} of predicted\n"
            )
    return Calibration(name, provenance, fits)


def _uncertainty(error: float) -> str:
    """A relative standard error, or that the rows say nothing about the parameter."""
    return f"±{100 * error:.0f} %" if error < 2 else "not determined"


def _plot(target: str, made: Calibration, studies: list[Study]) -> None:
    """Measured over predicted time against measured time."""
    from costgraph.files.writing import suffix_of, whole_file
    from costgraph.timing.fidelity.forms import value

    suffix = suffix_of(target, (".png", ".svg"), "--plot")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install 'costgraph[calibrate]'") from None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for s in studies:
        for variant in sorted(set(s.labels["variant"])):
            own = s.where(s.labels["variant"] == variant)
            fit = made.fits[s.kind, str(variant)]
            predicted = value(own.form.build(own.f, dict(fit.values)))
            axes.loglog(own.seconds, own.seconds / predicted, ".", label=f"{s.kind} {variant}")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("measured seconds")
    axes.set_ylabel("measured / predicted")
    axes.legend()
    with whole_file(target) as path:
        figure.savefig(path, format=suffix[1:])


def _this_machine(arguments: argparse.Namespace) -> int:
    from costgraph.files.writing import write_whole
    from costgraph.timing.fidelity import measure
    from costgraph.timing.fidelity.apply import beside_of
    from costgraph.timing.fidelity.calibration import calibration_text
    from costgraph.timing.fidelity.study import study

    target = Path(arguments.output or "this-machine.toml")
    if target.suffix != ".toml" or not os.path.isdir(target.parent):
        raise InputError(
            f"{clip(str(target))}: give a file that ends in .toml in a folder there is"
        )
    if arguments.device and arguments.library == "torch":
        return _this_gpu(arguments, target)
    if arguments.device:
        raise InputError("--this-machine --device measures a GPU: add --library torch")
    seconds = 60 * _minutes(arguments.minutes)
    library = _library(arguments.library or "numpy", arguments.threads)
    with _steps() as step:
        made = measure.measure(library, 0.8 * seconds, step)
    what = f"{made.library}, {_count(made.threads, 'thread')}"
    rates = ", ".join(f"{t} {rate / 1e9:.1f} GFLOP/s" for t, rate in made.sheet.peaks.items())
    print(f"{what}: {rates}, memory {made.sheet.bandwidth / 1e9:.2f} GB/s (best reached)\n")
    studies = [study(t, {made.name: made.sheet}) for t in made.tables]
    fitted = _fitted(made.name, studies, f"measured on this machine through {what}")
    if arguments.plot:
        _plot(arguments.plot, fitted, studies)
    device, calibration = measure.device_text(made), calibration_text(fitted)
    write_whole(target, device.encode())
    write_whole(beside_of(target), calibration.encode())
    print(f"wrote {target} and {beside_of(target)}")
    return 0


def _library(name: str, threads: int | None) -> Library:
    """The library of a host to measure, with its threads set if they are given."""
    if threads is not None and not 1 <= threads <= 4096:
        raise InputError(f"--threads must be from 1 to 4096, not {threads}")
    if name == "torch":
        from costgraph.timing.fidelity.kernels_torch import Torch

        return Torch(threads)
    from costgraph.timing.fidelity.kernels import NumPy

    return NumPy(threads)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


@contextmanager
def _steps() -> Iterator[Callable[[str, int], None]]:
    """A progress bar, as a function of what begins and of how many steps there are."""
    from rich.progress import Progress

    from costgraph.showing.export.terminal import console

    with Progress(console=console(), transient=True) as bar:
        task = bar.add_task("measuring", total=None)

        def step(text: str, total: int) -> None:
            bar.update(task, advance=1, total=total, description=text)

        yield step


def _this_gpu(arguments: argparse.Namespace, target: Path) -> int:
    """A calibration of the GPU that PyTorch finds, against the figures of ``--device``."""
    from costgraph.files.writing import write_whole
    from costgraph.hardware import load_hardware
    from costgraph.timing.fidelity import measure_torch
    from costgraph.timing.fidelity.calibration import calibration_text
    from costgraph.timing.fidelity.kernels_torch import load_torch
    from costgraph.timing.fidelity.relatives import sheet_of
    from costgraph.timing.fidelity.study import study

    machine = load_hardware(arguments.device)
    torch = load_torch()
    if not torch.cuda.is_available():
        raise InputError("--library torch --device: PyTorch finds no GPU here")
    sheet = sheet_of(machine)
    cache = sheet.l2 if math.isfinite(sheet.l2) else 0.0
    seconds = 60 * _minutes(arguments.minutes) / 120
    with _steps() as step:
        made = measure_torch.tables(torch, machine.name, seconds, cache, step)
    studies = [study(t, {machine.name: sheet}) for t in made]
    what = f"PyTorch {torch.__version__}, CUDA graphs, {torch.cuda.get_device_name()}"
    fitted = _fitted(machine.name, studies, what)
    if arguments.plot:
        _plot(arguments.plot, fitted, studies)
    write_whole(target, calibration_text(fitted).encode())
    print(f"wrote {target}")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from costgraph.hardware import load_hardware
    from costgraph.showing.validation import validate

    seconds = 60 * _minutes(arguments.minutes)
    machine = load_hardware(arguments.on)
    if machine.kind != "cpu":
        raise InputError(
            f"validate measures this machine's CPU, and {machine.name!r} is of kind "
            f"{machine.kind!r}: give the file that calibrate --this-machine wrote"
        )
    measured = machine.figures["memory.bandwidth"].source
    name = arguments.library or ("torch" if "PyTorch" in measured else "numpy")
    cores, threads = machine.topology.cores, arguments.threads
    if threads is None and cores is not None:
        threads = int(cores)
    try:
        library = _library(name, threads)
    except InputError:
        if arguments.threads is not None:
            raise
        library = _library(name, None)
    with _steps() as step:
        text = validate(arguments.on, seconds, library, step)
    print(text)
    return 0
