"""Latent attention: scores in two parts, products per head, tiles that share the latents."""

from __future__ import annotations

import pytest
from sympy import Integer, Rational, expand

from costgraph.errors import VerifyError
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Direction
from costgraph.ir.dtypes import BF16, FORMATS
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import AttentionValues, HeadLinear, Linear, Softmax, SplitScores
from costgraph.ops.latent import SplitFlash
from costgraph.ops.paged import Paging
from costgraph.ops.pattern import Dense
from costgraph.symbols import B, T, q

I = Integer  # noqa: E741
HEADS, CONTENT, ROPE = 16, 512, 64


def parts(key_heads=1, content=CONTENT):
    """Queries and keys of the absorbed form (one latent for all heads), or of the other."""
    role = Role.KV if key_heads == 1 else Role.ACTIVATION
    return [
        Tensor("qa", (B, q, I(HEADS), I(content)), BF16),
        Tensor("qb", (B, q, I(HEADS), I(ROPE)), BF16),
        Tensor("ka", (B, T, I(key_heads), I(content)), BF16, role),
        Tensor("kb", (B, T, I(1), I(ROPE)), BF16, Role.KV),
    ]


def test_scores_cost_both_parts():
    op, given = SplitScores(Dense()), parts()
    (spec,) = op.infer(given)
    assert spec.shape == (B, HEADS, q, T)
    cost = op.cost(given, (spec.named("s"),))
    assert expand(cost.total_flops - 2 * B * HEADS * (CONTENT + ROPE) * q * T) == 0
    assert cost.bytes_of(Role.KV) == B * T * (CONTENT + ROPE) * 2


def test_products_per_head_cost_as_one_product_per_head():
    x = Tensor("x", (B, q, I(HEADS), I(128)), BF16)
    w = Tensor("w", (I(HEADS), I(CONTENT), I(128)), BF16, Role.WEIGHT)
    (spec,) = HeadLinear().infer([x, w])
    assert spec.shape == (B, q, HEADS, CONTENT)
    cost = HeadLinear().cost([x, w], (spec.named("y"),))
    one = Linear().cost(
        [Tensor("x", (B, q, I(128)), BF16), Tensor("w", (I(CONTENT), I(128)), BF16, Role.WEIGHT)],
        (Tensor("y", (B, q, I(CONTENT)), BF16),),
    )
    assert cost.flops_of(Engine.TENSOR) == HEADS * one.flops_of(Engine.TENSOR)
    assert cost.total_bytes.equals(HEADS * one.total_bytes)
    narrow = Tensor("w", w.shape, FORMATS["int4"], Role.WEIGHT)
    assert HeadLinear().cost([x, narrow], (spec.named("y"),)).flops_of(Engine.VECTOR) == 2 * w.numel
    with pytest.raises(VerifyError, match="heads"):
        HeadLinear().infer([Tensor("x", (B, q, I(3), I(128)), BF16), w])


def flash(shared=True, **changes):
    given = parts() if shared else parts(HEADS, 128)
    values = given[2] if shared else Tensor("v", (B, T, I(HEADS), I(128)), BF16)
    given.append(values)
    op = SplitFlash(**changes)
    out = op.infer(given)[0].named("y")
    return op, given, out


@pytest.mark.parametrize("shared", [True, False])
def test_tiles_do_the_work_of_their_parts(shared):
    op, given, out = flash(shared)
    scores = SplitScores().infer(given[:4])[0].named("s")
    pieces = (
        SplitScores().work(given[:4], (scores,)),
        Softmax().work((scores,), (scores,)),
        AttentionValues().work((scores, given[4]), (out,)),
    )
    assert expand(sum(op.work(given, (out,)).values()) - sum(sum(p.values()) for p in pieces)) == 0


def test_a_decode_step_reads_the_latents_once_for_all_heads():
    op, given, out = flash()
    cost = op.cost(given, (out,)).mapped(lambda e: e.xreplace({q: I(1)}))
    assert expand(cost.bytes_of(Role.KV, Direction.READ) - B * T * (CONTENT + ROPE) * 2) == 0


def test_blocks_of_a_prefill_read_keys_up_to_their_diagonal():
    op, given, out = flash(shared=False, rows=I(128), causal_traffic=True)
    here = {B: I(1), q: I(256), T: I(256)}
    moved = {a.tensor: a.bytes.xreplace(here) for a in op.accesses(given, (out,))}
    share = Rational(128 + 256)  # two blocks of 128 positions
    assert moved["ka"] == share * HEADS * 128 * 2
    assert moved["v"] == share * HEADS * 128 * 2
    assert moved["kb"] == share * HEADS * ROPE * 2  # for every head of the content keys
    full, given, out = flash(shared=False, rows=I(128), causal_traffic=False)
    moved = {a.tensor: a.bytes.xreplace(here) for a in full.accesses(given, (out,))}
    assert moved["ka"] == 2 * 256 * HEADS * 128 * 2
    once, given, out = flash(shared=False)
    for access in once.accesses(given, (out,)):
        assert access.bytes == next(t.bytes for t in (*given, out) if t.name == access.tensor)


def test_narrow_latents_are_converted_once():
    op, given, out = flash()
    narrow = Tensor("ka", given[2].shape, FORMATS["int4"], Role.KV)
    wide = op.work(given, (out,))
    found = op.work([*given[:2], narrow, given[3], narrow], (out,))
    extra = sum(found.values()) - sum(wide.values())
    assert expand(extra - 2 * narrow.numel) == 0


def test_pieces_of_the_context_and_pages():
    op, given, out = flash(splits=I(4))
    moved = [a for a in op.accesses(given, (out,)) if a.tensor == "partials"]
    assert [a.bytes for a in moved] == [B * q * HEADS * 4 * (CONTENT + 2) * 4] * 2
    op, given, out = flash(paging=Paging(I(16), kernel=Rational(5, 4)))
    found = {a.tensor: a.bytes.xreplace({q: I(1)}) for a in op.accesses(given, (out,))}
    assert expand(found["ka"] - Rational(5, 4) * B * T * CONTENT * 2) == 0
    assert "block_table" in found


def test_operands_that_do_not_fit_are_refused():
    a, b, c, d = parts()
    with pytest.raises(VerifyError, match="in two parts"):
        SplitScores().infer([a, c])
    other = Tensor("qb", (B, q, I(HEADS + 1), I(ROPE)), BF16)
    with pytest.raises(VerifyError, match="two parts"):
        SplitScores().infer([a, other, c, d])
    with pytest.raises(VerifyError, match="and values"):
        SplitFlash().infer([a, b, c, d])
