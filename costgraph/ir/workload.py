"""Values for the symbols of formulas: what was given, what is usual, nothing made up.

Every question about a point takes its values from here, so that a size which the
model does not have, or a symbol without a value, is said in one way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from costgraph.errors import InputError, clip, nearest, unbound
from costgraph.number import MOST, Number, for_zero, number, whole

if TYPE_CHECKING:
    from costgraph.formula import Formula
    from costgraph.ir.program import Program

#: Sizes of a request where nothing else is said: sequences, prompt and generated tokens.
USUAL: Mapping[str, int] = {"B": 1, "S": 1024, "N": 256}
#: Sizes of a request and of a model's answer: counts of something.
WHOLE = frozenset("BSNTKG")
#: Sizes of a request that share a model's positions.
_LENGTHS = ("S", "N", "T")
#: Sizes that every formula may be asked at, whether it depends on them or not.
_ALWAYS = frozenset(("B",))


def checked(given: Mapping[str, Any]) -> dict[str, Number]:
    """The values that are given, as numbers of Python; None stands for what is not.

    Raises:
        InputError: a size is no whole number from 1 to 1e12, or another value is not
            a number from 0 to 1e12. Which of them may be zero, formulas know.
    """
    return {name: _checked(name, value) for name, value in given.items() if value is not None}


def _checked(name: str, value: Any) -> Number:
    if name in WHOLE:
        return whole(value, name)
    found = number(value, name)
    if not 0 <= found <= MOST:
        raise InputError(f"{name} must be above 0 and at most 1e12, not {clip(value)}")
    return found


def workload(
    formulas: Iterable[Formula],
    given: Mapping[str, Any],
    usual: Mapping[str, Any] = USUAL,
    free: Iterable[str] = (),
) -> dict[str, Number]:
    """A value for every symbol of ``formulas``, as :func:`checked` has it.

    Lengths that are not given are the usual ones as far as there is room: see :func:`lengths`.

    Args:
        formulas: of one model.
        given: values by name; None stands for what was not given.
        usual: what sizes are where nothing is given.
        free: symbols that need no value.

    Raises:
        InputError: a value is no sane number, or nothing depends on it.
        UnboundSymbolError: a symbol has neither a given nor a usual value.
    """
    from costgraph.symbols import LEGEND

    every = list(formulas)
    known = {s.name for f in every for s in f.symbols}
    told = checked(given)
    for name in told:
        if name not in known | _ALWAYS:
            if name in LEGEND:  # the model may well have it, and only nothing asked here
                what = f"{_model(every)}: nothing asked here depends on {name} ({LEGEND[name]})"
            else:
                what = f"{_model(every)} has no symbol {clip(name)}"
            raise InputError(f"{what}{_hint(name, known)}")
    values = filled(told, known, usual)
    values |= lengths(every, told, values)
    missing = sorted(known - set(values) - set(free))
    if missing:
        meanings = {k: v for f in every for k, v in f.meanings.items()}
        raise unbound(_model(every), missing, meanings)
    return values


def refuse_zeros(formulas: Iterable[Formula], given: Mapping[str, Number]) -> None:
    """Refuses zeros for symbols that some of the formulas have and take to be positive.

    Raises:
        InputError: which symbol, and where a zero goes.
    """
    from costgraph.formula.limits import positive_names

    zeros = [name for name, value in given.items() if value == 0]
    positive = positive_names(formulas) if zeros else ()
    for name in zeros:
        if name in positive:
            said = for_zero(name, 0, WHOLE)
            raise InputError(f"{name} must be above 0 and at most 1e12, not 0{said}")


def lengths(
    formulas: Iterable[Formula], given: Mapping[str, Any], usual: Mapping[str, Any] = USUAL
) -> dict[str, int]:
    """Usual lengths, or less where models have no room for them beside what is given.

    Args:
        formulas: what is asked there.
        given: values by name, which stay; None stands for what was not given.
        usual: what sizes are where nothing is given.

    Raises:
        InputError: a value is zero that some formula takes to be positive.
    """
    from costgraph.formula.limits import fitted

    every = list(formulas)
    told = {name: value for name, value in given.items() if value is not None}
    refuse_zeros(every, told)
    stay = {"B": usual.get("B", USUAL["B"]), **told}
    open_ = {n: v for n in _LENGTHS if n not in told and type(v := usual.get(n)) is int}
    limits = [limit for f in every for limit in f.limits]
    return fitted(limits, {n: v for n, v in stay.items() if type(v) is int}, open_)


def less(given: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """A sentence where lengths that were not given are not the usual ones, or nothing."""
    open_ = {n: v for n, v in USUAL.items() if n in _LENGTHS and given.get(n) is None}
    found = {n: values[n] for n, v in open_.items() if values.get(n, v) != v}
    if not found:
        return ""
    usual = shown({n: open_[n] for n in found})
    return f"{shown(found)}, where none is given: there is no room for the usual {usual}"


def filled(
    told: Mapping[str, Number], known: Iterable[str], usual: Mapping[str, Any] = USUAL
) -> dict[str, Number]:
    """The values that are told, and usual ones for what else is known."""
    return {name: value for name, value in usual.items() if name in known} | dict(told)


def least_batch(program: Program) -> int:
    """The smallest batch of which every replica, and every group of one, has a sequence."""
    from sympy import Integer, ceiling

    from costgraph.symbols import B

    parts = [Integer(1) / phase.bind(B).coeff(B) for phase in program.phases]
    for limit in program.limits:
        slope = limit.excess.coeff(B)
        if limit.symbols == {B} and slope.is_negative:
            parts.append(limit.excess.xreplace({B: Integer(0)}) / -slope)
    return max((int(ceiling(p)) for p in parts if p.is_Rational), default=1)


def evaluated(formula: Formula, values: Mapping[str, Any]) -> float:
    """The formula at a workload that may know more symbols than it has."""
    names = {s.name for s in formula.symbols}
    return float(formula.evaluate(**{k: v for k, v in values.items() if k in names}))


def plain(values: Mapping[str, Any]) -> dict[str, int | float]:
    """Values as JSON holds them: whole numbers, else floats."""
    return {k: int(v) if v % 1 == 0 else float(v) for k, v in values.items()}


def shown(values: Mapping[str, Any]) -> str:
    """Values as headings tell them: ``B=1, S=1024``."""
    return ", ".join(f"{k}={v}" for k, v in values.items())


def of_steps(first: int, last: int) -> str:
    """What a time per token over decode steps at these contexts is."""
    if first == last:
        return of_step(first)
    return f"mean of the decode steps at contexts {first} to {last}"


def of_step(context: Any, last: bool = False) -> str:
    """What a time per token at one context is; ``last``: of a request's last step."""
    return f"{'last ' if last else ''}decode step, at context {context:.15g}"


def _model(formulas: list[Formula]) -> str:
    settings = (f.setting for f in formulas if f.setting is not None)
    return next((s.model for s in settings), "the formula")


def _hint(name: str, known: set[str]) -> str:
    return nearest(name, known) or f"; it has {', '.join(sorted(known))}"
