"""How attention splits: heads apart, or positions of the step or of the cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sympy import Expr, Integer

from costgraph.ir.op import Op, require
from costgraph.ops.compress import Importance
from costgraph.ops.latent import SplitFlash
from costgraph.ops.pattern import Parted
from costgraph.passes.parallel.places import (
    WHOLE,
    Place,
    group_part,
)
from costgraph.passes.parallel.site import Ruled, Site, moved, whole

ONE = Integer(1)


def rope(site: Site) -> Ruled:
    """Heads are rotated apart, all by one table; positions by their rows of it."""
    place = site.place(0)
    table = moved(place, 0) if place.axis == 1 else WHOLE
    return Ruled(site.op, (place, table), (place,))


def append(site: Site) -> Ruled:
    """A cache lies as the rows that it is extended by; or each device has a part of both."""
    if len(site.inputs) == 3 and (site.context != 1 or site.place(1).axis not in (None, 0)):
        raise site.blocked("its kernel makes rows of all heads together", site.place(1))
    if site.context != 1:
        if site.inputs[0].dtype.recent is not None:
            raise site.blocked("keeps its last tokens wide, which lie on one device: state tp")
        parts = (Place(1, t.shape[1] / site.context) for t in (*site.inputs, *site.outputs))
        cache, new, result = parts
        return Ruled(site.op, (cache, new), (result,))
    place, kernels = site.place(1), (WHOLE,) * (len(site.inputs) - 2)
    return Ruled(site.op, (place, place, *kernels), (place,))


def book(site: Site) -> Ruled:
    """A book of what heads have looked at lies as their probabilities."""
    place = site.place(1)
    if place.axis is None:
        return whole(site)
    if place.axis == 0:
        return elementwise_rows(site, place)
    if place.axis != 1 or site.context != 1:
        raise site.blocked("splits along heads only", place)
    heads = moved(place, 2)
    return Ruled(site.op, (heads, place), (heads,))


def page_append(site: Site) -> Ruled:
    """What stands for blocks of keys lies as the keys do."""
    place = site.place(1)
    if site.context != 1:
        raise site.blocked("rows of blocks lie on one device: state tp", place)
    return Ruled(site.op, (place, place), (place,))


def page_scores(site: Site) -> Ruled:
    """Query heads, with the rows of the key heads that choose for them."""
    place = site.place(0)
    if place.axis is None:
        return whole(site)
    if place.axis == 0:
        return elementwise_rows(site, place)
    keys = _keys(site, 1, site.inputs[0].shape[2])
    if place.axis != 2 or keys.axis != 2:
        raise site.blocked("splits along heads of keys only", place)
    return Ruled(site.op, (place, keys), (moved(keys, 1),))


def compress(site: Site) -> Ruled:
    """Rows of blocks lie as the keys or values that they are made of; matrices are whole."""
    place = site.place(1)
    if site.context != 1:
        raise site.blocked("rows of blocks lie on one device: state tp", place)
    if place.axis not in (None, 0, 2):
        raise site.blocked("splits along heads only", place)
    return Ruled(site.op, (place, place, WHOLE, WHOLE, WHOLE), (place,))


def importance(site: Site) -> Ruled:
    """Heads that share keys speak for blocks together."""
    place = site.place(0)
    if place.axis is None:
        return whole(site)
    if place.axis == 0:
        return elementwise_rows(site, place)
    if place.axis != 1 or site.context != 1:
        raise site.blocked("splits along heads only", place)
    assert isinstance(site.op, Importance)
    groups = group_part(site.op.groups, site.degree, f"groups of {site.inputs[0].name!r}")
    return Ruled(replace(site.op, groups=groups), (place,), (Place(1, groups),))


def prompt_votes(site: Site) -> Ruled:
    """Heads of keys vote apart, each with the query heads that share it."""
    made = page_scores(site)
    (place,) = made.results
    return made if place.axis != 1 else replace(made, results=(moved(place, 2),))


def nearest(site: Site) -> Ruled:
    """Heads choose apart, each among the rows of its head of keys."""
    made = page_scores(site)
    query = site.place(0)
    return replace(made, results=(query,)) if query.axis == 2 else made


def choose(site: Site) -> Ruled:
    """Heads choose apart."""
    place = site.place(0)
    if place.axis is None:
        return whole(site)
    if place.axis not in (0, 1):
        raise site.blocked("needs whole rows", place)
    return Ruled(site.op, (place,), (moved(place, 2 if place.axis == 1 else 0),))


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
    return Ruled(site.op, tuple(wanted), (moved(place, 1),))


def pair_bias(site: Site) -> Ruled:
    """Scores of the heads at hand, and their rows of the tables that all devices hold."""
    place = site.place(0)
    if site.context != 1 or place.axis is None:
        return whole(site)
    if place.axis != 1:
        raise site.blocked("splits along heads only", place)
    tables = (Place(0, place.length),) * (len(site.inputs) - 1)
    return Ruled(site.op, (place, *tables), (place,))


def relative(site: Site) -> Ruled:
    """Query heads, with their rows of the table."""
    place = site.place(0)
    if site.context != 1 or place.axis is None:
        return whole(site)
    if place.axis == 0:
        return elementwise_rows(site, place)
    if place.axis != 2:
        raise site.blocked("splits along heads only", place)
    rows = (moved(place, 1),) * (len(site.inputs) - 1)
    return Ruled(site.op, (place, *rows), (moved(place, 1),))


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
    heads = site.inputs[0].shape[1]
    rest = tuple(_keys(site, i, heads) for i in range(1, len(site.inputs)))
    return Ruled(site.op, (place, *rest), (moved(place, 2),))


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
            wanted.append(moved(place, 0))
        else:
            wanted.append(_keys(site, index, site.inputs[0].shape[2]))
    return Ruled(site.op, tuple(wanted), (place,))


def _masked(op: Any, queries: Expr = ONE, keys: Expr = ONE) -> Op:
    """Attention, or its softmax, over a part of the queries or of the keys."""
    require(not op.pattern.indexed, op, "rows chosen for a query lie on several devices: state tp")
    made: Op = replace(op, pattern=Parted(op.pattern, queries, keys))
    return made


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
        made = _masked(op, queries=c)
        gathers = tuple(range(queries, count))
        return Ruled(made, (place,) * queries + rest, (moved(place, axes[0]),), gathers)
    keys = tuple(
        Place(1, t.shape[1] / c) if len(t.shape) > 1 else WHOLE for t in site.inputs[queries:]
    )
    made = _masked(op, keys=c)
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
        made = _masked(op, queries=c)
        return Ruled(made, (place, WHOLE), (moved(place, 1),), gathers=(1,))
    made = _masked(op, keys=c)
    keys = Place(1, site.inputs[1].shape[1] / c)
    return Ruled(made, (place, keys), (Place(partial=True, weighted=True),))


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
        made = _masked(site.op, keys=site.context)
        return Ruled(made, (place, *rest), (place,))  # of its own keys; results are weighted
    if site.context != 1 and place.axis == 2:
        made = _masked(site.op, queries=site.context)
        return Ruled(made, (place, *(WHOLE,) * (len(site.inputs) - 1)), (place,))
    sinks = moved(place, 0) if place.axis == 1 else WHOLE
    return Ruled(site.op, (place, *(sinks,) * (len(site.inputs) - 1)), (place,))
