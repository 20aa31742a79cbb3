"""ONNX's loops of a known count: a body that runs in rounds, kept as one region.

Rounds that are not all alike (a value grows from one to the next) are written out where they
are few. A condition that depends on data may end a loop early: all rounds are counted, and
the program says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.ir.dtypes import INT64
from costgraph.ir.op import same, same_shape
from costgraph.ir.regions import Repeat
from costgraph.models.traced.formats import BOOL
from costgraph.models.traced.laws import constant_of
from costgraph.models.traced.lowering import Lowering, Rule
from costgraph.models.traced.onnx_arguments import attribute, given
from costgraph.models.traced.record import Branch, Call, used
from costgraph.models.traced.value import Value
from costgraph.ops.views import Stack

ONE = Integer(1)
ZERO = Integer(0)
#: A count from here on stands for "until the condition ends it".
ENDLESS = 2**31 - 1
#: Rounds that are written out where they are not all alike.
MOST_WRITTEN = 64


class Unlike(ModelError):
    """Why rounds of a loop are not all alike."""


@dataclass(frozen=True)
class _Rounds:
    """Rounds of a loop.

    Attributes:
        body: what runs in each.
        count: how many.
        start: values before the first round, which the body's results replace.
        parts: values ``(count, …)`` of which each round gets its part.
        numbered: rounds get their number and a condition in front of all else, and give a
            condition in front (``Loop``).
    """

    body: Branch
    count: Expr
    start: tuple[Value, ...]
    parts: tuple[Value, ...] = ()
    numbered: bool = False

    @property
    def lead(self) -> int:
        """Inputs of the body in front of the values that rounds hand on."""
        return 2 if self.numbered else 0

    def split(self, results: Sequence[Value]) -> tuple[Sequence[Value], ...]:
        """Results of a round: a condition, values for the next round, and those that are kept."""
        first = int(self.numbered)
        last = first + len(self.start)
        return results[:first], results[first:last], results[last:]


def _loop(low: Lowering, call: Call) -> tuple[Value, ...]:
    """``(most rounds, condition, values …)``: the last values, and what rounds gave, stacked."""
    most = constant_of(low.value(call.args[0])) if given(call, 0) else None
    first = constant_of(low.value(call.args[1])) if given(call, 1) else 1
    if most is None or (isinstance(most, (int, Integer)) and most >= ENDLESS):
        raise low.wrong("how often its body runs depends on data; the count must be known")
    if first is not None and not bool(first):
        most = ZERO
    start = tuple(low.value(a) for a in call.args[2:])
    return _run(low, _Rounds(_body(low, call), Integer(0) + most, start, numbered=True))


def _scan(low: Lowering, call: Call) -> tuple[Value, ...]:
    """``(states …, sequences …)``: a round for each element of an axis of the sequences."""
    if 0 < low.graph.version < 9:
        raise low.wrong("Scan of operator sets before 9 is not supported")
    many = int(call.attributes["num_scan_inputs"])
    values = [low.value(a) for a in call.args]
    if not 0 < many <= len(values):
        raise low.wrong(f"{many} sequences of {len(values)} values")
    states, sequences = values[:-many], values[-many:]
    axes = attribute(call, "scan_input_axes", (0,) * many)
    parts = tuple(_to_front(low, x, low.axis(x, a)) for x, a in zip(sequences, axes, strict=True))
    count = parts[0].shape[0]
    if not all(same(x.shape[0], count) for x in parts):
        raise low.wrong("its sequences have several lengths")
    made = _run(low, _Rounds(_body(low, call), count, tuple(states), parts))
    last, stacked = made[: len(states)], made[len(states) :]
    ends = attribute(call, "scan_output_axes", (0,) * len(stacked))
    turned = (_from_front(low, x, low.axis(x, a)) for x, a in zip(stacked, ends, strict=True))
    return (*last, *turned)


def _body(low: Lowering, call: Call) -> Branch:
    body = call.attributes["body"]
    if not isinstance(body, Branch):
        raise low.wrong("it has no body")
    return body


def _to_front(low: Lowering, x: Value, axis: int) -> Value:
    return low.transpose(x, (axis, *(i for i in range(len(x.shape)) if i != axis)))


def _from_front(low: Lowering, x: Value, axis: int) -> Value:
    rest = iter(range(1, len(x.shape)))
    return low.transpose(x, tuple(0 if i == axis else next(rest) for i in range(len(x.shape))))


def _run(low: Lowering, rounds: _Rounds) -> tuple[Value, ...]:
    """The rounds as a region; written out where they are few and not alike."""
    count, body = rounds.count, rounds.body
    if count.is_number and not (count.is_Integer and count > 0):
        raise low.wrong(f"{count} rounds of its body")
    if len(body.inputs) != rounds.lead + len(rounds.start) + len(rounds.parts):
        raise low.wrong("its body takes another number of values than it is given")
    if len(body.outputs) < int(rounds.numbered) + len(rounds.start):
        raise low.wrong("its body makes fewer values than the next round takes")
    notes, limits = list(low.notes), list(low.limits)
    try:
        made = _region(low, rounds)
    except ModelError as why:
        if not (count.is_Integer and count <= MOST_WRITTEN):
            if isinstance(why, Unlike):
                raise low.wrong(str(why)) from None
            raise
        low.notes, low.limits = notes, limits
        made = _written_out(low, rounds)
    low.notes.append(f"{low.call.target} {clip(low.call.name)}: {count} rounds of its body")
    return made


def _early(low: Lowering, ends: Sequence[Value]) -> bool:
    """Whether data may end the rounds early; notes it."""
    known = [constant_of(v) for v in ends]
    if any(k is not None and not bool(k) for k in known):
        raise low.wrong("its condition ends it in the first round")
    if None in known:
        name = clip(low.call.name)
        said = f"data may end the loop {name} early: all rounds are counted, an upper bound"
        if said not in low.notes:
            low.notes.append(said)
    return None in known


def _region(low: Lowering, rounds: _Rounds) -> tuple[Value, ...]:
    """One region of equal rounds."""
    start, names = rounds.start, rounds.body.inputs
    states = [low.stand_in(v.shape, v.dtype) for v in start]
    parts = [low.stand_in(v.shape[1:], v.dtype) for v in rounds.parts]
    first = dict(zip(names[rounds.lead :], states, strict=False))
    last = dict(zip(names[rounds.lead + len(start) :], parts, strict=True))
    stacked = list(rounds.parts)
    if rounds.numbered:
        first[names[1]] = low.constant((ONE,), (), BOOL)
        if any(names[0] in used(c) for c in rounds.body.calls):
            last[names[0]] = low.stand_in((), INT64)
            stacked.append(low.ramp(rounds.count, ZERO, ONE, INT64))
    made = low.body(rounds.body, first, last)
    ends, after, kept = rounds.split(made.results)
    for before, value in zip(start, after, strict=True):
        if before.dtype != value.dtype or not same_shape(before.shape, value.shape):
            raise Unlike("a value changes its size or format from round to round")
    if any(v.known is not None for v in (*after, *kept)):
        raise Unlike("a round hands on a constant")
    also = ends if _early(low, ends) else ()
    op = Repeat(
        made.graph((*after, *also, *kept)),
        rounds.count,
        len(start),
        shared_instances=ONE,
        rounds="other",
        parts=len(stacked),
        gathered=len(kept),
    )
    results = low.emit_many(op, *start, *made.captured, *stacked, name=low.label("rounds"))
    return (*results[: len(start)], *results[len(start) + len(also) :])


def _written_out(low: Lowering, rounds: _Rounds) -> tuple[Value, ...]:
    """Round by round; weights of the body are one set."""
    body, values, stacks = rounds.body, rounds.start, []
    for index in range(int(rounds.count)):
        lead = (
            (low.constant((Integer(index),), ()), low.constant((ONE,), (), BOOL))
            if rounds.numbered
            else ()
        )
        parts = (low.chosen(x, 0, index) for x in rounds.parts)
        results = low.inline(body, (*lead, *values, *parts))
        body = replace(body, sources=())
        ends, values, kept = (tuple(x) for x in rounds.split(results))
        _early(low, ends)
        stacks.append(kept)
    whole = (low.emit(Stack(), *column) for column in zip(*stacks, strict=True))
    return (*values, *whole)


RULES: Mapping[str, Rule] = MappingProxyType({"Loop": _loop, "Scan": _scan})
