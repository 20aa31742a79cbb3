"""The commands ``draw`` and ``plot``: pictures of graphs and figures of formulas."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from costgraph.cli import vocabulary
from costgraph.cli.values import remark
from costgraph.errors import InputError, clip, nearest, unknown
from costgraph.ir.metrics import COUNTED
from costgraph.progress import counted, tell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from costgraph.compiling.compiled import Compiled

KINDS = ("roofline", "curve", "map", "breakdown", "waterfall", "ablation", "pareto", "sizes")
SURVEY = tuple(f"survey-fig{n}" for n in (5, 6, 7, 8, 9, 11, 16, 18, 19, 20))
#: A device for pictures of graphs without times: passes need to know one.
_ANY_DEVICE = "a6000"
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

PLOT_EPILOG = """\
kinds:
  roofline   operations under the roofs of a device; with --passes, before and after
  curve      --metric over one symbol, regimes shaded; --passes is repeatable
  map        which resource takes the most time, over two symbols (--over B,T); with several \
--passes which of them is best
  breakdown  time by operation kind and memory by use, stacked, over B, T or S
  waterfall  what each pass of a pipeline adds to the latency
  ablation   what leaving out each pass of a pipeline costs
  pareto     throughput against time per token; --on and --passes are repeatable
  sizes      --metric over the model's parameters; --passes is repeatable
  survey-fig5 … survey-fig20   figures of the survey arXiv 2402.16363 (no model)
"""


def add_commands(commands: Any) -> None:
    """Adds ``draw`` and ``plot`` to the command line."""
    _draw_command(commands)
    _plot_command(commands)


def _output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="the suffix names the format"
    )


def _draw_command(commands: Any) -> None:
    from costgraph.cli.values import whole

    command = commands.add_parser(
        "draw",
        help="a picture of the graph",
        description="Draw a model's graph: .svg .png .pdf .html (these need Graphviz), .dot, "
        ".mmd (Mermaid), .json and .graphml (for networkx).",
    )
    vocabulary.add_model(command)
    vocabulary.add_device(command, required=False)
    vocabulary.add_pipeline(command)
    vocabulary.add_conventions(command)
    command.add_argument(
        "--level", default="op",
        help="op (every operation, default), layer (repeated parts as one) or model (phases)",
    )  # fmt: skip
    command.add_argument("--phase", metavar="NAME", help="whose step, e.g. prefill or decode")
    command.add_argument(
        "--diff", action="store_true", help="what each pass erased, created, changed and kept"
    )
    command.add_argument(
        "--step", type=whole, metavar="K", help="with --diff: only pass K as written, from 1"
    )
    vocabulary.add_values(command, "B=1")
    _output(command)
    command.set_defaults(run=_draw)


def _draw(arguments: argparse.Namespace) -> int:
    from costgraph.compiling.breakdown import check_part
    from costgraph.files.writing import suffix_of
    from costgraph.showing.draw import SUFFIXES, draw

    suffix_of(arguments.output, SUFFIXES, "drawing")
    given = vocabulary.values(arguments)
    if given and arguments.on is None:
        raise InputError(f"draw: times at {', '.join(given)} need --on HARDWARE")
    if arguments.step is not None and not arguments.diff:
        raise InputError("draw: --step needs --diff")
    steps = "compiled, drawn, laid out"
    tell(steps, 0, 3)
    compiled = vocabulary.compiled(arguments, device=arguments.on or _ANY_DEVICE)
    tell(steps, 1, 3)
    if given:
        program = compiled.program
        one = program.phase(arguments.phase) if arguments.phase else program.phase_for(given)
        check_part(compiled, program.phases if arguments.level == "model" else (one,), given)
    drawing = draw(
        compiled,
        level=arguments.level,
        phase=arguments.phase,
        diff=arguments.diff,
        step=arguments.step,
        device=arguments.on is not None,
        **given,
    )
    tell(steps, 2, 3)
    path = drawing.save(arguments.output)
    untimed = arguments.on is not None and not given and not arguments.diff
    sizes = "no sizes were given, so nothing has a time: give --batch, and --context or --prompt"
    remark([*compiled.setting.remarks, *([sizes] if untimed else [])])
    print(f"wrote {path}")
    return 0


def _plot_command(commands: Any) -> None:
    command = commands.add_parser(
        "plot",
        help=f"a figure: {', '.join(KINDS)}",
        description="Draw a figure as .svg, .pdf or .png. Needs the extra 'plot' (matplotlib).",
        epilog=PLOT_EPILOG,
    )
    command.add_argument("kind", metavar="KIND", help="see below")
    vocabulary.add_model(command, nargs="?")
    vocabulary.add_places(command)
    command.add_argument(
        "--metric", choices=COUNTED, metavar="M",
        help=f"{', '.join(COUNTED)} (tpot, or latency where there is none)",
    )  # fmt: skip
    command.add_argument("--over", metavar="SYMBOL", help="B, T, S, N, BW, F_bf16 …; a map: B,T")
    command.add_argument("--from", dest="lower", metavar="X", help="start of the range")
    command.add_argument("--to", dest="upper", metavar="X", help="end of the range")
    command.add_argument("--linear", action="store_true", help="linear axes (curve)")
    command.add_argument("--phase", help="prefill or decode; by what is given")
    command.add_argument("--dtypes", default="", help="further roofs, e.g. int8,fp8 (roofline)")
    command.add_argument("--width", default="slide", help="slide (16:9, default) or column")
    vocabulary.add_values(command, "B=1", dict.fromkeys("BSNTG", vocabulary.SPAN))
    _output(command)
    command.set_defaults(run=_plot)


def _plot(arguments: argparse.Namespace) -> int:
    from costgraph.files.writing import suffix_of

    kind = arguments.kind
    if kind not in (*KINDS, *SURVEY):
        raise InputError(f"plot: unknown kind {clip(kind)}{nearest(kind, (*KINDS, *SURVEY))}")
    from costgraph.showing import plot

    suffix_of(arguments.output, plot.SUFFIXES, "figure")
    if kind in SURVEY:
        figure = plot.survey_figure(kind, arguments.width)
    else:
        if arguments.model is None:
            raise InputError(f"plot {kind} needs a model")
        arguments.devices = vocabulary.devices(arguments)
        arguments.pipelines = vocabulary.pipelines(arguments)
        if not arguments.devices:
            raise InputError(f"plot {kind} needs --on HARDWARE")
        _ranged(arguments)
        arguments.told = {}
        figure = _MAKERS[kind](arguments, vocabulary.values(arguments))
        remark(arguments.told)
    print(f"wrote {plot.save(figure, arguments.output)}")
    return 0


def _ranged(arguments: argparse.Namespace) -> None:
    """Symbols from one value to another, ``-T 128:8192``, are what the figure runs over.

    Raises:
        InputError: the kind runs over none, or over another number of them; one is given twice.
    """
    most = {"curve": 1, "breakdown": 1, "map": 2}.get(arguments.kind, 0)
    found = {}
    for letter, (name, _) in vocabulary.SIZES.items():
        text = getattr(arguments, name)
        if text is not None and ":" in text:
            found[letter] = text.split(":")
            setattr(arguments, name, None)
    for item in [item for item in arguments.set if ":" in item]:
        name, text = vocabulary.assignment(item, "--set")
        if name in found:
            raise InputError(f"--set: {clip(name)} is given twice")
        found[name] = text.split(":")
        arguments.set.remove(item)
    if not found:
        return
    for name in found.keys() & vocabulary.values(arguments).keys():
        raise InputError(f"plot {arguments.kind}: {clip(name)} is given twice")
    if len(found) != most or any(len(ends) != 2 for ends in found.values()):
        takes = {1: "one range, -T 128:8192", 2: "two ranges, -B 1:512 -T 128:8192"}
        said = takes.get(most, "no range")
        raise InputError(f"plot {arguments.kind} takes {said}, not {', '.join(found)}")
    if any(getattr(arguments, name) is not None for name in ("over", "lower", "upper")):
        raise InputError("plot: a range says what --over, --from and --to say: leave them out")
    arguments.over = ",".join(found)
    arguments.lower, arguments.upper = (
        ",".join(ends[i].strip() for ends in found.values()) for i in (0, 1)
    )


def _compiled(
    arguments: argparse.Namespace, passes: str, device: str = "", symbolic: bool = False
) -> Compiled:
    made = vocabulary.compiled(arguments, passes, device or arguments.devices[0], symbolic)
    arguments.told |= dict.fromkeys(made.setting.remarks)
    return made


def _single(arguments: argparse.Namespace) -> str:
    """The only pipeline, for kinds that take one."""
    if len(arguments.pipelines) > 1 or len(arguments.devices) > 1:
        raise InputError(f"plot {arguments.kind} takes one --on and one --passes")
    return str(arguments.pipelines[0])


def _phase(arguments: argparse.Namespace, compiled: Compiled, given: dict[str, Any]) -> str:
    """The phase that was asked for, or the one whose sizes were given; all play a part in it."""
    from costgraph.compiling.breakdown import check_part

    program = compiled.program
    one = program.phase(arguments.phase) if arguments.phase else program.phase_for(given)
    check_part(compiled, (one,), given)
    return one.name


def _roofline(arguments: argparse.Namespace, given: dict[str, Any]) -> Figure:
    from costgraph.showing.plot import roofline

    passes = _single(arguments)
    before = _compiled(arguments, "")
    after = _compiled(arguments, passes) if passes else None
    dtypes = tuple(d.strip() for d in arguments.dtypes.split(",") if d.strip())
    phase = _phase(arguments, after or before, given)
    return roofline(before, phase, after=after, dtypes=dtypes, width=arguments.width, **given)


def _is_rate(name: str) -> bool:
    return name in ("BW", "M") or name.startswith("F_")


def _curve(arguments: argparse.Namespace, given: dict[str, Any]) -> Figure:
    from costgraph.showing.plot import curve

    if len(arguments.devices) > 1:
        raise InputError("plot curve takes one --on")
    over = arguments.over or "B"
    choices = {
        passes or "no passes": _compiled(arguments, passes, symbolic=_is_rate(over))
        for passes in counted(arguments.pipelines, "pipelines compiled")
    }
    first = next(iter(choices.values()))
    metric = arguments.metric or ("tpot" if "tpot" in first.metrics else "latency")
    figures = _figures(first, over)
    known = [s.name for s in getattr(first, metric).symbols]
    if over not in (*known, *figures):
        raise unknown(f"plot curve: {metric}", over, known)
    lower, upper = _range(arguments, over, figures)
    return curve(
        choices, over, lower, upper, metric=metric, log=not arguments.linear,
        width=arguments.width, **given,
    )  # fmt: skip


def _figures(compiled: Compiled, *over: str) -> dict[str, float]:
    """The device's figures by symbol, where one of them is what a figure runs over."""
    if not any(map(_is_rate, over)):
        return {}
    machine = compiled.bound or compiled.machine
    return {s.name: float(v) for s, v in machine.bindings().items()}


def _range(arguments: argparse.Namespace, over: str, values: dict[str, Any]) -> tuple[float, float]:
    """The range of one symbol from the command line, or a usual one."""
    usual = {"B": (1.0, 512.0), "T": (128.0, 32768.0), "S": (16.0, 8192.0), "N": (2.0, 4096.0)}
    ends = usual.get(over)
    if over in values and ends is None:
        ends = float(values[over]) / 8, float(values[over]) * 8
    lower, upper = ends or (None, None)
    if arguments.lower is not None:
        lower = _number("--from", arguments.lower)
    if arguments.upper is not None:
        upper = _number("--to", arguments.upper)
    if lower is None or upper is None:
        known = [*usual, *values]
        raise InputError(
            f"plot: no range of {clip(over)} is usual: give --from and --to"
            f"{nearest(over, known) if len(over) > 1 else ''}"
        )
    return lower, upper


def _number(where: str, text: str) -> float:
    from costgraph.number import positive

    return float(positive(text, where))


def _map(arguments: argparse.Namespace, given: dict[str, Any]) -> Figure:
    from costgraph.showing.plot import choice_map, regime_map

    several = len(arguments.pipelines) > 1
    if several and len(arguments.devices) > 1:
        raise InputError("plot map takes one --on")
    passes = str(arguments.pipelines[0]) if several else _single(arguments)
    over = (arguments.over or ("B,S" if arguments.metric == "ttft" else "B,T")).split(",")
    if len(over) != 2:
        raise InputError(f"plot map: --over takes two symbols, such as B,T, not {arguments.over!r}")
    compiled = _compiled(arguments, passes, symbolic=any(map(_is_rate, over)))
    usual = "ttft" if "S" in over else "tpot"
    metric = arguments.metric or (usual if usual in compiled.metrics else "latency")
    figures = _figures(compiled, *over)
    ends = []
    for index, name in enumerate(over):
        part = argparse.Namespace(
            lower=_part(arguments.lower, index), upper=_part(arguments.upper, index)
        )
        ends.append(_range(part, name, figures))
    if several:
        if figures:
            raise InputError("plot map: with several --passes it is over sizes, such as B,T")
        choices = {p or "no passes": _compiled(arguments, p) for p in arguments.pipelines}
        return choice_map(
            choices, over[0], over[1], ends[0], ends[1], metric=metric, width=arguments.width,
            **given,
        )  # fmt: skip
    return regime_map(
        compiled, over[0], over[1], ends[0], ends[1], metric=metric, width=arguments.width, **given
    )


def _part(text: str | None, index: int) -> str | None:
    """The ``index``-th of the values for two symbols."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2:
        raise InputError(f"plot map: ranges take two numbers, such as 1,128, not {clip(text)}")
    return parts[index]


def _breakdown(arguments: argparse.Namespace, given: dict[str, Any]) -> Figure:
    from costgraph.showing.plot import breakdown

    over = arguments.over or "B"
    lower, upper = _range(arguments, over, {})
    if upper == 0.0:
        raise InputError(f"a breakdown runs over B, T or S, not {clip(over)}")
    if arguments.upper is None:
        upper = {"B": 64.0}.get(over, upper)
    points = [2**k for k in range(41) if lower <= 2**k <= upper][-12:]
    compiled = _compiled(arguments, _single(arguments))
    values: dict[str, Any] = {"B": 1, **given, over: 1}
    phase = _phase(arguments, compiled, values)
    del values[over]
    return breakdown(compiled, over, points, phase=phase, width=arguments.width, **values)


def _waterfall(arguments: argparse.Namespace, given: dict[str, Any]) -> Figure:
    from costgraph.asking.comparison import compare
    from costgraph.showing.plot import ablation, waterfall

    table = compare(
        arguments.model, arguments.devices[0], ["", _single(arguments)],
        **vocabulary.conventions(arguments), **given,
    )  # fmt: skip
    arguments.told |= dict.fromkeys(table.setting.remarks)
    figure = waterfall if arguments.kind == "waterfall" else ablation
    return figure(table, 1, width=arguments.width)


def _pareto(arguments: argparse.Namespace, given: dict[str, Any]) -> Figure:
    from costgraph.showing.plot import pareto

    choices = [
        _compiled(arguments, passes, device)
        for device in arguments.devices
        for passes in arguments.pipelines
    ]
    if len(choices) > 7:
        raise InputError(f"{len(choices)} lines are more than the 7 that can be told apart")
    if "B" in given:
        raise InputError("plot pareto: its lines run over the batch; leave --batch out")
    return pareto(choices, _BATCHES, width=arguments.width, **given)


def _sizes(arguments: argparse.Namespace, given: dict[str, Any]) -> Figure:
    from costgraph.showing.plot import sizes

    if len(arguments.devices) > 1:
        raise InputError("plot sizes takes one --on")
    choices = [_compiled(arguments, passes) for passes in arguments.pipelines]
    metric = arguments.metric or ("tpot" if "tpot" in choices[0].metrics else "latency")
    return sizes(choices, metric=metric, width=arguments.width, **given)


_MAKERS = {
    "roofline": _roofline,
    "curve": _curve,
    "map": _map,
    "breakdown": _breakdown,
    "waterfall": _waterfall,
    "ablation": _waterfall,
    "pareto": _pareto,
    "sizes": _sizes,
}
