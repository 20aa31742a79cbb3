"""Image tokens that leave behind an early layer, layer by layer by hand."""

from __future__ import annotations

from functools import cache

import pytest
from sympy import Integer, Rational

import costgraph as cg
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import InputError, PipelineError
from costgraph.ir.tensor import Role
from costgraph.ops.index import KeepRows, RankRows
from costgraph.symbols import B, G, S, T, q

LAYER = 2 * 32 * 128 * 2  # byte of a token's keys and values in one layer of llava-1.5-7b


@cache
def made(passes: str, **options):
    return cg.compile("llava-1.5-7b", "h100", passes, **options)


def graph(compiled, phase: str):
    return compiled.program.phase(phase).graph


def layer(values):
    (region,) = (n.op for n in graph(made(""), "decode").nodes if n.op.kind == "repeat")
    return region.body.cost.mapped(lambda e: e.xreplace(values))


def at(s: int, t: int):
    return {B: Integer(3), q: Integer(s), T: Integer(t), G: Integer(576), S: Integer(t)}


@pytest.mark.parametrize(
    ("k", "share"), [(2, Rational(1, 2)), (5, Rational(3, 4)), (31, Rational(1, 3))]
)
def test_a_prompt_is_its_layers_before_and_behind(k, share):
    pruned = graph(made(f"prune-tokens{{layer={k},share={share}}}"), "prefill")
    plain = graph(made(""), "prefill")
    gone = int(576 * share)
    sizes = at(700, 700)
    a, b = (g.cost.mapped(lambda e: e.xreplace(sizes)) for g in (pruned, plain))
    less = layer(at(700, 700)).total_flops - layer(at(700 - gone, 700 - gone)).total_flops
    (rank,) = (n for n in pruned.nodes if isinstance(n.op, RankRows))
    ranked = 3 * 576 * (2 * 32 * 128 + 32 + 1)
    assert rank.op.work(tuple(pruned.operands(rank)), rank.outputs)
    # Everything behind the layers sees one position alone, but the norm in front of it.
    norm = [g.node("final_norm") for g in (pruned, plain)]
    norms = [
        n.op.cost(tuple(g.operands(n)), n.outputs).total_flops.xreplace(sizes)
        for n, g in zip(norm, (pruned, plain), strict=True)
    ]
    assert a.total_flops == b.total_flops - (32 - k) * less + ranked + norms[0] - norms[1]
    kept = [n for n in pruned.nodes if isinstance(n.op, KeepRows)]
    assert len(kept) == 1 + sum("rope" in n.name for n in kept)


def test_later_steps_attend_and_keep_what_stayed():
    step = made("prune-tokens").breakdown("decode", B=3, T=900, G=576)
    assert step.totals["kv_bytes"] == 3 * LAYER * (2 * 900 + 30 * (900 - 288))
    read = graph(made("fuse,prune-tokens"), "decode").cost.bytes_of(Role.KV)
    whole = graph(made("fuse"), "decode").cost.bytes_of(Role.KV)
    sizes = at(1, 900)
    assert whole.xreplace(sizes) - read.xreplace(sizes) == 3 * LAYER * 30 * 288
    fewer = made("fuse,prune-tokens", image=336)
    assert fewer.tpot.evaluate(B=8, T=900) < made("fuse", image=336).tpot.evaluate(B=8, T=900)
    assert fewer.ttft.evaluate(B=1, S=700) < made("fuse", image=336).ttft.evaluate(B=1, S=700)


def test_odd_shares_leave_whole_tokens_and_no_share_leaves_all():
    step = made("prune-tokens{share=1/7}").breakdown("decode", B=1, T=900, G=577)
    assert step.totals["kv_bytes"] == LAYER * (2 * 900 + 30 * (900 - 82))
    none = made("prune-tokens{share=0}")
    assert none.program.phases == made("").program.phases
    assert "no token leaves" in none.undone[-1]


@pytest.mark.parametrize(
    ("model", "passes", "words"),
    [
        ("llama-3-8b", "prune-tokens", "no prompt in which image tokens stand"),
        ("llava-1.5-7b", "prune-tokens{layer=32}", "no layer behind"),
        ("llava-1.5-7b", "prune-tokens{layer=40}", "prune-tokens"),
        ("qwen3-vl-8b", "prune-tokens", "give a later one"),
    ],
)
def test_what_cannot_lose_tokens_is_refused(model, passes, words):
    with pytest.raises(PipelineError, match=words):
        cg.compile(model, "h100", passes)


def test_a_token_stays_for_the_logits():
    all_gone = cg.compile("llava-1.5-7b", "h100", "prune-tokens{share=1}", image="336x336")
    with pytest.raises(InputError, match="a token that stays makes the logits"):
        all_gone.ttft.evaluate(B=1, S=576)
    assert all_gone.ttft.evaluate(B=1, S=577) > 0


@pytest.mark.parametrize(
    "passes",
    [
        "window{size=40,rotate=false}", "evict", "evict{by=merge,most=30}", "snap-kv{keep=400}",
        "select{block=8,blocks=3}", "recur{segment=16}", "index{top=16}",
        "recur{segment=13,compressed=2,ratio=13,by=mean}",
    ],
)  # fmt: skip
def test_layers_behind_the_cut_see_and_keep_what_their_pattern_says_of_what_stays(passes):
    """Patterns come first, whatever is written first: 7 layers of 900 positions, 25 of 612."""
    both, one = made(f"prune-tokens{{layer=7}},{passes}"), made(passes)
    (region,) = (n.op for n in graph(one, "decode").nodes if n.op.kind == "repeat")
    regions = [n.op for n in graph(both, "decode").nodes if n.op.kind == "repeat"]
    assert [int(r.count) for r in regions] == [7, 25]
    for behind, gone in zip(regions, (0, 288), strict=True):
        long = {B: Integer(2), q: Integer(1), T: Integer(900), S: Integer(800), G: Integer(576)}
        short = {**long, T: Integer(900 - gone), S: Integer(800 - gone)}
        for total in ("total_flops", "total_bytes"):
            found, wanted = (getattr(r.body.cost, total) for r in (behind, region))
            assert found.xreplace(long) == wanted.xreplace(short)
        assert cache_bytes(behind.body).xreplace(long) == cache_bytes(region.body).xreplace(short)


def test_halves_are_of_layers_that_are_all_alike():
    shared = made("prune-tokens,share-kv{by=half}")
    assert any("halves are of layers that are all alike" in u for u in shared.undone)
    assert shared.program.phases == made("prune-tokens").program.phases
