"""The commands ``sweep`` and ``search``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from costgraph.cli import vocabulary
from costgraph.cli.output import interrupted
from costgraph.cli.showing import Answer, Table, show, write_sources
from costgraph.cli.values import whole
from costgraph.errors import InputError, clip
from costgraph.ir.metrics import RANKED
from costgraph.setting import FOOT, SAID

#: Rows that ``sweep`` prints.
SHOWN = 20
#: Rows that it prints for programs.
MOST_PRINTED = 100_000
#: Columns that may be left out where there is little room, the first ones first.
_LESS = ("bytes", "flops", "throughput", "tpot", "ttft")

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
    vocabulary.add_values(command, "B=1", dict.fromkeys("BSNTG", vocabulary.VALUES), at=False)
    vocabulary.add_metrics(command, "all whose symbols are given")
    vocabulary.add_format(command, "csv", "latex")
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
    vocabulary.add_metric(command, RANKED, "throughput", "--objective")
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
    usual = "B=1:65536,S=1024,N=256,T=the last step's"
    vocabulary.add_values(command, usual, {"B": "LOW:HIGH"})
    vocabulary.add_format(command, "csv", "latex")
    command.set_defaults(run=_search)


def _one(values: Sequence[Any]) -> Any:
    """A list of one value as a scalar, so that it makes no dimension."""
    return values[0] if len(values) == 1 else values


def _sweep(arguments: argparse.Namespace) -> int:
    from costgraph.asking.sweeping.grid import told_lines, write_told

    symbols = {name: _one(found) for name, found in vocabulary.ranges(arguments).items()}
    metrics = vocabulary.metrics(arguments)
    about: dict[str, Any] = {
        "metrics": metrics,
        **vocabulary.conventions(arguments),
        "chunks": arguments.chunk,
        "progress": arguments.progress,
        "errors": arguments.errors,
        **{"B": 1, **symbols},
    }
    choices = (arguments.model, vocabulary.devices(arguments), vocabulary.pipelines(arguments))
    if arguments.output is None:
        return _print_sweep(arguments, choices, about)
    if arguments.format != "text":
        raise InputError("--format is of what is printed; the suffix of -o says a file's")
    if arguments.bib is not None:
        write_sources(arguments, vocabulary.every(arguments)())
    try:
        path, said = write_told(arguments.output, *choices, force=arguments.force, **about)
    except KeyboardInterrupt:
        return interrupted("; the same command continues the sweep")
    print(f"wrote {path}")
    for line in told_lines(said):
        print(line)
    return 0


def _print_sweep(
    arguments: argparse.Namespace, choices: tuple[Any, ...], about: dict[str, Any]
) -> int:
    """A sweep on standard output: its first rows as text, all of them for programs."""
    from costgraph.asking.sweeping.export import columns, frames
    from costgraph.asking.sweeping.grid import preview, told_lines

    how = arguments.format
    most = SHOWN if how == "text" else MOST_PRINTED
    data, rows = preview(most, *choices, **about)
    if how != "text" and rows > most:
        raise InputError(
            f"--format {how} prints at most {most} rows, not {rows}; -o FILE takes all"
        )

    def plain() -> dict[str, Any]:
        attributes = {str(k): v for k, v in data.attrs.items()}
        units = {str(n): str(v.attrs["units"]) for n, v in data.items() if "units" in v.attrs}
        told = {k: str(attributes.pop(k)).splitlines() for k in (*SAID, *FOOT) if k in attributes}
        # As of every command: cautions are all that must be said.
        if said := [line for k in SAID for line in told.get(k, ())]:
            told["cautions"] = said
        records = next(frames(data)).head(most).to_dict("records")
        return {**attributes, **told, "units": units, "rows": records}

    def table() -> Table:
        small = data.squeeze()  # what has one value stands above the table
        names = columns(small)
        varying = [n for n in names if n in small.sizes or n in small.data_vars]
        measured = [str(small[name].attrs.get("units", "")) for name in varying]
        frame = next(frames(small)).head(most)
        cells = [
            tuple(_cell(value, unit) for value, unit in zip(row, measured, strict=True))
            for row in frame[varying].itertuples(index=False, name=None)
        ]
        fixed = [
            *(f"{n}={small[n].item()}" for n in names if n not in varying),
            *str(small.attrs.get("reading", "")).splitlines(),
        ]
        return Table(varying, cells, [", ".join(fixed)], told_lines(small.attrs))

    def text() -> None:
        from costgraph.showing.export.terminal import print_table

        made = table()
        print_table(made.head, made.rows, ", ".join(made.title), _LESS)
        if rows > len(made.rows):
            print(f"… {rows} rows; -o FILE writes all of them, --format csv prints them")
        else:
            print(f"{rows} rows" if rows > 1 else "1 row")
        for line in made.foot:
            print(line)

    sources = vocabulary.every(arguments)
    return show(arguments, Answer(text, plain, "rows", table=table, sources=sources))


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

    limits: dict[str, str] = {}
    for item in arguments.limit:
        metric, equals, value = item.partition("=")
        if not equals or not value.strip():
            raise InputError(f"--limit {clip(item)}: write METRIC=VALUE, e.g. tpot=50ms")
        if metric.strip() in limits:
            raise InputError(f"--limit: {metric.strip()} is given twice")
        limits[metric.strip()] = value.strip()
    symbols = vocabulary.values(arguments, but="B")
    batches = vocabulary.text_of(arguments, "B")
    pareto = None
    if arguments.pareto is not None:
        pareto = tuple(m.strip() for m in arguments.pareto.split(","))
    result = search(
        arguments.model,
        vocabulary.devices(arguments),
        _shared(vocabulary.pipelines(arguments), arguments.degrees),
        objective=arguments.metric,
        limits=limits,
        pareto=pareto,
        B=None if batches is None else _batches(batches),
        **vocabulary.conventions(arguments),
        **symbols,
    )

    def text() -> None:
        from costgraph.showing.export.search import search_text
        from costgraph.showing.export.terminal import width

        print(search_text(result, width()))

    def paper() -> Table:
        from costgraph.showing.export.search import about, candidates

        return Table(*candidates(result), about(result))

    sources = vocabulary.every(arguments)
    answer = Answer(text, result.to_dict, "candidates", result.setting, paper, sources)
    return show(arguments, answer)


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
    first = int(_single(parse_values(low, "--batch"), "--batch"))
    if not colon:
        return first
    return first, int(_single(parse_values(high, "--batch"), "--batch"))
