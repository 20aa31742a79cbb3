"""Commands that do mathematics with a metric: explain, regimes, solve."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from costgraph.errors import InputError, clip, nearest

if TYPE_CHECKING:
    from costgraph.api import Compiled
    from costgraph.formula.formula import Formula

METRICS = (
    "ttft", "tpot", "latency", "throughput", "memory", "flops", "bytes",
    "energy", "energy_per_token", "cost_per_token",
)  # fmt: skip


def add_commands(commands: Any, target: Callable[[argparse.ArgumentParser], None]) -> None:
    """Registers the commands; ``target`` adds the model, device and passes."""
    _explain_command(commands, target)
    _regimes_command(commands, target)
    _solve_command(commands, target)


def _metric(command: argparse.ArgumentParser, metrics: tuple[str, ...]) -> None:
    command.add_argument("--metric", choices=metrics, default="tpot", help="default: tpot")
    command.add_argument(
        "--at", default="", metavar="X=V,…", help="values of symbols, e.g. 'B=8,T=2048'"
    )
    command.add_argument("--json", action="store_true", help="one JSON object")


def _explain_command(commands: Any, target: Callable[[argparse.ArgumentParser], None]) -> None:
    command = commands.add_parser(
        "explain",
        help="why a metric has its value, and what would change it",
        description="In words: what bounds the metric at a point, what one per cent more of "
        "each symbol changes, where the next bottleneck lies, and what stays if one rate of the "
        "machine were infinite.",
    )
    target(command)
    _metric(command, METRICS[:4])
    command.set_defaults(run=_explain)


def _regimes_command(commands: Any, target: Callable[[argparse.ArgumentParser], None]) -> None:
    command = commands.add_parser(
        "regimes",
        help="intervals of a symbol with a closed form each",
        description="Where operations change what bounds them along one symbol (or over two, "
        "'--over B,T'), with the exact breakpoints and the closed form of each regime.",
    )
    target(command)
    _metric(command, METRICS)
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


def _solve_command(commands: Any, target: Callable[[argparse.ArgumentParser], None]) -> None:
    command = commands.add_parser(
        "solve",
        help="the largest batch (or other symbol) within a budget",
        description="Where a metric keeps within a budget along one symbol: exact intervals, "
        "or a bracket of two neighbouring whole numbers checked at both.",
    )
    target(command)
    _metric(command, METRICS)
    command.add_argument("--over", default="B", metavar="X", help="symbol to solve for (B)")
    command.add_argument(
        "--budget", required=True, metavar="V", help="with its unit: '50 ms', '80 GB', '1000'"
    )
    command.add_argument(
        "--at-least", action="store_true", help="the budget is a floor (default for throughput)"
    )
    command.set_defaults(run=_solve)


def parse_values(text: str) -> dict[str, Any]:
    """``B=8,T=2048`` as exact numbers by name.

    Raises:
        InputError: an item is not NAME=NUMBER.
    """
    from costgraph.number import positive

    found: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--at: {clip(item)} is not NAME=NUMBER, such as T=2048")
        if name.strip() in found:
            raise InputError(f"--at: {clip(name)} is given twice")
        number = positive(value, f"--at: {clip(name.strip())[1:-1]}")
        found[name.strip()] = int(number) if number.denominator == 1 else number
    return found


def _known(formula: Formula, values: dict[str, Any]) -> dict[str, Any]:
    """The values, after a check that the formula has such symbols."""
    names = [s.name for s in formula.symbols]
    for name in values:
        if name not in names:
            raise InputError(
                f"--at: {formula.name} has no symbol {clip(name)}{nearest(name, names)}; "
                f"it has {', '.join(names)}"
            )
    return values


def _compiled(arguments: argparse.Namespace) -> Compiled:
    from costgraph.api import compile

    return compile(
        arguments.model,
        arguments.on,
        arguments.passes,
        accounting=arguments.accounting,
        symbolic_hardware=getattr(arguments, "symbolic_hardware", False),
        fidelity=arguments.fidelity,
    )


def _explain(arguments: argparse.Namespace) -> int:
    values = parse_values(arguments.at)
    compiled = _compiled(arguments)
    formula = getattr(compiled, arguments.metric)
    missing = [s.name for s in formula.symbols if s.name not in _known(formula, values)]
    if missing:
        example = ",".join(f"{n}={'1' if n == 'B' else '1024'}" for n in missing)
        raise InputError(f"explain: no value for {', '.join(missing)}; add --at '{example}'")
    found = compiled.explain(arguments.metric, **values)
    _show(found, lambda made: made.to_dict(), arguments.json)
    return 0


def _regimes(arguments: argparse.Namespace) -> int:
    from costgraph.export.regimes import regimes_object, region_map_object

    values = parse_values(arguments.at)
    compiled = _compiled(arguments)
    formula = getattr(compiled, arguments.metric)
    over = [name.strip() for name in arguments.over.split(",")]
    _known(formula, values)
    if len(over) == 2:
        if arguments.symbolic_hardware:
            raise InputError("regimes over two symbols need numbers for the hardware")
        plane = formula.region_map(*over, **values)
        _show(plane, region_map_object, arguments.json)
        return 0
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
    _show(found, regimes_object, arguments.json)
    return 0


def _show(found: Any, as_object: Callable[[Any], dict[str, Any]], as_json: bool) -> None:
    if as_json:
        from costgraph.export.plain_json import print_json

        print_json(as_object(found))
    else:
        print(found)


#: What a budget on a metric is measured in, as a dimension of :mod:`costgraph.units`.
_DIMENSION = {"s": "time", "byte": "size"}


def _solve(arguments: argparse.Namespace) -> int:
    from costgraph.export.regimes import solution_object, solution_text

    values = parse_values(arguments.at)
    formula = getattr(_compiled(arguments), arguments.metric)
    if arguments.over not in [s.name for s in formula.symbols]:
        names = [s.name for s in formula.symbols]
        raise InputError(
            f"--over: {formula.name} has no symbol {clip(arguments.over)}"
            f"{nearest(arguments.over, names)}; it has {', '.join(names)}"
        )
    budget = _budget(arguments.budget, formula)
    at_least = arguments.at_least or formula.unit == "token/s"
    _known(formula, values)
    found = formula.solve_for(arguments.over, budget, at_least=at_least, **values)
    if arguments.json:
        _show(found, solution_object, True)
    else:
        print(solution_text(found, formula, arguments.over, arguments.budget, at_least))
    return 0


def _budget(text: str, formula: Formula) -> Any:
    from costgraph.number import parse_number
    from costgraph.units import parse_quantity

    dimension = _DIMENSION.get(formula.unit)
    if dimension is not None and any(c.isalpha() and c not in "eE" for c in text):
        return parse_quantity(text, dimension, "--budget")
    return parse_number(text, "--budget", f"a number of {formula.unit}")
