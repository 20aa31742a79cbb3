"""Commands that fit calibrations and check them on the machine they run on."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costgraph.cli import vocabulary
from costgraph.cli.showing import Answer, show
from costgraph.cli.values import real, whole
from costgraph.errors import InputError, clip, many
from costgraph.progress import tell

if TYPE_CHECKING:
    from costgraph.timing.fidelity.calibration import Calibration
    from costgraph.timing.fidelity.fitting import Fitted
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
    vocabulary.add_format(command, "csv")
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
    vocabulary.add_format(command, "csv")
    command.set_defaults(run=_validate)


def _minutes(value: float) -> float:
    if not 0.02 <= value <= 60:
        raise InputError(f"--minutes must be from 0.02 to 60, not {value:g}")
    return value


def _calibrate(arguments: argparse.Namespace) -> int:
    if arguments.plot:
        from costgraph.files.writing import suffix_of

        suffix_of(arguments.plot, (".png", ".svg"), "--plot")
    if arguments.this_machine:
        return _this_machine(arguments)
    from costgraph.files.writing import write_whole
    from costgraph.hardware import load_hardware
    from costgraph.timing.fidelity.calibration import calibration_text
    from costgraph.timing.fidelity.fitting import fitted
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
    about = f"timings of {', '.join(map(str, arguments.tables))}"
    made, found = fitted(machine.name, studies, about)
    written = _plotted(arguments, made, studies)
    if arguments.output:
        written.append(write_whole(arguments.output, calibration_text(made).encode()))
    return _show(arguments, "", made, found, written)


def _show(
    arguments: argparse.Namespace,
    about: str,
    made: Calibration,
    found: Sequence[Fitted],
    written: Sequence[Path],
    more: Mapping[str, Any] | None = None,
) -> int:
    """Prints what was fitted, and which files were written."""
    from costgraph.showing.export.fitted import fitted_object, fitted_text

    def text() -> None:
        print("".join([f"{about}\n\n" if about else "", fitted_text(found)]))
        if written:
            print(f"wrote {' and '.join(map(str, written))}")

    def data() -> dict[str, Any]:
        return {
            "device": made.device,
            "provenance": made.provenance,
            **(more or {}),
            "fits": fitted_object(found),
            "written": [str(path) for path in written],
        }

    return show(arguments, Answer(text, data, "fits"))


def _plotted(arguments: argparse.Namespace, made: Calibration, studies: list[Study]) -> list[Path]:
    """The figure of ``--plot``, if one was asked for."""
    return [_plot(arguments.plot, made, studies)] if arguments.plot else []


def _plot(target: str, made: Calibration, studies: list[Study]) -> Path:
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
    return Path(target)


def _this_machine(arguments: argparse.Namespace) -> int:
    from costgraph.files.writing import write_whole
    from costgraph.timing.fidelity import measure
    from costgraph.timing.fidelity.asked import beside_of
    from costgraph.timing.fidelity.calibration import calibration_text
    from costgraph.timing.fidelity.fitting import fitted
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
    what = f"{made.library}, {many(made.threads, 'thread')}"
    rates = ", ".join(f"{t} {rate / 1e9:.1f} GFLOP/s" for t, rate in made.sheet.peaks.items())
    about = f"{what}: {rates}, memory {made.sheet.bandwidth / 1e9:.2f} GB/s (best reached)"
    studies = [study(t, {made.name: made.sheet}) for t in made.tables]
    calibration, found = fitted(made.name, studies, f"measured on this machine through {what}")
    texts = measure.device_text(made), calibration_text(calibration)
    written = _plotted(arguments, calibration, studies)
    for path, text in zip((target, beside_of(target)), texts, strict=True):
        written.append(write_whole(path, text.encode()))
    best = {
        "library": made.library,
        "threads": made.threads,
        "rates": dict(made.sheet.peaks),
        "bandwidth": made.sheet.bandwidth,
    }
    return _show(arguments, about, calibration, found, written, best)


def _library(name: str, threads: int | None) -> Library:
    """The library of a host to measure, with its threads set if they are given."""
    if threads is not None and not 1 <= threads <= 4096:
        raise InputError(f"--threads must be from 1 to 4096, not {threads}")
    if name == "torch":
        from costgraph.timing.fidelity.kernels_torch import Torch

        return Torch(threads)
    from costgraph.timing.fidelity.kernels import NumPy

    return NumPy(threads)


@contextmanager
def _steps() -> Iterator[Callable[[str, int], None]]:
    """A function of what begins and of how many steps there are, which a bar shows."""
    begun = count()
    yield lambda text, total: tell("measurements", next(begun), total)


def _this_gpu(arguments: argparse.Namespace, target: Path) -> int:
    """A calibration of the GPU that PyTorch finds, against the figures of ``--device``."""
    from costgraph.files.writing import write_whole
    from costgraph.hardware import load_hardware
    from costgraph.timing.fidelity import measure_torch
    from costgraph.timing.fidelity.calibration import calibration_text
    from costgraph.timing.fidelity.fitting import fitted
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
    calibration, found = fitted(machine.name, studies, what)
    written = _plotted(arguments, calibration, studies)
    written.append(write_whole(target, calibration_text(calibration).encode()))
    return _show(arguments, "", calibration, found, written)


def _validate(arguments: argparse.Namespace) -> int:
    from costgraph.hardware import load_hardware
    from costgraph.showing.validation import validate, validation_text

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
        found = validate(arguments.on, seconds, library, step)
    answer = Answer(lambda: print(validation_text(found)), found.to_dict, "points")
    return show(arguments, answer)
