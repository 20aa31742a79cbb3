"""Attention in traced graphs: products around a softmax, and the masks on its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sympy import Expr, Integer, Mul

from costgraph.ir.op import same
from costgraph.models.traced.laws import CAUSAL, Ramp, Shown, holding, law_of
from costgraph.models.traced.seen import Seen, seen
from costgraph.models.traced.value import Value
from costgraph.ops import AttentionScores, AttentionValues, SoftCap, Softmax
from costgraph.ops.bias import ScoreBias
from costgraph.ops.pattern import FULL, Band, Pattern, counted, sliding

if TYPE_CHECKING:
    from costgraph.models.traced.lowering import Lowering

ONE = Integer(1)
ZERO = Integer(0)
SWAP = (0, 2, 1, 3)


def attention(
    low: Lowering,
    query: Value,
    keys: Value,
    values: Value,
    *,
    causal: bool = False,
    past: Expr = ZERO,
    window: Expr | None = None,
    biases: Sequence[Value] = (),
    cap: bool = False,
    sinks: Sequence[Value] = (),
    heads_first: bool = True,
) -> Value:
    """Softmax attention of ``(B, H, q, dh)`` operands; a result of the same layout.

    ``causal`` lets query ``i`` see keys ``0 … past + i``, the last ``window`` of them;
    ``biases`` are truth values that let a pair be seen, or numbers added to scores;
    ``cap`` caps scores, ``sinks (H)`` take part in the softmax.
    """
    low.countable(query, keys)
    if heads_first:
        query, keys, values = (low.transpose(v, SWAP) for v in (query, keys, values))
    rows = query.shape[1]
    if causal and past == 0 and not same(rows, keys.shape[1]):
        # Keys past the last query are seen by none: computed only if all pairs are.
        causal = low.mask != "compute"
    if causal and past == 0 and not same(rows, keys.shape[1]):
        keys, values = (low.cut(v, 1, 0, rows) for v in (keys, values))
        if not same(rows, keys.shape[1]):
            raise low.wrong(f"causal attention of {rows} queries to {keys.shape[1]} keys")
    columns = keys.shape[1]
    within: tuple[Ramp, ...] = (CAUSAL.plus(Ramp(past)),) if causal else ()
    if window is not None:
        within += (CAUSAL.times(-1).plus(Ramp(window - 1 - past)),)
    left = seen(Shown(within), rows, columns)
    if left is None:
        raise low.wrong(f"a window of {window} over {columns} keys is not understood")
    data: list[Value] = []
    for bias in biases:
        law = shown_by(bias)
        found = seen(Shown((*within, *law.within)), rows, columns)
        if found is None:
            data.append(bias)
        else:
            within, left = (*within, *law.within), found
            data.extend(law.rest)
    scores = _scores(low, query, keys, left, data, cap)
    pattern = pattern_of(low.mask, left)
    chances = low.emit(Softmax(pattern), scores, *sinks, name=low.label("softmax"))
    mixed = low.emit(AttentionValues(pattern), chances, values, name=low.label("sv_matmul"))
    return low.transpose(mixed, SWAP) if heads_first else mixed


def _scores(
    low: Lowering, query: Value, keys: Value, left: Seen, data: Sequence[Value], cap: bool
) -> Value:
    pattern = pattern_of(low.mask, left)
    scores = low.emit(AttentionScores(pattern), query, keys, name=low.label("qk_matmul"))
    if cap:
        scores = low.emit(SoftCap(), scores, name=low.label("score_cap"))
    if data:
        scores = low.emit(ScoreBias(pattern), scores, *data, name=low.label("mask_add"))
    return scores


def pattern_of(mask: str, left: Seen) -> Pattern:
    """What positions see, masked pairs counted as ``mask`` says."""
    if left.causal:
        return counted(mask, sliding(left.window))
    return FULL if left.reach is None or mask == "compute" else Band(left.reach)


def shown_by(bias: Value) -> Shown:
    """What a mask or bias lets be seen, and the data that it holds."""
    if bias.dtype.name == "bool":
        return holding(bias, True)
    law = law_of(bias)
    if isinstance(law, Shown) and law.form == "addend":
        return law
    return Shown((), (bias,))


def four_axes(low: Lowering, x: Value) -> Value:
    """``(…, H, q, dh)`` with its leading axes as one."""
    *lead, _, _, _ = (ONE, ONE, *x.shape)
    return low.reshape(x, (Mul(*lead), *(ONE, *x.shape)[-3:]))
