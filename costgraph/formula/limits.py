"""A formula's limits at a point and along a symbol."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sympy import Expr, Integer, Symbol, ceiling, floor

from costgraph.errors import InputError, clip
from costgraph.formula.sums import affine
from costgraph.number import for_zero
from costgraph.symbols import SIZES, N, S, symbol

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula
    from costgraph.formula.terms import Limit
    from costgraph.setting import Setting

ZERO, ONE = Integer(0), Integer(1)


def check(formula: Formula, point: Mapping[Symbol, Expr]) -> None:
    """Refuses a point that is none, or outside the formula's limits, as far as it decides them.

    Raises:
        InputError: a value is not positive and finite, or no whole number of tokens; which
            limit is broken, and by how much.
    """
    for x in formula.symbols:
        value = point.get(x)
        if value is None or not value.is_number:
            continue
        if not value.is_finite or not takes(formula.setting, x.name, value):
            raise not_positive(x.name, value, f"{formula.name}: ")
        if x in (S, N) and not value.is_Integer and value != int(value):
            raise not_whole(formula, x.name)
    for limit in formula.limits:
        if (broken := limit.broken(point)) is not None:
            raise InputError(f"{formula.name}: {broken}")


def takes(setting: Setting | None, name: str, value: Any) -> bool:
    """Whether a real number is one that a symbol can have.

    A positive finite one, for sizes at least one (what is proved of formulas rests on it), and
    zero where :func:`may_be_zero`.
    """
    if name in SIZES:
        return bool(1 <= value < math.inf)
    return bool(0 < value < math.inf) or (value == 0 and may_be_zero(setting, name))


def not_positive(name: str, value: Any, whose: str = "", where: str = "") -> InputError:
    """What is said of a value of a symbol that none can have."""
    what = "at least 1" if name in SIZES and 0 < value < 1 else "a positive finite number"
    said = for_zero(name, value, SIZES)
    return InputError(f"{whose}{name} must be {what}, not {clip(value)}{where}{said}")


def not_whole(formula: Formula, name: str) -> InputError:
    """What is said of a part of a token."""
    return InputError(f"{formula.name}: {name} must be a whole number of tokens")


def domain_of(formula: Formula, x: Symbol) -> tuple[Expr, Expr | None]:
    """The smallest and the largest value of ``x`` that the limits over it alone allow.

    The largest is None where there is none.

    Raises:
        InputError: they allow none.
    """
    check(formula, {})
    first, last, told = _ends(formula.limits, x, is_whole(formula, x))
    if last is not None and told is not None and last < first:
        raise InputError(f"{formula.name}: no {x} keeps {told.expr} <= {told.bound}: {told.why}")
    return first, last


def fitted(
    limits: Iterable[Limit], given: Mapping[str, int], usual: Mapping[str, int]
) -> dict[str, int]:
    """Usual sizes, or those next to them that limits allow, beside the given ones.

    A size by itself goes to the end of its range; sizes that share one (prompt and tokens share
    positions) are halved together until there is room. Where given sizes leave none, limits
    stay broken, and whoever asks says which.

    Args:
        limits: of everything that is asked at these sizes.
        given: sizes that stay as they are, by name.
        usual: whole sizes of at least 1, by name.
    """
    told = {symbol(name): Integer(size) for name, size in given.items()}
    known = [limit.mapped(lambda e: e.xreplace(told)) for limit in limits]
    found = {symbol(name): Integer(size) for name, size in usual.items()}
    for x, size in found.items():
        first, last, _ = _ends(known, x, True)
        if last is None or first <= last:
            size = max(size, first)
            found[x] = size if last is None else min(size, last)
    while tight := {
        s for limit in known if not limit.apart and limit.broken(found) is not None
        for s in limit.symbols if found.get(s, ONE) > 1 and limit.excess.diff(s).is_positive
    }:  # fmt: skip
        found |= {s: found[s] // 2 for s in tight}
    return {s.name: int(size) for s, size in found.items()}


def _ends(
    limits: Iterable[Limit], x: Symbol, whole: bool
) -> tuple[Expr, Expr | None, Limit | None]:
    """Both ends of what limits over ``x`` alone allow, and the limit at the nearer one."""
    first, last, told = start_of(x), None, None
    for limit in limits:
        line = affine(limit.excess, x)
        if limit.symbols != {x} or line is None:
            continue
        end = -line[0] / line[1] if line[1] else ZERO
        if line[1].is_positive:
            end = floor(end) if whole else end
            if last is None or end < last:
                last, told = end, limit
        elif line[1].is_negative:
            end = ceiling(end) if whole else end
            if end > first:
                first, told = end, told or limit
    return first, last, told


def is_whole(formula: Formula, x: Symbol) -> bool:
    """Whether a symbol stands for whole numbers: sizes, and those that passes say so of.

    All others are real: acceptances, shares, rates, prices.
    """
    return counts(formula.setting, x.name)


def counts(setting: Setting | None, name: str) -> bool:
    """:func:`is_whole` of what has this setting."""
    return name in SIZES or (setting is not None and name in setting.whole)


def may_be_zero(setting: Setting | None, name: str) -> bool:
    """Whether zero is a value of a symbol: passes say so of shares, all others are positive."""
    return setting is not None and name in setting.zero


def positive_names(formulas: Iterable[Formula]) -> set[str]:
    """Names of symbols that some of the formulas takes to be positive."""
    return {s.name for f in formulas for s in f.symbols if not may_be_zero(f.setting, s.name)}


def start_of(x: Symbol) -> Expr:
    """Where a symbol's values begin: one for sizes, zero otherwise."""
    return ONE if x.name in SIZES else ZERO
