"""The commands ``sweep`` and ``search``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from costgraph.cli import vocabulary
from costgraph.cli.output import interrupted
from costgraph.cli.values import print_json, whole
from costgraph.errors import InputError, clip

#: Rows that ``sweep`` prints.
SHOWN = 20

SWEEP = """\
Metrics over a grid of batch, lengths, devices and pipelines. Values: 1,2,4 or a range a:b (every
whole number), a:b:step, or a:b:xF (each the F-fold of the one before); b is included if a step
lands on it. ttft needs B, S; tpot needs B, T; the other metrics need B, S, N."""

SEARCH = """\
The best batch, device and pipeline under limits, and what stops each from being better. Every whole
batch counts: metrics that provably grow with the batch are bisected, others are tried one by one.
Limits: METRIC=VALUE, an upper end (for throughput a lower one) in seconds, bytes or token/s, with
units if wished (tpot=50ms, memory=80GB); memory=device, the default, is the device's capacity."""


def add_commands(commands: Any) -> None:
    """Register the commands."""
    _sweep_command(commands)
    _search_command(commands)


def _sweep_command(commands: Any) -> None:
    command = commands.add_parser(
        "sweep", help="metrics over a grid, as a table or a file", description=SWEEP
    )
    vocabulary.add_targets(command)
    for name, text in (
        ("B", "sequences (1)"),
        ("S", "prompt tokens"),
        ("N", "generated tokens"),
        ("T", "context of a decode step"),
    ):
        command.add_argument(f"-{name}", metavar="VALUES", help=text)
    vocabulary.add_values(command, "")
    command.add_argument("--metrics", metavar="M[,M]", help="default: all whose symbols are given")
    command.add_argument(
        "-o", "--output", metavar="FILE", help="write .zarr, .nc, .parquet or .csv; resumes"
    )
    command.add_argument("--force", action="store_true", help="replace an existing output")
    command.add_argument("--chunk", type=whole, metavar="POINTS", help="points of one block")
    command.add_argument(
        "--errors",
        choices=("raise", "nan"),
        default="raise",
        help="combinations that fail: stop (default), or leave them empty",
    )
    command.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a bar on standard error (default: on a terminal)",
    )
    command.set_defaults(run=_sweep)


def _search_command(commands: Any) -> None:
    command = commands.add_parser(
        "search", help="the best batch, device and pipeline under limits", description=SEARCH
    )
    vocabulary.add_targets(command)
    command.add_argument("--objective", default="throughput", metavar="M", help="(throughput)")
    command.add_argument(
        "--limit", action="append", default=[], metavar="M=VALUE", help="repeatable"
    )
    command.add_argument("--pareto", metavar="M,M", help="also the Pareto front of two metrics")
    command.add_argument(
        "--degrees",
        metavar="D[,D]",
        help="share the model among the devices of each system in every way: tp,pp,dp,ep,cp "
        "(pp opens micro too)",
    )
    command.add_argument("-B", metavar="LOW:HIGH", help="range of the batch, or one (1:65536)")
    command.add_argument("-S", metavar="S", help="prompt tokens (1024)")
    command.add_argument("-N", metavar="N", help="generated tokens (256)")
    command.add_argument("-T", metavar="T", help="context of tpot (by default the last step's)")
    vocabulary.add_values(command, "")
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=_search)


def _set_symbols(items: list[str]) -> dict[str, Sequence[int | float]]:
    from costgraph.asking.sweeping.ranges import parse_values

    found: dict[str, Sequence[int | float]] = {}
    for item in items:
        name, text = vocabulary.assignment(item, "--set")
        if name in ("B", "S", "N", "T"):
            raise InputError(f"--set {clip(item)}: use -{name}")
        if name in found:
            raise InputError(f"--set: {name} is given twice")
        found[name] = parse_values(text, f"--set {name}", whole=False)
    return found


def _one(values: Sequence[Any]) -> Any:
    """A list of one value as a scalar, so that it makes no dimension."""
    return values[0] if len(values) == 1 else values


def _sweep(arguments: argparse.Namespace) -> int:
    from costgraph.asking.sweeping.grid import preview, told_lines, write_told
    from costgraph.asking.sweeping.ranges import parse_values

    symbols: dict[str, Any] = {}
    for name in "BSNT":
        text = getattr(arguments, name)
        if text is None and name == "B":
            text = "1"
        if text is not None:
            symbols[name] = _one(parse_values(text, f"-{name}"))
    symbols |= {name: _one(values) for name, values in _set_symbols(arguments.set).items()}
    metrics = None
    if arguments.metrics is not None:
        metrics = [m.strip() for m in arguments.metrics.split(",")]
    about: dict[str, Any] = {
        "metrics": metrics,
        **vocabulary.conventions(arguments),
        "chunks": arguments.chunk,
        "progress": arguments.progress,
        "errors": arguments.errors,
        **symbols,
    }
    choices = (arguments.model, vocabulary.devices(arguments), vocabulary.pipelines(arguments))
    if arguments.output is None:
        _print_sweep(*preview(SHOWN, *choices, **about))
        return 0
    try:
        path, said = write_told(arguments.output, *choices, force=arguments.force, **about)
    except KeyboardInterrupt:
        return interrupted("; the same command continues the sweep")
    print(f"wrote {path}")
    for line in told_lines(said):
        print(line)
    return 0


def _print_sweep(data: Any, rows: int) -> None:
    """The first rows, with units, and how many there are."""
    from costgraph.asking.sweeping.export import columns, frames
    from costgraph.asking.sweeping.grid import told_lines
    from costgraph.showing.export.terminal import print_table

    data = data.squeeze()  # what has one value stands above the table
    frame = next(frames(data)).head(SHOWN)
    names = columns(data)
    varying = [n for n in names if n in data.sizes or n in data.data_vars]
    units = [str(data[name].attrs.get("units", "")) for name in varying]
    cells = [
        tuple(_cell(value, unit) for value, unit in zip(row, units, strict=True))
        for row in frame[varying].itertuples(index=False, name=None)
    ]
    fixed = ", ".join(f"{n}={data[n].item()}" for n in names if n not in varying)
    print_table(varying, cells, fixed)
    if rows > len(cells):
        print(f"… {rows} rows; -o FILE writes all of them")
    else:
        print(f"{rows} rows" if rows > 1 else "1 row")
    for line in told_lines(data.attrs):
        print(line)


def _cell(value: Any, unit: str) -> str:
    from costgraph.showing.export.table import seconds, si

    if isinstance(value, str):
        return value
    if value is True or value is False:
        return "yes" if value else "no"
    if value != value:
        return "–"
    if unit == "s":
        return seconds(float(value))
    if unit in ("byte", "FLOP", "token/s"):
        return si(float(value)) + ("B" if unit == "byte" else "")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _search(arguments: argparse.Namespace) -> int:
    from costgraph.asking.searching import search
    from costgraph.asking.sweeping.ranges import parse_values

    limits: dict[str, str] = {}
    for item in arguments.limit:
        metric, equals, value = item.partition("=")
        if not equals or not value.strip():
            raise InputError(f"--limit {clip(item)}: write METRIC=VALUE, e.g. tpot=50ms")
        if metric.strip() in limits:
            raise InputError(f"--limit: {metric.strip()} is given twice")
        limits[metric.strip()] = value.strip()
    symbols: dict[str, Any] = {}
    for name in "SNT":
        text = getattr(arguments, name)
        if text is not None:
            symbols[name] = _single(parse_values(text, f"-{name}"), f"-{name}")
    for name, values in _set_symbols(arguments.set).items():
        symbols[name] = _single(values, f"--set {name}")
    pareto = None
    if arguments.pareto is not None:
        pareto = tuple(m.strip() for m in arguments.pareto.split(","))
    result = search(
        arguments.model,
        vocabulary.devices(arguments),
        _shared(vocabulary.pipelines(arguments), arguments.degrees),
        objective=arguments.objective,
        limits=limits,
        pareto=pareto,
        B=None if arguments.B is None else _batches(arguments.B),
        **vocabulary.conventions(arguments),
        **symbols,
    )
    if arguments.json:
        print_json(result.to_dict(), result.setting.remarks)
    else:
        from costgraph.showing.export.search import search_text
        from costgraph.showing.export.terminal import width

        print(search_text(result, width()))
    return 0


def _shared(pipelines: list[str], degrees: str | None) -> list[str]:
    """The pipelines, each with its pass that shares the model, or a new one, of open degrees.

    Stages are opened with the groups that fill them, unless the pipeline says how many.

    Raises:
        InputError: a degree is no option of the pass, or the pipeline gives it.
    """
    if degrees is None:
        return pipelines
    from costgraph.passes import PASSES
    from costgraph.passes.parallel import Parallelize
    from costgraph.rewriting.pipeline import parse, text_of

    asked = [name.strip() for name in degrees.split(",")]
    names = [*asked, "micro"] if "pp" in asked and "micro" not in asked else asked
    fresh = parse(f"parallel{{{','.join(f'{name}=auto' for name in names)}}}", PASSES)

    def opened(item: Parallelize) -> Parallelize:
        given = [n for n in names if getattr(item, n) != getattr(Parallelize, n)]
        for name in given:
            if name in asked:
                raise InputError(f"--degrees {name}: the pipeline gives it: {item.spec()}")
        return replace(item, **{n: getattr(fresh[0], n) for n in names if n not in given})

    found = []
    for text in pipelines:
        passes = parse(text, PASSES) if text.strip() else ()
        if any(isinstance(p, Parallelize) for p in passes):
            made = tuple(opened(p) if isinstance(p, Parallelize) else p for p in passes)
        else:
            made = (*passes, *fresh)
        found.append(text_of(made))
    return found


def _single(values: Sequence[int | float], where: str) -> int | float:
    if len(values) != 1:
        raise InputError(f"{where}: give one value; sweep takes several")
    return values[0]


def _batches(text: str) -> int | tuple[int, int]:
    from costgraph.asking.sweeping.ranges import parse_values

    low, colon, high = text.partition(":")
    first = int(_single(parse_values(low, "-B"), "-B"))
    if not colon:
        return first
    return first, int(_single(parse_values(high, "-B"), "-B"))
