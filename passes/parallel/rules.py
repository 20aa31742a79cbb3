"""How operations split: which operands a device needs a part of, and what it then makes.

A rule looks at the places of an operation's operands and says which places it wants them
in, what operation a device runs, and the places of the results. An operation without a rule
wants everything whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sympy import Add, Expr, Integer, Mul

from costgraph import ops
from costgraph.ops.attention import KVAppend, Parted
from costgraph.ops.base import Op
from costgraph.ops.collectives import AllToAll, Exchange, Received, RowStatistics
from costgraph.ops.elementwise import Binary
from costgraph.ops.flash import FlashAttention
from costgraph.ops.latent import HeadLinear, SplitFlash, SplitScores
from costgraph.ops.quant import NarrowResult, QuantizeTo
from costgraph.ops.recurrent import (
    WKV,
    BlockLinear,
    GatedDelta,
    GatedLinearRecurrence,
    MatrixWKV,
)
from costgraph.ops.scan import SelectiveScan, StateSpaceDual
from costgraph.ops.tokens import Concat, Embedding, Sample, SelectLast, Split
from costgraph.ops.views import Transpose
from costgraph.passes.parallel.experts import Spread
from costgraph.passes.parallel.places import WHOLE, BlockedError, Place, group_part, part, rows_part
from costgraph.tensor import Role, Tensor

ONE = Integer(1)


@dataclass(frozen=True)
class Piece:
    """A stretch of a flat axis: ``heads`` times ``width`` elements.

    Attributes:
        heads: what is divided among devices; the width itself where there are no heads.
        width: elements of each.
        shared: several query heads (of attention, of a scan) use one of them, so several
            devices may hold the same one.
    """

    heads: Expr
    width: Expr = ONE
    shared: bool = False

    def part(self, degree: Expr, what: str) -> Expr:
        """Heads on one device; a single one is not divided."""
        if self.heads == 1:
            return ONE
        divide = group_part if self.shared else part
        return divide(self.heads, degree, what)


#: Operands, by place, of which several query heads use one head.
SHARED: Mapping[type[Op], tuple[int, ...]] = {
    ops.AttentionScores: (1,),
    SplitScores: (2, 3),
    ops.AttentionValues: (1,),
    FlashAttention: (1, 2),
    SplitFlash: (2, 3, 4),
    StateSpaceDual: (2, 3),
    GatedDelta: (0, 1),
}


def shares_heads(op: Op, index: int) -> bool:
    """Whether several query heads use one head of an operand."""
    found = next((SHARED[cls] for cls in type(op).__mro__ if cls in SHARED), ())
    return index in found


@dataclass(frozen=True)
class Site:
    """An operation, its operands on the device, and what the rule may ask.

    Attributes:
        name, op: of the node.
        inputs, outputs: tensors of the whole model.
        places: of the operands; None for weights, caches and states without one yet.
        degree: devices of the group.
        stays: the node's weights stay whole.
        pieces: what the last axis of a result of this node is cut into later on.
        is_shared: whether several query heads use one head of a tensor.
        is_logits: whether a tensor is logits: no product uses it.
        producer, consumers: what makes the first operand and uses the first result.
        spread: experts over devices, or None.
        context: devices among which positions are split; ``decoding``: those of the cache
            alone, else those of the step.
        tokens: where a device has its part of the tokens.
    """

    name: str
    op: Op
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    places: tuple[Place | None, ...]
    degree: Expr
    stays: bool
    pieces: Callable[[str], tuple[Piece, ...]]
    is_shared: Callable[[str], bool]
    is_logits: Callable[[str], bool]
    producer: Op | None
    consumers: tuple[Op, ...]
    spread: Spread | None = None
    tokens: Place = WHOLE
    context: Expr = ONE
    decoding: bool = False

    def place(self, index: int) -> Place:
        """The place of an operand, whole if it has none yet."""
        return self.places[index] or WHOLE

    def blocked(self, reason: str, *places: Place) -> BlockedError:
        """The error that takes the split of these operands back."""
        roots = frozenset().union(*(p.roots for p in places))
        return BlockedError(f"{self.op.kind} {self.name!r}: {reason}", roots)


@dataclass(frozen=True)
class Ruled:
    """What a rule says.

    Attributes:
        op: the operation that a device runs.
        wanted: the place of each operand.
        results: the place of each result.
        gathers: operands that may be gathered from a split axis.
        statistics: numbers per row that the devices add up before the operation: what a
            norm over a split axis needs of the other parts.
    """

    op: Op
    wanted: tuple[Place, ...]
    results: tuple[Place, ...]
    gathers: tuple[int, ...] = ()
    statistics: int = 0


Rule = Callable[[Site], Ruled]


def whole(site: Site) -> Ruled:
    """Everything whole: what stands for operations without a rule."""
    for given in site.places:
        if given is not None and given.axis is not None and not given.tokens:
            raise site.blocked("has no rule for a split operand", given)
    return Ruled(site.op, (WHOLE,) * len(site.inputs), (WHOLE,) * len(site.outputs))


def _moved(place: Place, axis: int, length: Expr | None = None) -> Place:
    """The place with its split on another axis."""
    return replace(place, axis=axis, length=place.length if length is None else length)


def elementwise(site: Site) -> Ruled:
    """Operands of one shape, the later ones broadcast over leading axes."""
    split = [p for p in site.places if p is not None and p.axis is not None]
    if not split:
        return Ruled(site.op, (WHOLE,) * len(site.inputs), (WHOLE,) * len(site.outputs))
    rank = len(site.outputs[0].shape)
    at = split[0]
    back = _from_end(site, at)
    wanted = []
    for tensor, place in zip(site.inputs, site.places, strict=True):
        if place is not None and place.axis is not None and _from_end(site, place) != back:
            raise site.blocked("its operands are split along different axes", *split)
        axis = len(tensor.shape) + back
        wanted.append(_moved(at, axis) if axis >= 0 else WHOLE)
    return Ruled(site.op, tuple(wanted), (_moved(at, rank + back),) * len(site.outputs))


def _from_end(site: Site, place: Place) -> int:
    """The split axis counted from the last one."""
    index = next(i for i, p in enumerate(site.places) if p is place)
    assert place.axis is not None
    return place.axis - len(site.inputs[index].shape)


def linear_map(site: Site) -> Ruled:
    """Element-wise and linear: a sum may be taken before or after."""
    if site.place(0).partial:
        rest = (WHOLE,) * (len(site.inputs) - 1)
        partial = Place(partial=True, roots=site.place(0).roots)
        return Ruled(site.op, (partial, *rest), (partial,))
    return elementwise(site)


def addition(site: Site) -> Ruled:
    """A sum of two partial sums is one."""
    places = [site.place(i) for i in range(len(site.inputs))]
    if all(p.partial for p in places):
        roots = frozenset().union(*(p.roots for p in places))
        partial = Place(partial=True, roots=roots)
        return Ruled(site.op, (partial,) * len(places), (partial,))
    return elementwise(site)


def linear(site: Site) -> Ruled:
    """Columns of the weight where the operand is whole, rows where it is split."""
    op, x, place = site.op, site.inputs[0], site.place(0)
    assert isinstance(op, ops.Linear)
    first = len(x.shape) - op.contract
    biases = len(site.inputs) - 2
    if site.context != 1 and place.axis == 1 and x.role is Role.KV and not site.decoding:
        # What is cached is less than what is made of it: gathered before, not after.
        return Ruled(op, (WHOLE,) * len(site.inputs), (WHOLE,), gathers=(0,))
    if place.axis is not None and (site.stays or not place.tokens):
        if place.axis < first:  # rows of tokens
            rest = (WHOLE,) * (1 + biases)
            return Ruled(op, (place, *rest), (place,))
        if place.axis > first:
            raise site.blocked("splits the inner axis of what it sums over", place)
        assert place.length is not None
        inner = place.length * Mul(*x.shape[first + 1 :])
        rows = Place(1, inner, roots=place.roots)
        partial = Place(partial=True, roots=place.roots)
        return Ruled(op, (place, rows, *(WHOLE,) * biases), (partial,))
    if site.stays:
        return Ruled(op, (WHOLE,) * len(site.inputs), (WHOLE,))
    mine = frozenset({site.name})
    if op.split:
        piece = Piece(op.split[0], shared=site.is_shared(site.outputs[0].name))
        local = piece.part(site.degree, f"heads of {site.name!r}")
        if local == op.split[0]:  # one head for all
            return Ruled(op, (WHOLE,) * len(site.inputs), (WHOLE,))
        width = Mul(*op.split[1:])
        made = replace(op, split=(local, *op.split[1:]))
        columns = Place(0, local * width, roots=mine)
        return Ruled(
            made, (WHOLE, columns, *(columns,) * biases), (Place(first, local, roots=mine),)
        )
    local = columns_part(site, site.outputs[0].name)
    if local == site.outputs[0].shape[-1]:
        return Ruled(op, (WHOLE,) * len(site.inputs), (WHOLE,))
    columns = Place(0, local, roots=mine)
    return Ruled(op, (WHOLE, columns, *(columns,) * biases), (Place(first, local, roots=mine),))


def columns_part(site: Site, result: str) -> Expr:
    """Columns of one device of a product with a flat result."""
    width = site.outputs[0].shape[-1]
    if site.is_logits(result):
        return rows_part(width, site.degree)
    return flat_part(site, result)


def flat_part(site: Site, result: str) -> Expr:
    """The part of a flat last axis: of its width, or of each piece that it is put together from."""
    what = f"width of {site.name!r}"
    return Add(*(p.part(site.degree, what) * p.width for p in site.pieces(result)))


def head_linear(site: Site) -> Ruled:
    """A matrix per head: those of the heads at hand."""
    place = site.place(0)
    if place.axis is None:
        return whole(site)
    if place.axis != 2:
        raise site.blocked("splits along heads only", place)
    return Ruled(site.op, (place, _moved(place, 0)), (place,))


def expert_linear(site: Site) -> Ruled:
    """The width of every expert, columns first and rows second; or whole experts."""
    if site.spread is not None:
        return spread_experts(site, site.spread)
    x, w, place = site.inputs[0], site.inputs[1], site.place(0)
    last = len(x.shape) - 1
    biases = len(site.inputs) - 3
    if place.axis == 1:  # rows of tokens, with the experts that they chose
        return Ruled(site.op, (place, WHOLE, place, *(WHOLE,) * biases), (place,))
    if place.axis is not None and not place.tokens:
        if place.axis != last:
            raise site.blocked("splits along the experts' width only", place)
        rows = _moved(place, 2)
        partial = Place(partial=True, roots=place.roots)
        return Ruled(site.op, (place, rows, WHOLE, *(WHOLE,) * biases), (partial,))
    if site.stays:
        return whole(site)
    mine = frozenset({site.name})
    local = columns_part(site, site.outputs[0].name)
    if local == site.outputs[0].shape[-1]:
        return whole(site)
    columns = Place(1, local, roots=mine)
    flat = Place(0, w.shape[0] * local, roots=mine)
    out = Place(len(site.outputs[0].shape) - 1, local, roots=mine)
    return Ruled(site.op, (WHOLE, columns, WHOLE, *(flat,) * biases), (out,))


def spread_experts(site: Site, spread: Spread) -> Ruled:
    """The experts of a device, for the tokens that chose them."""
    op, w, numbers = site.op, site.inputs[1], site.inputs[2]
    assert isinstance(op, ops.ExpertLinear)
    held = spread.share(op.routing, w, numbers)
    choice = len(numbers.shape) - 1
    mine = Place(0, held.experts)
    columns = w.shape[1]
    biases = (Place(0, held.experts * columns),) * (len(site.inputs) - 3)
    rows = Place(choice, held.chosen, away=spread.exchanges)
    first = len(site.inputs[0].shape) == len(numbers.shape)
    x = rows if spread.exchanges or not first else WHOLE
    made = replace(op, routing=held.routing)
    return Ruled(made, (x, mine, rows, *biases), (rows,))


def embedding(site: Site) -> Ruled:
    """Rows of the vocabulary: a device finds the tokens that it has, the sum finds all."""
    ids, table = site.inputs
    if site.place(0).axis is not None:
        return Ruled(site.op, (site.place(0), WHOLE), (site.place(0),))
    if site.stays or len(ids.shape) < 2:
        return Ruled(site.op, (WHOLE, WHOLE), (WHOLE,))
    mine = frozenset({site.name})
    local = rows_part(table.shape[0], site.degree)
    if local == table.shape[0]:
        return Ruled(site.op, (WHOLE, WHOLE), (WHOLE,))
    rows = Place(0, local, roots=mine)
    return Ruled(site.op, (WHOLE, rows), (Place(partial=True, roots=mine),))


def sample(site: Site) -> Ruled:
    """Logits are gathered from the parts of the vocabulary."""
    return Ruled(site.op, (WHOLE,), (WHOLE,), gathers=(0,))


def norm(site: Site) -> Ruled:
    """Rows that lie on one device; parameters that differ along a split axis go with it."""
    place = site.place(0)
    if place.axis is None:
        return whole(site)
    last = len(site.inputs[0].shape) - 1
    if place.axis != last:
        return elementwise(site)
    params = (_moved(place, 0),) * (len(site.inputs) - 1)
    groups = getattr(site.op, "groups", ONE)
    if groups != 1:
        local = part(groups, site.degree, f"groups of {site.name!r}")
        return Ruled(replace(site.op, groups=local), (place, *params), (place,))  # type: ignore[type-var]
    if isinstance(site.producer, ops.Linear) and all(
        isinstance(user, ops.Linear) for user in site.consumers
    ):
        raise site.blocked("needs whole rows between two products", place)
    statistics = 1 if isinstance(site.op, ops.RMSNorm) else 2
    return Ruled(site.op, (place, *params), (place,), statistics=statistics)


def rope(site: Site) -> Ruled:
    """Heads are rotated apart, all by one table; positions by their rows of it."""
    place = site.place(0)
    table = _moved(place, 0) if place.axis == 1 else WHOLE
    return Ruled(site.op, (place, table), (place,))


def split(site: Site) -> Ruled:
    """Parts of a split axis, each a part of its own axis; other axes pass."""
    op, x, place = site.op, site.inputs[0], site.place(0)
    assert isinstance(op, Split)
    if place.axis is None:
        return whole(site)
    if place.axis != len(x.shape) - 1:
        return Ruled(op, (place,), (place,) * len(op.parts))
    parts, places = [], []
    for result, shape in zip(site.outputs, op.parts, strict=True):
        if len(shape) > 1:
            piece = Piece(shape[0], shared=site.is_shared(result.name))
            local = piece.part(site.degree, f"heads of {result.name!r}")
        else:
            local = flat_part(site, result.name)
        parts.append((local, *shape[1:]))
        # A part that is not divided lies whole on every device.
        cut = Place(place.axis, local, roots=place.roots)
        places.append(WHOLE if local == shape[0] else cut)
    total = Add(*(Mul(*shape) for shape in parts))
    if place.length is None or (total - place.length).expand() != 0:
        raise site.blocked("its parts do not split with the whole", place)
    return Ruled(replace(op, parts=tuple(parts)), (place,), tuple(places))


def concat(site: Site) -> Ruled:
    """Side by side along the last axis: other axes pass."""
    found = [p for p in site.places if p is not None and p.axis is not None]
    if not found:
        return whole(site)
    last = len(site.inputs[0].shape) - 1
    if any(p.axis == last for p in found):
        raise site.blocked("its operands would lie apart", *found)
    return elementwise(site)


def append(site: Site) -> Ruled:
    """A cache lies as the rows that it is extended by; or each device has a part of both."""
    if site.context != 1:
        parts = (Place(1, t.shape[1] / site.context) for t in (*site.inputs, *site.outputs))
        cache, new, result = parts
        return Ruled(site.op, (cache, new), (result,))
    place = site.place(1)
    return Ruled(site.op, (place, place), (place,))


def _keys(site: Site, index: int, heads: Expr) -> Place:
    """Where keys or values lie: each device has those of its own query heads."""
    given, tensor = site.place(index), site.inputs[index]
    if given.axis is not None or tensor.shape[2] == 1:
        return given
    return Place(2, group_part(tensor.shape[2], site.degree, f"heads of {tensor.name!r}"))


def scores(site: Site) -> Ruled:
    """Query heads, with the key heads that they share."""
    place = site.place(0)
    if site.context != 1:
        return over_positions(site, len(site.inputs) // 2, (2, 3))
    if place.axis is None:
        return whole(site)
    if place.axis == 0:
        return elementwise_rows(site, place)
    if place.axis != 2:
        raise site.blocked("splits along heads only", place)
    half = len(site.inputs) // 2
    wanted = [place] * half
    wanted += [_keys(site, i, site.inputs[0].shape[2]) for i in range(half, len(site.inputs))]
    return Ruled(site.op, tuple(wanted), (_moved(place, 1),))


def values(site: Site) -> Ruled:
    """Probabilities of the heads at hand, with the values that they share."""
    place = site.place(0)
    if site.context != 1:
        return over_values(site)
    if place.axis is None:
        return whole(site)
    if place.axis == 0:
        return elementwise_rows(site, place)
    if place.axis != 1:
        raise site.blocked("splits along heads only", place)
    return Ruled(site.op, (place, _keys(site, 1, site.inputs[0].shape[1])), (_moved(place, 2),))


def flash(site: Site) -> Ruled:
    """As scores and values together; sinks go with their heads."""
    place = site.place(0)
    if site.context != 1:
        return over_positions(site, 2 if isinstance(site.op, SplitFlash) else 1, (1, None))
    if place.axis is None:
        return whole(site)
    if place.axis == 0:
        return elementwise_rows(site, place)
    if place.axis != 2:
        raise site.blocked("splits along heads only", place)
    queries = 2 if isinstance(site.op, SplitFlash) else 1
    wanted = [place] * queries
    for index in range(queries, len(site.inputs)):
        if len(site.inputs[index].shape) == 1:
            wanted.append(_moved(place, 0))
        else:
            wanted.append(_keys(site, index, site.inputs[0].shape[2]))
    return Ruled(site.op, tuple(wanted), (place,))


def over_positions(site: Site, queries: int, axes: tuple[int, int | None]) -> Ruled:
    """Attention over positions that lie on several devices.

    Of a prompt, each device has its part of the queries and gathers all keys. Of a cache,
    each attends its part of the keys: partial results.

    Args:
        site: of scores, or of attention in one kernel.
        queries: how many of its operands are queries; keys and values follow.
        axes: of the result along queries and along keys; None where keys are summed over.
    """
    op, c, place = site.op, site.context, site.place(0)
    count = len(site.inputs)
    if site.decoding and not any(site.place(i).axis == 1 for i in range(queries, count)):
        return whole(site)  # keys that no cache holds
    if not site.decoding and place.axis != 1:
        return whole(site)
    if not site.decoding:
        rest = tuple(WHOLE for _ in range(queries, count))
        made = replace(op, mask=Parted(op.mask, queries=c))  # type: ignore[call-arg,attr-defined]
        gathers = tuple(range(queries, count))
        return Ruled(made, (place,) * queries + rest, (_moved(place, axes[0]),), gathers)
    keys = tuple(
        Place(1, t.shape[1] / c) if len(t.shape) > 1 else WHOLE for t in site.inputs[queries:]
    )
    made = replace(op, mask=Parted(op.mask, keys=c))  # type: ignore[call-arg,attr-defined]
    if axes[1] is None:
        result = Place(partial=True, weighted=True)
    else:
        result = Place(axes[1], site.outputs[0].shape[axes[1]] / c)
    return Ruled(made, (WHOLE,) * queries + keys, (result,))


def over_values(site: Site) -> Ruled:
    """Values over positions that lie on several devices; see :func:`over_positions`."""
    op, c, place = site.op, site.context, site.place(0)
    if place.axis is None:
        return whole(site)
    if not site.decoding:
        made = replace(op, mask=Parted(op.mask, queries=c))  # type: ignore[call-arg,attr-defined]
        return Ruled(made, (place, WHOLE), (_moved(place, 1),), gathers=(1,))
    made = replace(op, mask=Parted(op.mask, keys=c))  # type: ignore[call-arg,attr-defined]
    keys = Place(1, site.inputs[1].shape[1] / c)
    return Ruled(made, (place, keys), (Place(partial=True, weighted=True),))


def exchange(site: Site) -> Ruled:
    """What devices of another group exchange: of each its part."""
    place, op = site.place(0), site.op
    if place.axis == 1 and isinstance(op, (AllToAll, Received)):
        assert place.length is not None
        part = place.length / site.inputs[0].shape[1]
        shape = (op.shape[0], op.shape[1] * part, *op.shape[2:])
        op = replace(op, shape=shape)
        if isinstance(op, AllToAll):
            op = replace(op, amount=op.amount * part)
    return Ruled(op, (place,), (place,))


def elementwise_rows(site: Site, place: Place) -> Ruled:
    """Sequences apart: every operand with a batch has its part of it."""
    wanted = tuple(place if len(t.shape) > 2 else WHOLE for t in site.inputs)
    return Ruled(site.op, wanted, (place,) * len(site.outputs))


def softmax(site: Site) -> Ruled:
    """Heads apart; sinks with them."""
    place = site.place(0)
    if place.axis is None:
        return whole(site)
    if place.axis == len(site.inputs[0].shape) - 1:
        if site.context == 1:
            raise site.blocked("needs whole rows", place)
        rest = (WHOLE,) * (len(site.inputs) - 1)
        made = replace(site.op, mask=Parted(site.op.mask, keys=site.context))  # type: ignore[call-arg,attr-defined]
        return Ruled(made, (place, *rest), (place,))  # of its own keys; results are weighted
    if site.context != 1 and place.axis == 2:
        made = replace(site.op, mask=Parted(site.op.mask, queries=site.context))  # type: ignore[call-arg,attr-defined]
        return Ruled(made, (place, *(WHOLE,) * (len(site.inputs) - 1)), (place,))
    sinks = _moved(place, 0) if place.axis == 1 else WHOLE
    return Ruled(site.op, (place, *(sinks,) * (len(site.inputs) - 1)), (place,))


def combine(site: Site) -> Ruled:
    """A weighted sum of rows: of partial ones a partial one."""
    place = site.place(0)
    rank = len(site.inputs[0].shape)
    if place.partial:
        return Ruled(site.op, (place, WHOLE), (place,))
    if place.axis is None:
        return whole(site)
    if place.axis == rank - 1:
        return Ruled(site.op, (place, WHOLE), (_moved(place, place.axis - 1),))
    if place.axis < rank - 2:
        return Ruled(site.op, (place, place), (place,))
    if place.axis == rank - 2 and place.away:  # they come back first
        home = site.tokens
        return Ruled(site.op, (home, home), (home,))
    if place.axis == rank - 2:
        return Ruled(site.op, (place, place), (Place(partial=True, roots=place.roots),))
    raise site.blocked("needs all rows of a token", place)


def row_scale(site: Site) -> Ruled:
    """Rows times a number each: linear, and apart along all but the numbers' axis."""
    place = site.place(0)
    if place.partial:
        return Ruled(site.op, (place, WHOLE), (place,))
    if place.axis is not None and place.axis == len(site.inputs[0].shape) - 1:
        return Ruled(site.op, (place, WHOLE), (place,))
    return elementwise(site)


def by_row(site: Site) -> Ruled:
    """Rows apart: all axes but the last."""
    place = site.place(0)
    if place.axis is not None and place.axis == len(site.inputs[0].shape) - 1:
        raise site.blocked("needs whole rows", place)
    if place.partial:
        return whole(site)
    return Ruled(site.op, (place,) * len(site.inputs), (place,) * len(site.outputs))


def select(site: Site) -> Ruled:
    """Positions of every row; sums pass."""
    place = site.place(0)
    if place.axis == 1 and site.context != 1:  # the last ones lie on one device
        return Ruled(site.op, (place,), (WHOLE,))
    if place.axis == 1:
        raise site.blocked("chooses positions", place)
    return Ruled(site.op, (place,), (place,))


def transpose(site: Site) -> Ruled:
    """The split axis under its new number."""
    op, place = site.op, site.place(0)
    assert isinstance(op, Transpose)
    if place.axis is None:
        return Ruled(op, (place,), (place,))
    return Ruled(op, (place,), (_moved(place, op.axes.index(place.axis)),))


def along(*axes: int | None, by: int = 0) -> Rule:
    """Operands and results that split together, each along the axis given for it.

    The axes of the operands, then of the results; None for what stays whole. The operand
    ``by`` decides. Operands whose axis has one element (shared by all heads), or a
    number of heads that devices share, hold at least one.
    """

    def rule(site: Site) -> Ruled:
        place = site.place(by)
        if place.axis is None:
            return whole(site)
        if place.axis != axes[by]:
            raise site.blocked(f"splits along axis {axes[by]} only", place)
        size = site.inputs[by].shape[place.axis]
        found = []
        for tensor, axis in zip((*site.inputs, *site.outputs), axes, strict=True):
            if axis is None or tensor.shape[axis] == 1:
                found.append(WHOLE)
            elif tensor.shape[axis] == size:
                found.append(_moved(place, axis))
            elif (tensor.shape[axis] / size).is_Integer:
                assert place.length is not None
                found.append(_moved(place, axis, place.length * tensor.shape[axis] / size))
            else:
                piece = Piece(tensor.shape[axis], shared=shares_heads(site.op, len(found)))
                local = piece.part(site.degree, f"groups of {tensor.name!r}")
                found.append(_moved(place, axis, local))
        count = len(site.inputs)
        return Ruled(site.op, tuple(found[:count]), tuple(found[count:]))

    return rule


def convolution(site: Site) -> Ruled:
    """A causal convolution per channel, with its state."""
    place = site.place(0)
    if place.axis is None:
        return whole(site)
    if place.axis != 2:
        raise site.blocked("splits along channels only", place)
    biases = len(site.inputs) - 3
    channels = _moved(place, 0)
    state = _moved(place, 1)
    return Ruled(site.op, (place, channels, *(channels,) * biases, state), (place, state))


#: Rules by operation; a subclass takes that of its nearest base.
RULES: Mapping[type[Op], Rule] = {
    ops.Activation: elementwise,
    ops.SoftCap: elementwise,
    ops.Scale: linear_map,
    ops.Add: addition,
    ops.Multiply: elementwise,
    Binary: elementwise,
    ops.RMSNorm: norm,
    ops.LayerNorm: norm,
    ops.Rope: rope,
    ops.Linear: linear,
    ops.ExpertLinear: expert_linear,
    HeadLinear: head_linear,
    Embedding: embedding,
    Sample: sample,
    Split: split,
    Concat: concat,
    SelectLast: select,
    Transpose: transpose,
    KVAppend: append,
    ops.AttentionScores: scores,
    SplitScores: scores,
    ops.Softmax: softmax,
    ops.Alibi: elementwise,
    ops.AttentionValues: values,
    FlashAttention: flash,
    ops.Route: by_row,
    ops.Combine: combine,
    ops.RowScale: row_scale,
    QuantizeTo: elementwise,
    NarrowResult: elementwise,
    Exchange: exchange,
    Received: exchange,
    RowStatistics: by_row,
    ops.CausalConv1d: convolution,
    SelectiveScan: along(2, 2, None, None, 0, 0, 1, 2, 1),
    StateSpaceDual: along(2, 2, 2, 2, 0, 0, 0, 1, 2, 1),
    GatedDelta: along(2, 2, 2, 2, 2, 0, 0, 1, 2, 1, by=2),
    GatedLinearRecurrence: along(2, 2, 2, 0, 1, 2, 1),
    WKV: along(2, 2, 0, 0, 1, 2, 1),
    MatrixWKV: along(2, 2, 2, 2, 0, 1, 2, 1),
    BlockLinear: along(2, 0, 0, 2),
}


def rule_of(op: Op) -> Rule:
    """The rule of an operation: its own, or that of the nearest class that it derives from."""
    for cls in type(op).__mro__:
        if cls in RULES:
            return RULES[cls]
    return whole
