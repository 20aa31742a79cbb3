"""How elements of a tensor follow from their places: ranges, and the masks made of them.

Exporters write masks out as arithmetic on ranges (``k <= q``, ``tril(ones)``, where,
``(1 - mask) · min``), each in its own words. What they say is followed here, value
by value, as far as it comes from places alone; data that has a part in it is kept
beside. Axes are counted from the end (−1 is the last), so that broadcasting needs
no care.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal

from sympy import Expr, Integer, Number

from costgraph.ir.op import same
from costgraph.models.traced.value import Value

ZERO = Integer(0)
ONE = Integer(1)
#: What is added to scores to hide a pair is at most this: half precision goes to −65,504.
HIDES = -1e4


def _exact(number: Any) -> Any:
    """A whole number as such, however it was written."""
    if isinstance(number, (int, float)) and float(number).is_integer():
        return Integer(int(number))
    return number


@dataclass(frozen=True)
class Ramp:
    """Numbers ``start + Σ step · place``, one step per axis from the end."""

    start: Any
    steps: tuple[tuple[int, Expr], ...] = ()

    def __post_init__(self) -> None:
        # Whole numbers are exact, however a file writes them: 0.0 is no other ramp than 0.
        object.__setattr__(self, "start", _exact(self.start))
        object.__setattr__(self, "steps", tuple((a, _exact(s)) for a, s in self.steps))

    def along(self, axis: int) -> Expr:
        """The step of an axis; zero where the numbers do not change along it."""
        return dict(self.steps).get(axis, ZERO)

    def plus(self, other: Ramp, sign: int = 1) -> Ramp:
        """The sum, or with ``sign`` −1 the difference."""
        axes = sorted({a for a, _ in (*self.steps, *other.steps)})
        steps = ((a, self.along(a) + sign * other.along(a)) for a in axes)
        return Ramp(self.start + sign * other.start, tuple((a, s) for a, s in steps if s != 0))

    def times(self, factor: Any) -> Ramp:
        """All numbers times a constant."""
        return Ramp(self.start * factor, tuple((a, s * factor) for a, s in self.steps))


@dataclass(frozen=True)
class Distance:
    """Absolute values of a ramp."""

    of: Ramp


@dataclass(frozen=True)
class Shown:
    """Which elements a mask shows: those where all of ``within`` are ≥ 0, and ``rest`` agrees.

    Attributes:
        within: conditions on places.
        rest: tensors of data that have a part in it; truth values, or numbers that are added.
        form: ``truth`` where shown elements are true (or one, others zero); ``hidden``
            where the others are; ``addend``: zero where shown, otherwise very negative.
    """

    within: tuple[Ramp, ...]
    rest: tuple[Value, ...] = ()
    form: Literal["truth", "hidden", "addend"] = "truth"


Law = Ramp | Distance | Shown
ONE_EACH = Ramp(ONE)
#: Query ``i`` sees keys ``0 … i``.
CAUSAL = Ramp(ZERO, ((-2, ONE), (-1, -ONE)))


# --- reading laws


def law_of(value: Value) -> Law | None:
    """The law of a value: noted, or read off its known elements."""
    if value.law is not None or value.known is None:
        return value.law
    return _of_known(value)


def constant_of(value: Value) -> Any:
    """The number that all elements are, or None."""
    law = law_of(value)
    return law.start if isinstance(law, Ramp) and not law.steps else None


def _of_known(value: Value) -> Law | None:
    known = value.known or ()
    if not known:
        return None
    if all(k == known[0] for k in known):
        return Ramp(known[0])
    wide = [a for a, size in enumerate(value.shape) if size != 1]
    if len(wide) == 1:
        step = known[1] - known[0]
        if all(b - a == step for a, b in pairwise(known)):
            return Ramp(known[0], ((wide[0] - len(value.shape), step),))
    if len(wide) == 2 and wide == [len(value.shape) - 2, len(value.shape) - 1]:
        return _of_matrix(known, int(value.shape[-1]))
    return None


def _of_matrix(known: Sequence[Any], width: int) -> Shown | None:
    """A band of a stored matrix of truth values, or of zeros and very negative numbers."""
    form: Literal["truth", "addend"]
    if all(k in (0, 1) for k in known):
        shown, form = [bool(k) for k in known], "truth"
    elif all(k == 0 or _hides(k) for k in known):
        shown, form = [k == 0 for k in known], "addend"
    else:
        return None
    across = [i % width - i // width for i, yes in enumerate(shown) if yes]
    if not across:
        return None
    low, high = min(across), max(across)
    if any(yes != (low <= i % width - i // width <= high) for i, yes in enumerate(shown)):
        return None
    upper = Ramp(Integer(high), ((-2, ONE), (-1, -ONE)))
    lower = Ramp(Integer(-low), ((-2, -ONE), (-1, ONE)))
    return Shown((upper, lower), (), form)


def _hides(number: Any) -> bool:
    """True for what is added to hide an element."""
    try:
        return float(number) <= HIDES
    except (TypeError, ValueError):
        return False


# --- what element-wise functions make of laws


def mapped(function: str, operands: Sequence[Value]) -> Law | None:
    """The law of ``function`` of the operands, where it can be told."""
    laws = [law_of(v) for v in operands]
    if all(law is None for law in laws):
        return None
    if len(operands) == 1:
        return _of_one(function, laws[0])
    if len(operands) == 2:
        return _of_two(function, operands, laws)
    return _chosen(operands) if function == "where" and len(operands) == 3 else None


def _of_one(function: str, law: Law | None) -> Law | None:
    if isinstance(law, Ramp):
        if function == "neg":
            return law.times(-1)
        return Distance(law) if function == "abs" else None
    if isinstance(law, Shown) and function == "not":
        return _flipped(law)
    return None


def _of_two(function: str, operands: Sequence[Value], laws: Sequence[Law | None]) -> Law | None:
    a, b = laws
    if function in ("le", "lt", "ge", "gt", "eq", "ne"):
        return _compared(function, a, b)
    if function in ("and", "mul") and (made := _both(operands, laws)) is not None:
        return made
    if function == "or":
        return _either(operands)
    if isinstance(a, Ramp) and isinstance(b, Ramp):
        if function in ("add", "sub"):
            return a.plus(b, 1 if function == "add" else -1)
        if function == "mul" and not (a.steps and b.steps):
            return a.times(b.start) if not b.steps else b.times(a.start)
        return None
    if function == "sub" and a == ONE_EACH and isinstance(b, Shown):
        return _flipped(b)
    if function == "mul":
        for law, other in ((a, b), (b, a)):
            if isinstance(law, Shown) and isinstance(other, Ramp) and not other.steps:
                return _scaled(law, other.start)
    return _added(operands, laws) if function in ("add", "min") else None


#: Numbers that are not negative where a comparison of whole numbers holds.
_COMPARED: Mapping[str, Callable[[Ramp, Ramp], Ramp]] = MappingProxyType(
    {
        "le": lambda a, b: b.plus(a, -1),
        "lt": lambda a, b: b.plus(a, -1).plus(ONE_EACH, -1),
        "ge": lambda a, b: a.plus(b, -1),
        "gt": lambda a, b: a.plus(b, -1).plus(ONE_EACH, -1),
    }
)


def _compared(function: str, a: Law | None, b: Law | None) -> Law | None:
    if isinstance(a, Shown):
        # Masks of zeros and ones, or of truth values, compared with one of them.
        if a.form != "addend" and b in (Ramp(ZERO), ONE_EACH) and function in ("eq", "ne"):
            return a if (b == ONE_EACH) == (function == "eq") else _flipped(a)
        return None
    if isinstance(a, Ramp) and isinstance(b, Ramp) and function in ("eq", "ne"):
        return _equal(function, a, b)
    if not isinstance(b, Ramp) or not _whole(b) or function not in _COMPARED:
        return None
    if isinstance(a, Distance) and function in ("le", "lt"):
        bound = b if function == "le" else b.plus(ONE_EACH, -1)
        return Shown((bound.plus(a.of, -1), bound.plus(a.of)))
    if isinstance(a, Ramp) and _whole(a):
        return Shown((_COMPARED[function](a, b),))
    return None


def _equal(function: str, a: Ramp, b: Ramp) -> Law | None:
    """Whether two ramps that differ by a constant are equal everywhere, or nowhere."""
    apart = a.plus(b, -1)
    if apart.steps or not (isinstance(apart.start, (int, float)) or apart.start.is_number):
        return None
    return ONE_EACH if (apart.start == 0) == (function == "eq") else Ramp(ZERO)


def _whole(ramp: Ramp) -> bool:
    """True if all numbers are whole: sizes are."""
    return all(
        isinstance(n, Expr) and all(part.is_Integer for part in n.atoms(Number))
        for n in (ramp.start, *(step for _, step in ramp.steps))
    )


def _flipped(law: Shown) -> Shown | None:
    """The same mask with true and false exchanged."""
    if law.form == "addend":
        return None
    return replace(law, form="hidden" if law.form == "truth" else "truth")


def holding(value: Value, holds: bool) -> Shown:
    """Elements for which a truth value holds, or does not: on places, if it comes from them."""
    law = law_of(value)
    if isinstance(law, Shown) and law.form != "addend":
        if (law.form == "truth") == holds:
            return replace(law, form="truth")
        if len(law.within) == 1 and not law.rest:
            (ramp,) = law.within
            return Shown((ramp.times(-1).plus(ONE_EACH, -1),))
    constant = constant_of(value)
    if constant is not None and bool(constant) == holds:
        return Shown(())
    return Shown((), (value,))


def _joined(a: Shown, b: Shown, form: Literal["truth", "hidden", "addend"]) -> Shown:
    """What both show."""
    rest = {v.name: v for v in (*a.rest, *b.rest)}
    return Shown(tuple(dict.fromkeys((*a.within, *b.within))), tuple(rest.values()), form)


def _both(operands: Sequence[Value], laws: Sequence[Law | None]) -> Law | None:
    """``a and b``, also as a product of zeros and ones."""
    if not all(isinstance(law, Shown) and law.form != "addend" for law in laws):
        truths = all(v.dtype.name == "bool" for v in operands)
        if not truths:
            return None
    return _joined(holding(operands[0], True), holding(operands[1], True), "truth")


def _either(operands: Sequence[Value]) -> Law | None:
    """``a or b`` hides what either says."""
    a, b = (holding(v, False) for v in operands)
    return _joined(a, b, "hidden") if a.within or b.within else None


def _scaled(law: Shown, factor: Any) -> Law | None:
    """A mask times a constant: very negative where it is one."""
    if factor == 1:
        return law
    if law.form == "addend":
        return law if _positive(factor) else None
    if not _hides(factor):
        return None
    if law.form == "hidden":
        return replace(law, form="addend")
    if len(law.within) == 1 and not law.rest:
        (ramp,) = law.within
        return Shown((ramp.times(-1).plus(ONE_EACH, -1),), (), "addend")
    return None


def _positive(factor: Any) -> bool:
    try:
        return float(factor) > 0
    except (TypeError, ValueError):
        return False


def _added(operands: Sequence[Value], laws: Sequence[Law | None]) -> Law | None:
    """Two addends at once; one of them may be data."""
    addends = [law for law in laws if isinstance(law, Shown) and law.form == "addend"]
    if len(addends) == 2:
        return _joined(addends[0], addends[1], "addend")
    if len(addends) == 1:
        other = operands[1 if laws[0] is addends[0] else 0]
        data = () if constant_of(other) == 0 else (other,)
        return _joined(addends[0], Shown((), data), "addend")
    return None


def _chosen(operands: Sequence[Value]) -> Law | None:
    """``a`` where the condition holds, else ``b``: masks, and addends made of them."""
    condition, a, b = operands
    for holds, kept, other in ((True, a, b), (False, b, a)):
        hidden, shown = constant_of(other), constant_of(kept)
        if hidden is None:
            continue
        if _hides(hidden):
            law = law_of(kept)
            if shown == 0:
                return replace(holding(condition, holds), form="addend")
            if isinstance(law, Shown) and law.form == "addend":
                return _joined(holding(condition, holds), law, "addend")
        elif hidden == 0 and shown == 1:
            return holding(condition, holds)
    return None


def masking(operands: Sequence[Value]) -> tuple[Value, Shown] | None:
    """(``x``, what is shown of it) if ``where`` of the operands hides elements of ``x``."""
    condition, a, b = operands
    for holds, kept, other in ((True, a, b), (False, b, a)):
        if kept.number is None and _hides(constant_of(other)):
            return kept, holding(condition, holds)
    return None


# --- what views make of laws


def moved(law: Law, place: Callable[[int], int | None]) -> Law:
    """The law with axes at other places; ``place`` gives None for an axis that goes."""

    def ramp(r: Ramp) -> Ramp:
        steps = ((place(a), s) for a, s in r.steps)
        return Ramp(r.start, tuple(sorted((a, s) for a, s in steps if a is not None)))

    return _each(law, ramp)


def sliced(law: Law, axis: int, first: Expr, step: Expr, length: Expr) -> Law:
    """The law of ``length`` places of an axis from ``first`` on, ``step`` apart."""

    def ramp(r: Ramp) -> Ramp:
        along = r.along(axis)
        if along == 0:
            return r
        left = ((a, s * step if a == axis else s) for a, s in r.steps)
        steps = tuple((a, s) for a, s in left if a != axis or length != 1)
        return Ramp(r.start + along * first, steps)

    return _each(law, ramp)


def looked_up(x: Value, places: Mapping[int, Value], trailing: int = 0) -> Law | None:
    """The law of entries of ``x`` at places along some of its axes, which stand together.

    ``trailing`` axes of ``x`` follow those of the places in the result.
    """
    law = law_of(x)
    if not isinstance(law, Ramp):
        return None
    made = Ramp(law.start)
    for axis, step in law.steps:
        place = law_of(places[axis]) if axis in places else None
        if not isinstance(place, Ramp):
            return None
        shifted = moved(place, lambda a: a - trailing)
        made = made.plus(shifted.times(step)) if isinstance(shifted, Ramp) else made
    return made


def joined(parts: Sequence[Value], axis: int) -> Law | None:
    """The law of values side by side along an axis, where each goes on where the last ends."""
    ramps: list[Ramp] = []
    for part in parts:
        law = law_of(part)
        if not isinstance(law, Ramp):
            return None
        ramps.append(law)
    first = ramps[0]
    # A single place has no step of its own.
    known = [r.along(axis) for r, p in zip(ramps, parts, strict=True) if p.shape[axis] != 1]
    step = known[0] if known else ramps[-1].start - first.start if len(parts) == 2 else ZERO
    others = tuple((a, s) for a, s in first.steps if a != axis)
    at = ZERO
    for ramp, part in zip(ramps, parts, strict=True):
        goes_on = same(ramp.start, first.start + step * at)
        alike = tuple((a, s) for a, s in ramp.steps if a != axis) == others
        if not goes_on or not alike or (part.shape[axis] != 1 and ramp.along(axis) != step):
            return None
        at = at + part.shape[axis]
    return Ramp(first.start, tuple(sorted((*others, *(((axis, step),) if step != 0 else ())))))


def cast(law: Law, truth: bool) -> Law | None:
    """The law in another format, ``truth`` values or numbers."""
    if isinstance(law, Shown) and truth and law.form == "addend":
        # What is not zero is hidden, unless numbers of data are among the addends.
        plain = all(v.dtype.name == "bool" for v in law.rest)
        return replace(law, form="hidden") if plain else None
    if isinstance(law, Shown):
        return law
    return None if truth and law != Ramp(ZERO) and law != ONE_EACH else law


def on_parts(law: Law, change: Callable[[Value], Value]) -> Law:
    """The law with the tensors of data in it changed as the mask was."""
    return replace(law, rest=tuple(change(v) for v in law.rest)) if isinstance(law, Shown) else law


def _each(law: Law, change: Callable[[Ramp], Ramp]) -> Law:
    if isinstance(law, Ramp):
        return change(law)
    if isinstance(law, Distance):
        return Distance(change(law.of))
    return replace(law, within=tuple(change(r) for r in law.within))


def triangle(value: Value, upper: bool, diagonal: Expr) -> Law | None:
    """The law of a triangle of constants, or of another mask."""
    kept = Ramp(diagonal, ((-2, ONE), (-1, -ONE)))
    if upper:
        kept = kept.times(-1)
    constant, law = constant_of(value), law_of(value)
    if constant == 1:
        return Shown((kept,))
    if constant is not None and _hides(constant):
        return Shown((kept.times(-1).plus(ONE_EACH, -1),), (), "addend")
    if isinstance(law, Shown) and law.form == "truth":
        return replace(law, within=(*law.within, kept))
    return None
