"""Commands that do mathematics with a metric: explain, regimes, solve, wins, reliability."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from costgraph.cli import vocabulary
from costgraph.cli.showing import Answer, Table, show
from costgraph.cli.values import real
from costgraph.errors import InputError, UnboundSymbolError, clip, unbound, unknown
from costgraph.ir.metrics import METRICS, TIMED, TIMES

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled
    from costgraph.formula.formula import Formula
    from costgraph.setting import Setting


def add_commands(commands: Any) -> None:
    """Registers the commands."""
    _explain_command(commands)
    _regimes_command(commands)
    _solve_command(commands)
    _wins_command(commands)
    _reliability_command(commands)


def _metric(
    command: argparse.ArgumentParser, metrics: Iterable[str], usual: str = "tpot", *formats: str
) -> None:
    vocabulary.add_target(command)
    vocabulary.add_metric(command, metrics, usual)
    vocabulary.add_values(command)
    vocabulary.add_format(command, "csv", *formats)


def _explain_command(commands: Any) -> None:
    command = commands.add_parser(
        "explain",
        help="why a metric has its value, and what would change it",
        description="In words: what bounds the metric at a point, what one per cent more of "
        "each symbol changes, where the next bottleneck lies, and what stays if one rate of the "
        "machine were infinite.",
    )
    _metric(command, TIMED, "tpot", "latex")
    command.set_defaults(run=_explain)


def _regimes_command(commands: Any) -> None:
    command = commands.add_parser(
        "regimes",
        help="intervals of a symbol with a closed form each",
        description="Where operations change what bounds them along one symbol (or over two, "
        "'--over B,T'), with the exact breakpoints and the closed form of each regime.",
    )
    _metric(command, METRICS, "tpot", "latex")
    command.add_argument("--over", default="B", metavar="X[,Y]", help="symbol or two (B)")
    command.add_argument(
        "--symbolic-hardware",
        action="store_true",
        help="keep peaks and bandwidth as symbols; the machine's figures decide the order",
    )
    command.add_argument(
        "--show",
        choices=("value", "derivative", "elasticity"),
        default="value",
        help="what to show in each regime (value)",
    )
    command.set_defaults(run=_regimes)


def _solve_command(commands: Any) -> None:
    command = commands.add_parser(
        "solve",
        help="the largest batch (or other symbol) within a budget",
        description="Where a metric keeps within a budget along one symbol: exact intervals, "
        "or, without closed forms, those of whole numbers that were tried.",
    )
    _metric(command, METRICS, "tpot", "latex")
    command.add_argument("--over", default="B", metavar="X", help="symbol to solve for (B)")
    command.add_argument(
        "--budget", required=True, metavar="V", help="with its unit: '50 ms', '80 GB', '1000'"
    )
    command.add_argument(
        "--at-least", action="store_true", help="the budget is a floor (default for throughput)"
    )
    command.set_defaults(run=_solve)


def _wins_command(commands: Any) -> None:
    command = commands.add_parser(
        "wins",
        help="where one pipeline or device beats another",
        description="The exact intervals of one symbol in which a metric is smaller with the "
        "second of two pipelines, or on the second of two devices, than with the first.",
    )
    vocabulary.add_targets(command)
    vocabulary.add_metric(command, SMALLER, "tpot")
    command.add_argument("--over", default="B", metavar="X", help="the symbol (B)")
    vocabulary.add_values(command)
    vocabulary.add_format(command, "csv", "latex")
    command.set_defaults(run=_wins)


def _reliability_command(commands: Any) -> None:
    command = commands.add_parser(
        "reliability",
        help="how likely a deadline is kept where the rate of a link is random",
        description="P(time <= deadline) in closed form, where the rate of a link is drawn from a "
        "distribution once for a request: ranges of deadlines, the rate that each needs, and how "
        "likely that is.",
    )
    _metric(command, TIMES, "latency")
    command.add_argument(
        "--link", metavar="LINK", help="whose rate is random: pcie … (network, or the only one)"
    )
    command.add_argument(
        "--channel", required=True, metavar="NAME:FIGURES",
        help="how its rate is distributed: 'exponential:1.25 GB/s' (mean), 'uniform:1 MB/s,2 MB/s' "
        "(ends), 'lognormal:1 GB/s,0.5' (median, sigma), 'rayleigh:20 MHz,15 dB' (width, mean "
        "signal to noise)",
    )  # fmt: skip
    command.add_argument(
        "--deadline", action="append", default=[], metavar="TIME",
        help="'4 ms': the probability that it is kept; repeatable",
    )  # fmt: skip
    command.add_argument(
        "--within", action="append", default=[], metavar="P", type=real,
        help="0.99: the deadline that is kept with a probability; repeatable (0.5, 0.9, 0.99, "
        "0.999)",
    )  # fmt: skip
    command.set_defaults(run=_reliability)


#: Metrics that are sums, of which the smaller is the better.
SMALLER = tuple(name for name, m in METRICS.items() if not m.larger_is_better and "/" not in m.unit)


def _known(formula: Formula, values: dict[str, Any]) -> dict[str, Any]:
    """The values, after a check that the formula has such symbols."""
    _check_symbols(formula.name, [s.name for s in formula.symbols], values)
    return values


def _check_symbols(
    metric: str, names: Sequence[str], given: Iterable[str], where: str = ""
) -> None:
    """Refuses a name that is none of a metric's symbols.

    Raises:
        InputError: naming what is near, or all there are.
    """
    for name in given:
        if name not in names:
            raise unknown(f"{where}{metric}", name, names)


def _explain(arguments: argparse.Namespace) -> int:
    values = vocabulary.values(arguments)
    compiled = vocabulary.compiled(arguments)
    formula = getattr(compiled, arguments.metric)
    missing = [s.name for s in formula.symbols if s.name not in _known(formula, values)]
    if missing:
        from costgraph.ir.workload import USUAL, lengths
        from costgraph.symbols import SIZES

        sizes = {**dict.fromkeys(SIZES, 1024), **USUAL}
        usual = {**sizes, **lengths([formula], values, sizes)}
        example = ",".join(f"{n}={usual.get(n, '…')}" for n in missing)
        raise InputError(f"{unbound('explain', missing, formula.meanings)}; add --at '{example}'")
    found = compiled.explain(arguments.metric, **values)

    def table() -> Table:
        from costgraph.showing.export.explanation import explanation_about
        from costgraph.showing.export.paper import explanation_cells

        head, rows, foot = explanation_cells(found)
        return Table(head, rows, explanation_about(found)[:-1], foot, wrapped=1)

    return _show(found, found.to_dict, "shares", compiled, arguments, table)


def _regimes(arguments: argparse.Namespace) -> int:
    from costgraph.showing.export import paper
    from costgraph.showing.export.regimes import regimes_object, region_map_object

    values = vocabulary.values(arguments)
    compiled = vocabulary.compiled(arguments)
    formula = getattr(compiled, arguments.metric)
    over = [name.strip() for name in arguments.over.split(",")]
    _known(formula, values)
    if len(over) == 2:
        if arguments.symbolic_hardware:
            raise InputError("regimes over two symbols need numbers for the hardware")
        if arguments.show != "value":
            raise InputError(f"--show {arguments.show} is along one symbol, not over two")
        plane = formula.region_map(*over, **values)

        def mapped() -> Table:
            head, rows, foot = paper.region_map_cells(plane)
            return Table(head, rows, _about(plane.setting), foot)

        return _show(
            plane, lambda: region_map_object(plane), "regions", compiled, arguments, mapped
        )
    if len(over) != 1:
        raise InputError(f"--over takes one symbol or two, not {clip(arguments.over)}")
    at = None
    if arguments.symbolic_hardware and compiled.bound is not None:
        at = {s.name: v for s, v in compiled.bound.bindings().items()}
    found = formula.regimes(over[0], at, **values)
    if arguments.show == "derivative":
        found = found.derivative()
    elif arguments.show == "elasticity":
        found = found.elasticity()

    def table() -> Table:
        head, rows, foot = paper.regimes_cells(found)
        return Table(head, rows, _about(found.setting), foot)

    return _show(found, lambda: regimes_object(found), "regimes", compiled, arguments, table)


def _about(setting: Setting | None) -> list[str]:
    return [] if setting is None else setting.lines()


def _show(
    found: Any,
    data: Callable[[], dict[str, Any]],
    rows: str,
    compiled: Compiled,
    arguments: argparse.Namespace,
    table: Callable[[], Table],
) -> int:
    """Prints an answer in its format; the exit code."""
    asked = (compiled, (getattr(compiled, arguments.metric),))
    answer = Answer(lambda: print(found), data, rows, compiled.setting, table, lambda: [asked])
    return show(arguments, answer)


def _usual_link(compiled: Compiled) -> str:
    """The link whose rate is random where none is named.

    Raises:
        InputError: there are several, and none is the network.
    """
    names = sorted((compiled.bound or compiled.machine).links)
    if "network" in names or not names:
        return "network"
    if len(names) > 1:
        raise InputError(f"whose rate is random? --link is one of {', '.join(names)}")
    return names[0]


def _reliability(arguments: argparse.Namespace) -> int:
    from costgraph.asking.channels import parse
    from costgraph.asking.reliability import reliability
    from costgraph.showing.export.reliability import reliability_object, reliability_text

    values, channel = vocabulary.values(arguments), parse(arguments.channel)
    compiled = vocabulary.compiled(arguments)
    asked = (arguments.deadline, arguments.within)
    link = arguments.link or _usual_link(compiled)
    found = reliability(compiled, link, channel, arguments.metric, values)
    answer = Answer(
        lambda: print(reliability_text(found, *asked)),
        lambda: reliability_object(found, *asked),
        "pieces",
        compiled.setting,
    )
    return show(arguments, answer)


#: What a budget on a metric is measured in, as a dimension of :mod:`costgraph.units`.
_DIMENSION = {"s": "time", "byte": "size"}


def _solve(arguments: argparse.Namespace) -> int:
    from costgraph.showing.export.regimes import solution_object

    values = vocabulary.values(arguments)
    compiled = vocabulary.compiled(arguments)
    formula = getattr(compiled, arguments.metric)
    names = [s.name for s in formula.symbols]
    _check_symbols(formula.name, names, [arguments.over], "--over: ")
    budget = _budget(arguments.budget, formula)
    at_least = arguments.at_least or formula.unit == "token/s"
    _known(formula, values)
    try:
        found = formula.solve_for(arguments.over, budget, at_least=at_least, **values)
    except UnboundSymbolError as error:
        other = next((n for n in error.names if n not in values), "")
        if not other:
            raise
        told = unbound(f"solve: {arguments.over} hangs on {other}", [other], formula.meanings)
        raise UnboundSymbolError(f"{told}; --over {other} solves for it", [other]) from None
    answer = found.largest or found.smallest
    if answer is not None:
        fits = compiled.fit(**values, **{arguments.over: answer})
        # That the weights alone are too large is said of everything already.
        if fits.full and not compiled.setting.warnings:
            found = found.saying(f"{arguments.over}={answer} {fits.full}")
        said = () if found.question.setting is None else found.question.setting.cautions
        if fits.beyond and fits.beyond not in said:
            found = found.saying(f"at {arguments.over}={answer} {fits.beyond}")

    def table() -> Table:
        from costgraph.showing.export.paper import solution_cells

        head, rows, foot = solution_cells(found)
        return Table(head, rows, _about(found.question.setting), foot)

    return _show(found, lambda: solution_object(found), "intervals", compiled, arguments, table)


def _wins(arguments: argparse.Namespace) -> int:
    from costgraph.formula.wins import wins
    from costgraph.showing.export.winning import Race, asked, race_object, race_text

    values = vocabulary.values(arguments)
    devices, pipelines = vocabulary.devices(arguments), vocabulary.pipelines(arguments)
    if len(devices) * len(pipelines) != 2:
        raise InputError(
            "wins takes two choices: --passes twice ('' is the unmodified model), or two devices, "
            f"not {len(devices) * len(pipelines)}"
        )
    a, b = (vocabulary.compiled(arguments, p, d) for d in devices for p in pipelines)
    formulas = [getattr(c, arguments.metric) for c in (a, b)]
    names = sorted({s.name for f in formulas for s in f.symbols})
    _check_symbols(arguments.metric, names, [*values, arguments.over])

    first, second = (f.along(arguments.over, values) or c.setting
                     for c, f in zip((a, b), formulas, strict=True))  # fmt: skip
    race = Race(
        arguments.metric, formulas[0].unit, arguments.over, (first, second),
        wins(formulas[0], formulas[1], arguments.over, **values),
    )  # fmt: skip

    def table() -> Table:
        from costgraph.showing.export.paper import wins_cells

        head, rows, foot = wins_cells(race.intervals, race.over, race.unit)
        return Table(head, rows, [*race.setting.lines(without=("passes",)), asked(race)], foot)

    answer = Answer(
        lambda: print(race_text(race)), lambda: race_object(race), "intervals", race.setting,
        table,
        lambda: [(c, (f,)) for c, f in zip((a, b), formulas, strict=True)],
    )  # fmt: skip
    return show(arguments, answer)


def _budget(text: str, formula: Formula) -> Any:
    from costgraph.number import parse_number
    from costgraph.units import parse_quantity

    dimension = _DIMENSION.get(formula.unit)
    if dimension is not None and any(c.isalpha() and c not in "eE" for c in text):
        return parse_quantity(text, dimension, "--budget")
    return parse_number(text, "--budget", f"a number of {formula.unit}")
