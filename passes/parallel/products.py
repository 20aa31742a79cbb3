"""How matrix products split: columns where the operand is whole, rows where it is split."""

from __future__ import annotations

from dataclasses import replace

from sympy import Add, Expr, Mul

from costgraph import ops
from costgraph.ir.tensor import Role
from costgraph.ops.adapters import AdapterLinear
from costgraph.passes.parallel.ahead import Piece, growth, shares_heads
from costgraph.passes.parallel.experts import Spread
from costgraph.passes.parallel.places import (
    WHOLE,
    Place,
    rows_part,
)
from costgraph.passes.parallel.site import Rule, Ruled, Site, moved, whole


def linear(site: Site) -> Ruled:
    """Columns of the weight where the operand is whole, rows where it is split."""
    op, x, place = site.op, site.inputs[0], site.place(0)
    assert isinstance(op, ops.Linear)
    first = len(x.shape) - op.contract
    biases = len(site.inputs) - 2
    if site.context != 1 and place.axis == 1 and x.role is Role.KV and not site.decoding:
        # What is cached is less than what is made of it: gathered before, not after.
        return Ruled(op, (WHOLE,) * len(site.inputs), (WHOLE,), gathers=(0,))
    if place.axis == first and not place.tokens and _after_a_bottleneck(site):
        # Rows of the narrow operand are less to move than sums of the wide result.
        ruled = linear(replace(site, places=(None, *site.places[1:])))
        return replace(ruled, gathers=(0,))
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
        piece = Piece(op.split[0], shared=site.ahead.is_shared(site.outputs[0].name))
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


def _after_a_bottleneck(site: Site) -> bool:
    """Whether a product widens again what others before it, or their sum, have narrowed."""
    op, x = site.op, site.inputs[0]
    assert isinstance(op, ops.Linear)
    narrowed = isinstance(site.producer, (ops.Linear, ops.Add))
    return narrowed and growth(x, site.outputs[0], op) > 1


def adapter_in(site: Site) -> Ruled:
    """As a product whose matrix stays whole: the rank is not split."""
    return _stacked(replace(site, stays=True))


def adapter_out(site: Site) -> Ruled:
    """As the product that it is beside: columns, or partial sums where those are its rank's."""
    partial = site.place(0)
    if partial.partial:
        return Ruled(site.op, (partial, WHOLE), (partial,))
    return _stacked(site)


def _stacked(site: Site) -> Ruled:
    """What the rule of one matrix says, for each of a stack."""
    op, (x, w) = site.op, site.inputs
    assert isinstance(op, AdapterLinear)
    plain = ops.Linear(contract=op.contract, split=op.split)
    one = replace(w, shape=w.shape[1:])
    ruled = linear(replace(site, op=plain, inputs=(x, one)))
    assert isinstance(ruled.op, ops.Linear)
    place = ruled.wanted[1]
    stack = place if place.axis is None else moved(place, place.axis + 1)
    made = replace(op, split=ruled.op.split)
    return Ruled(made, (ruled.wanted[0], stack), ruled.results, ruled.gathers)


def columns_part(site: Site, result: str) -> Expr:
    """Columns of one device of a product with a flat result."""
    width = site.outputs[0].shape[-1]
    if site.ahead.is_logits(result):
        return rows_part(width, site.degree)
    return flat_part(site, result)


def flat_part(site: Site, result: str) -> Expr:
    """The part of a flat last axis: of its width, or of each piece that it is put together from."""
    found = site.ahead.pieces(result)
    what = "heads" if any(p.width != 1 for p in found) else "width"
    return Add(*(p.part(site.degree, f"{what} of {site.name!r}") * p.width for p in found))


def head_linear(site: Site) -> Ruled:
    """A matrix per head: those of the heads at hand."""
    place = site.place(0)
    if place.axis is None:
        return whole(site)
    if place.axis != 2:
        raise site.blocked("splits along heads only", place)
    return Ruled(site.op, (place, moved(place, 0)), (place,))


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
        rows = moved(place, 2)
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
                found.append(moved(place, axis))
            elif (tensor.shape[axis] / size).is_Integer:
                assert place.length is not None
                found.append(moved(place, axis, place.length * tensor.shape[axis] / size))
            else:
                piece = Piece(tensor.shape[axis], shared=shares_heads(site.op, len(found)))
                local = piece.part(site.degree, f"groups of {tensor.name!r}")
                found.append(moved(place, axis, local))
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
    channels = moved(place, 0)
    state = moved(place, 1)
    return Ruled(site.op, (place, channels, *(channels,) * biases, state), (place, state))
