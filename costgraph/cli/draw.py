"""The commands ``draw`` and ``plot``: pictures of graphs and figures of formulas."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from costgraph.errors import InputError, clip, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from costgraph.api import Compiled

KINDS = ("roofline", "curve", "map", "breakdown", "waterfall", "pareto")
SURVEY = tuple(f"survey-fig{n}" for n in (5, 6, 7, 8, 9, 11, 16, 18, 19, 20))
METRICS = ("ttft", "tpot", "latency", "throughput", "memory", "flops", "bytes")
#: A device for pictures of graphs without times: passes need to know one.
_ANY_DEVICE = "a6000"
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

DRAW_EPILOG = """\
examples:
  costgraph draw llama-2-7b -o graph.svg
      every operation of a forward step, with symbolic shapes
  costgraph draw llama-2-7b --on a6000 --batch 1 --context 2048 -o decode.svg
      coloured by what bounds each operation, sized by its share of the time
  costgraph draw llama-3-70b --passes fuse,speculative --diff -o diff.html
      what each pass erased, created, changed and kept
"""
PLOT_EPILOG = """\
kinds:
  roofline   operations under the roofs of a device; with --passes, before and after
  curve      --metric over one symbol, regimes shaded; --passes is repeatable
  map        which resource takes the most time, over two symbols (--over B,T)
  breakdown  time by operation kind and memory by use, stacked, over B, T or S
  waterfall  what each pass of a pipeline adds to the latency
  pareto     throughput against time per token; --on and --passes are repeatable
  survey-fig5 … survey-fig20   figures of the survey arXiv 2402.16363 (no model)

examples:
  costgraph plot roofline llama-2-7b --on a6000 --prompt 2048 --passes fuse -o roofline.svg
  costgraph plot curve llama-3-70b --on h100 --metric ttft --over S --to 8192 -o ttft.pdf
  costgraph plot map llama-3-70b --on h100 --passes fuse --over B,T --to 4096,131072 -o map.svg
  costgraph plot survey-fig7 -o fig7.svg
"""


def add_picture_commands(commands: Any) -> None:
    """Adds ``draw`` and ``plot`` to the command line."""
    _draw_command(commands)
    _plot_command(commands)


def _workload(command: argparse.ArgumentParser) -> None:
    from costgraph.cli.values import add_fidelity, whole

    command.add_argument("--batch", type=whole, metavar="B", help="sequences (1)")
    command.add_argument("--prompt", type=whole, metavar="S", help="prompt tokens")
    command.add_argument("--context", type=whole, metavar="T", help="attended tokens")
    command.add_argument("--accounting", default="exact", help="exact (default) or survey")
    add_fidelity(command)
    command.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="the suffix names the format"
    )


def _draw_command(commands: Any) -> None:
    command = commands.add_parser(
        "draw",
        help="a picture of the graph",
        description="Draw a model's graph: .svg .png .pdf .html (these need Graphviz), .dot, "
        ".mmd (Mermaid), .json and .graphml (for networkx).",
        epilog=DRAW_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", help="shipped or hub name, config.json, or its directory")
    command.add_argument("--on", metavar="HARDWARE", help="device or TOML file, for times")
    command.add_argument("--passes", default="", metavar="P", help="a pipeline")
    command.add_argument(
        "--level", default="op",
        help="op (every operation, default), layer (repeated parts as one) or model (phases)",
    )  # fmt: skip
    command.add_argument("--phase", metavar="NAME", help="whose step, e.g. prefill or decode")
    command.add_argument(
        "--diff", action="store_true", help="what each pass erased, created, changed and kept"
    )
    command.add_argument(
        "--step", type=int, metavar="K", help="with --diff: only pass K as written, from 1"
    )
    _workload(command)
    command.set_defaults(run=_draw)


def _draw(arguments: argparse.Namespace) -> int:
    from costgraph.api import compile
    from costgraph.draw import SUFFIXES, draw
    from costgraph.export.files import suffix_of

    suffix_of(arguments.output, SUFFIXES, "drawing")
    timed = any(v is not None for v in (arguments.batch, arguments.context, arguments.prompt))
    if timed and arguments.on is None:
        raise InputError("draw: --batch, --context and --prompt need --on HARDWARE")
    if arguments.batch is not None and arguments.context is None and arguments.prompt is None:
        raise InputError("draw: --batch needs --context T (decode) or --prompt S (prefill)")
    if arguments.step is not None and not arguments.diff:
        raise InputError("draw: --step needs --diff")
    compiled = compile(
        arguments.model,
        arguments.on or _ANY_DEVICE,
        arguments.passes,
        accounting=arguments.accounting,
        fidelity=arguments.fidelity,
    )
    drawing = draw(
        compiled,
        level=arguments.level,
        phase=arguments.phase,
        diff=arguments.diff,
        step=arguments.step,
        B=arguments.batch,
        T=arguments.context,
        S=arguments.prompt,
    )
    print(f"wrote {drawing.save(arguments.output)}")
    return 0


def _plot_command(commands: Any) -> None:
    from costgraph.cli.values import whole

    command = commands.add_parser(
        "plot",
        help="a figure: roofline, curve, map, breakdown, waterfall, pareto",
        description="Draw a figure as .svg, .pdf or .png. Needs the extra 'plot' (matplotlib).",
        epilog=PLOT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("kind", metavar="KIND", help="see below")
    command.add_argument("model", nargs="?", help="shipped or hub name, config.json, directory")
    command.add_argument(
        "--on", action="append", default=[], metavar="HARDWARE", help="device or TOML file"
    )
    command.add_argument("--passes", action="append", default=[], metavar="P", help="a pipeline")
    command.add_argument("--metric", help=f"{', '.join(METRICS)} (tpot)")
    command.add_argument("--over", metavar="SYMBOL", help="B, T, S, N, BW, F_bf16 …; a map: B,T")
    command.add_argument("--from", dest="lower", metavar="X", help="start of the range")
    command.add_argument("--to", dest="upper", metavar="X", help="end of the range")
    command.add_argument("--linear", action="store_true", help="linear axes (curve)")
    command.add_argument("--phase", help="prefill or decode; by what is given")
    command.add_argument("--dtypes", default="", help="further roofs, e.g. int8,fp8 (roofline)")
    command.add_argument("--generate", type=whole, metavar="N", help="generated tokens")
    command.add_argument("--width", default="slide", help="slide (16:9, default) or column")
    _workload(command)
    command.set_defaults(run=_plot)


def _plot(arguments: argparse.Namespace) -> int:
    from costgraph.export.files import suffix_of

    kind = arguments.kind
    if kind not in (*KINDS, *SURVEY):
        raise InputError(f"plot: unknown kind {clip(kind)}{nearest(kind, (*KINDS, *SURVEY))}")
    from costgraph import plot

    suffix_of(arguments.output, plot.SUFFIXES, "figure")
    if kind in SURVEY:
        figure = plot.survey_figure(kind, arguments.width)
    else:
        if arguments.model is None:
            raise InputError(f"plot {kind} needs a model")
        if not arguments.on:
            raise InputError(f"plot {kind} needs --on HARDWARE")
        figure = _MAKERS[kind](arguments)
    print(f"wrote {plot.save(figure, arguments.output)}")
    return 0


def _compiled(
    arguments: argparse.Namespace, passes: str, device: str = "", symbolic: bool = False
) -> Compiled:
    from costgraph.api import compile

    return compile(
        arguments.model,
        device or arguments.on[0],
        passes,
        accounting=arguments.accounting,
        fidelity=arguments.fidelity,
        symbolic_hardware=symbolic,
    )


def _single(arguments: argparse.Namespace) -> str:
    """The only pipeline, for kinds that take one."""
    if len(arguments.passes) > 1 or len(arguments.on) > 1:
        raise InputError(f"plot {arguments.kind} takes one --on and one --passes")
    return arguments.passes[0] if arguments.passes else ""


def _given(arguments: argparse.Namespace) -> dict[str, int]:
    found = {
        "B": arguments.batch,
        "T": arguments.context,
        "S": arguments.prompt,
        "N": arguments.generate,
    }
    return {k: v for k, v in found.items() if v is not None}


def _title(arguments: argparse.Namespace, passes: str | None, *more: str) -> str:
    parts = [f"{arguments.model} on {', '.join(arguments.on)}", *more]
    parts += [f"{k}={v}" for k, v in _given(arguments).items()]
    parts += [] if passes is None else [passes or "no passes"]
    return ", ".join(parts)


def _phase(arguments: argparse.Namespace, over: str = "") -> str:
    if arguments.phase:
        return str(arguments.phase)
    return "prefill" if (arguments.prompt is not None or over == "S") else "decode"


def _roofline(arguments: argparse.Namespace) -> Figure:
    from costgraph.plot import roofline

    passes = _single(arguments)
    after = _compiled(arguments, passes) if passes else None
    dtypes = tuple(d.strip() for d in arguments.dtypes.split(",") if d.strip())
    return roofline(
        _compiled(arguments, ""),
        _phase(arguments),
        after=after,
        dtypes=dtypes,
        width=arguments.width,
        **{"B": 1, **_given(arguments)},
    )


def _curve(arguments: argparse.Namespace) -> Figure:
    from costgraph.plot import curve

    metric = arguments.metric or "tpot"
    if metric not in METRICS:
        raise InputError(f"plot: unknown metric {clip(metric)}{nearest(metric, METRICS)}")
    if len(arguments.on) > 1:
        raise InputError("plot curve takes one --on")
    over = arguments.over or "B"
    hardware = over in ("BW", "M") or over.startswith("F_")
    formulas, values = {}, dict[str, Any](_given(arguments))
    for passes in arguments.passes or [""]:
        compiled = _compiled(arguments, passes, symbolic=hardware)
        formulas[passes or "no passes"] = getattr(compiled, metric)
        if hardware:
            machine = compiled.bound or compiled.machine
            values = {s.name: float(v) for s, v in machine.bindings().items()} | values
    names = {s.name for f in formulas.values() for s in f.symbols}
    if over != "B" and "B" in names:
        values.setdefault("B", 1)
    lower, upper = _range(arguments, over, values)
    several = len(arguments.passes) > 1  # then the legend names them
    title = _title(arguments, None if several else (arguments.passes or [""])[0])
    return curve(
        formulas, over, lower, upper,
        log=not arguments.linear, width=arguments.width, title=title,
        **{k: v for k, v in values.items() if k != over},
    )  # fmt: skip


def _range(arguments: argparse.Namespace, over: str, values: dict[str, Any]) -> tuple[float, float]:
    """The range of one symbol from the command line, or a usual one."""
    usual = {"B": (1.0, 512.0), "T": (128.0, 32768.0), "S": (16.0, 8192.0), "N": (2.0, 4096.0)}
    lower, upper = usual.get(over, (0.0, 0.0))
    if over in values and upper == 0.0:
        lower, upper = float(values[over]) / 8, float(values[over]) * 8
    if arguments.lower is not None:
        lower = _number("--from", arguments.lower)
    if arguments.upper is not None:
        upper = _number("--to", arguments.upper)
    return lower, upper


def _number(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: {clip(text)} is not a number") from None
    if not (math.isfinite(value) and 0 < value <= 1e24):
        raise InputError(f"{where} must be positive and at most 1e24, not {clip(text)}")
    return value


def _map(arguments: argparse.Namespace) -> Figure:
    from costgraph.plot import regime_map

    passes = _single(arguments)
    over = (arguments.over or ("B,S" if arguments.metric == "ttft" else "B,T")).split(",")
    if len(over) != 2:
        raise InputError(f"plot map: --over takes two symbols, such as B,T, not {arguments.over!r}")
    metric = arguments.metric or ("ttft" if "S" in over else "tpot")
    if metric not in ("ttft", "tpot"):
        raise InputError(f"plot map: a map is of ttft or tpot, not {clip(metric)}")
    hardware = any(o in ("BW", "M") or o.startswith("F_") for o in over)
    compiled = _compiled(arguments, passes, symbolic=hardware)
    values: dict[str, Any] = {}
    if hardware:
        machine = compiled.bound or compiled.machine
        values = {s.name: float(v) for s, v in machine.bindings().items()}
    values |= _given(arguments)
    ends = []
    for index, name in enumerate(over):
        part = argparse.Namespace(
            lower=_part(arguments.lower, index), upper=_part(arguments.upper, index)
        )
        ends.append(_range(part, name, values))
    formula = getattr(compiled, metric)
    if "B" not in over:
        values.setdefault("B", 1)
    what = "prefill" if metric == "ttft" else "decode"
    return regime_map(
        formula, over[0], over[1], ends[0], ends[1],
        width=arguments.width, title=_title(arguments, passes, what),
        **{k: v for k, v in values.items() if k not in over},
    )  # fmt: skip


def _part(text: str | None, index: int) -> str | None:
    """The ``index``-th of the values for two symbols."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2:
        raise InputError(f"plot map: ranges take two numbers, such as 1,128, not {clip(text)}")
    return parts[index]


def _breakdown(arguments: argparse.Namespace) -> Figure:
    from costgraph.plot import breakdown

    passes = _single(arguments)
    over = arguments.over or "B"
    phase = _phase(arguments, over)
    values = {"B": 1, **_given(arguments)}
    lower, upper = _range(arguments, over, {})
    if upper == 0.0:
        raise InputError(f"a breakdown runs over B, T or S, not {clip(over)}")
    if arguments.upper is None:
        upper = {"B": 64.0}.get(over, upper)
    points = [2**k for k in range(41) if lower <= 2**k <= upper][-12:]
    title = _title(arguments, passes)
    values.pop(over, None)
    return breakdown(
        _compiled(arguments, passes), over, points,
        phase=phase, width=arguments.width, title=title, **values,
    )  # fmt: skip


def _waterfall(arguments: argparse.Namespace) -> Figure:
    from costgraph.comparison import compare
    from costgraph.plot import waterfall

    table = compare(
        arguments.model,
        arguments.on[0],
        [_single(arguments)],
        B=arguments.batch or 1,
        S=arguments.prompt or 1024,
        N=arguments.generate or 256,
        accounting=arguments.accounting,
        fidelity=arguments.fidelity,
    )
    return waterfall(table, width=arguments.width)


def _pareto(arguments: argparse.Namespace) -> Figure:
    from costgraph.plot import pareto

    choices = [
        _compiled(arguments, passes, device)
        for device in arguments.on
        for passes in arguments.passes or [""]
    ]
    if len(choices) > 7:
        raise InputError(f"{len(choices)} lines are more than the 7 that can be told apart")
    context = arguments.context or 2048
    title = f"{arguments.model}, decode at T={context}"
    return pareto(choices, _BATCHES, width=arguments.width, title=title, T=context)


_MAKERS = {
    "roofline": _roofline,
    "curve": _curve,
    "map": _map,
    "breakdown": _breakdown,
    "waterfall": _waterfall,
    "pareto": _pareto,
}
