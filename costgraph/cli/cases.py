"""Kept cases: a question that was asked before at other values is answered by its formulas.

A case is what an answer is computed from, as data: formulas lowered to trees
(:mod:`costgraph.formula.trees`), the setting, the sizes of memories. It is kept under a digest
of everything that an answer goes by but the values (:mod:`.answers`), and holds as long. Its
numbers are those of the whole program to the last bit; where anything is unusual (a value out
of a formula's limits, a deployment that does not fit) it does not answer, and the whole program
does. Answering imports no sympy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from costgraph.cli.vocabulary import SIZES, values
from costgraph.errors import InputError

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled
    from costgraph.compiling.fits import Fit
    from costgraph.compiling.steps import Breakdown
    from costgraph.formula.formula import Formula

#: What of a command line is values, or changes no number.
_VALUES = {*(name for name, _ in SIZES.values()), "set", "at", "run", "no_cache", "_given"}


@dataclass
class Cases:
    """Where cases are kept, for one run.

    Attributes:
        read: the case of a question, if one is kept that holds.
        made: a question and its case, which the run computed from: to be kept.
        answered: whether a case answered.
    """

    read: Callable[[Any], Any]
    made: tuple[Any, Any] | None = None
    answered: bool = False


class _Unusual(Exception):
    """The case does not answer this."""


#: Why a case may have no answer; the whole program tells the user.
_UNSAID = (_Unusual, ArithmeticError, InputError, LookupError, TypeError, ValueError)


def question(arguments: argparse.Namespace) -> list[Any]:
    """What is asked, without the values: they are named."""
    rest = {k: v for k, v in vars(arguments).items() if k not in _VALUES and k != "cases"}
    return [sorted(rest.items()), sorted(values(arguments))]


def read(arguments: argparse.Namespace, question: Any) -> Any:
    """The case of a question; None where none is kept, or nothing is."""
    return None if arguments.cases is None else arguments.cases.read(question)


def keep(arguments: argparse.Namespace, question: Any, make: Callable[[], Any]) -> None:
    """Keeps what a question was computed from, where anything is kept."""
    if arguments.cases is not None:
        arguments.cases.made = question, make()


def step_in(case: Any, given: Mapping[str, int]) -> Breakdown | None:
    """The step that a case has at a point; None without a case, and where it cannot say."""
    if case is None:
        return None
    from costgraph.compiling.steps import step_of

    try:
        return step_of(case, {"B": 1, **given})
    except _UNSAID:
        return None


def value_case(compiled: Compiled, formula: Formula, data: dict[str, Any] | None) -> Any:
    """What the value of a formula is computed from; None where no tree holds it.

    Args:
        compiled: what the formula is of.
        formula: with every symbol still free.
        data: what else is told of it to programs.
    """
    from costgraph.compiling.capacity import memory_needs, room_of
    from costgraph.formula.evaluate import source_of, tree_of_expr
    from costgraph.formula.trees import Unknown, tree_of

    names = tuple(s.name for s in formula.symbols)
    needs = memory_needs(compiled, {}, names)
    sizes = needs.complete or needs.least
    room = room_of(compiled)
    if compiled.farther or formula.setting is None or room is None or not (needs.known and sizes):
        return None
    mine = set(formula.symbols)
    # Where something must be said, the whole program says it.
    excesses = (*(x.excess for x in formula.limits), *(x.excess for x in formula.stated))
    limits = [x for x in excesses if x.free_symbols <= mine]
    try:
        return {
            "metric": formula.name,
            "unit": formula.unit,
            "names": names,
            "counts": [n for n in names if n in ("S", "N")],
            "tree": tree_of(source_of(*formula.computed)),
            "limits": [tree_of_expr(x, formula.symbols) for x in limits],
            "sizes": [tree_of_expr(x, formula.symbols, exact=True) for x in sizes],
            "hardware": compiled.machine.name,
            "room": room,
            "least": not needs.complete,
            "setting": formula.setting.to_data(),
            "data": data,
        }
    except Unknown:
        return None


def value_in(case: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Any, Fit] | None:
    """The value that a case has at a point, and whether that fits; None where it cannot say."""
    try:
        return _value(case, given)
    except _UNSAID:
        return None


def _value(case: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Any, Fit]:
    from costgraph.compiling.fits import Fit
    from costgraph.compiling.steps import plain_number
    from costgraph.formula.trees import value_of

    point = [given[name] for name in case["names"]]
    if not all(isinstance(given[name], int) for name in case["counts"]):
        raise _Unusual
    if any(value_of(limit, point) > 0 for limit in case["limits"]):
        raise _Unusual
    value = plain_number(value_of(case["tree"], point))
    need = max(float(value_of(size, point)) for size in case["sizes"])
    fits = Fit(case["hardware"], need, case["room"], case["least"])
    if fits.fits is False:
        raise _Unusual
    return value, fits
