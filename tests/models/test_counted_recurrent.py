"""Transformer-XL, XLNet and Funnel against PyTorch's counter on the published classes.

``counted/recurrent.json`` holds small configurations, parameters, and the FLOP of products for
``q`` new positions of ``b`` sequences, all pairs counted. Transformer-XL's class is that of
transformers 4.46, the last that had it; memories, XLNet's too, are full from the beginning.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Expr, Integer

import costgraph as cg
from costgraph.counting.count import parameters, rows
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import ModelError
from costgraph.ir.verify import verify_program
from costgraph.models import load_model
from costgraph.symbols import B, S, T, q
from tests.models.counting import DATA, products, sizes_in, told_of

COUNTED: dict[str, Any] = json.loads((DATA / "recurrent.json").read_text())
CASES = [(name, case) for name, entry in COUNTED.items() for case in entry["cases"]]
FUNNELS = [name for name in COUNTED if name.startswith("funnel")]


@cache
def program(name: str):
    found = load_model(COUNTED[name]["config"], mask="compute", logits="all")
    verify_program(found)
    return found


def flop(graph, batch: int, new: int, context: int) -> int:
    values = dict(zip((B, q, T, S), map(Integer, (batch, new, context, context)), strict=True))
    return int(sum((r.count * products(r) for r in rows(graph)), Integer(0)).xreplace(values))


def beside(config: dict[str, Any], batch: int, new: int) -> int:
    """What the class multiplies beside the model."""
    d, layers, heads = config["d_model"], config.get("n_layer", 0), config["n_head"]
    if config["model_type"] == "xlnet":
        # Distances are projected for each sequence, as many as before and behind.
        rows_ = 2 * new + (config["mem_len"] or 0)
        return layers * 2 * (batch - 1) * rows_ * d * d
    if config["model_type"] == "funnel":
        return 0
    wide = heads * config["d_head"]
    # Queries of all positions in memory, which nothing asks.
    asked = 2 * batch * config["mem_len"] * d * wide
    if not config["same_length"]:
        return layers * asked
    # The oldest position, which none sees: keys, values, its distance, and three products.
    row = 2 * 2 * batch * d * wide + 2 * d * wide + 3 * 2 * batch * new * wide
    return layers * (asked + row)


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_are_equal(name):
    assert parameters(program(name)) == COUNTED[name]["params"]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_products_are_equal(name, case):
    entry = COUNTED[name]
    batch, new = map(int, re.findall(r"\d+", case))
    context = new + entry["config"].get("mem_len", 0) if name.startswith("transfo") else new
    found = program(name)
    total = flop(found.phases[-1].graph, batch, new, context)
    assert total + beside(entry["config"], batch, new) == entry["cases"][case]


def seen(name: str, position: int) -> int:
    """Positions that one sees, the memory moving on with each token."""
    config = COUNTED[name]["config"]
    return min(position, config["mem_len"] + (not config["same_length"]))


@pytest.mark.parametrize("name", ["transfo-xl", "transfo-xl-longer"])
@settings(max_examples=25, deadline=None)
@given(new=st.integers(1, 40), before=st.integers(0, 40))
def test_pairs_and_distances_are_those_of_masks(name, new, before):
    config = COUNTED[name]["config"]
    graph = load_model(config).phase("decode").graph
    context = before + new
    pairs = sum(seen(name, p) for p in range(before + 1, context + 1))
    # All that the first new position sees, and the new ones.
    found = min(context, seen(name, 10**6) + new - 1)
    values = {B: Integer(2), q: Integer(new), T: Integer(context)}
    each = {r.node.name: r for r in rows(graph)}
    wide, layers = config["n_head"] * config["d_head"], config["n_layer"]
    for product in ("qk_matmul", "distance_matmul", "sv_matmul"):
        row = each[product]
        made = (row.count * row.cost.total_flops).xreplace(values)
        assert made == layers * 2 * 2 * wide * pairs
    made = (each["r_proj"].count * each["r_proj"].cost.total_flops).xreplace(values)
    assert made == layers * 2 * config["d_model"] * wide * found


def test_states_are_kept_and_not_keys_and_values():
    """Half of what keys and values as wide as the model would be; no more than the memory."""
    graph = cg.load_model("transfo-xl-wt103").phase("decode").graph
    kept = cache_bytes(graph).xreplace({B: Integer(3)})
    assert kept.xreplace({T: Integer(700)}) == 3 * 18 * 1024 * 2 * 700
    assert kept.xreplace({T: Integer(10**6)}) == 3 * 18 * 1024 * 2 * 1600


def test_xlnet_keeps_states_of_its_memory_and_says_so():
    """Each layer 11 rows of 24 elements, whatever the segment; nothing where the file says no."""
    config = COUNTED["xlnet-remembering"]["config"]
    found = load_model(config)
    kept = cache_bytes(found.phases[0].graph).xreplace({B: Integer(2), q: Integer(5)})
    assert kept == 2 * 3 * 11 * 24 * 2
    told = "11 positions in front of the segment are remembered"
    assert any(told in a for a in found.assumptions)
    for change in ({"mem_len": None}, {"mem_len": 0}, {"use_mems_eval": False}):
        plain = load_model({**config, **change})
        assert plain.phases == load_model({**config, "mem_len": None}).phases
        assert any("no memory of segments in front" in a for a in plain.assumptions)


@pytest.mark.parametrize("name", FUNNELS)
def test_blocks_halve_a_text_as_often_as_the_class_does(name):
    """The shortest text is counted; one that is shorter is refused."""
    config = COUNTED[name]["config"]
    found = load_model(config)
    (limit,) = found.limits
    shortest = int(limit.expr)
    separate, cut = config.get("separate_cls", True), config.get("truncate_seq", True)

    def halved(length: int) -> list[int]:
        made = [length]
        for _ in config["block_sizes"][1:]:
            if made[-1] <= (2 if separate else 1):
                return []
            kept = made[-1] if not separate or cut else made[-1] + 1
            made.append(-(-kept // 2))
        return made

    assert halved(shortest)
    assert not halved(shortest - 1)
    latency = cg.compile(config, "h100").latency
    assert latency.evaluate(B=1, S=shortest) > 0
    with pytest.raises(cg.CostgraphError, match="not halved as often"):
        latency.evaluate(B=1, S=shortest - 1)
    for length in range(shortest, 40):
        lengths = {
            int(r.node.outputs[0].shape[1].xreplace({q: Integer(length)}))
            for r in rows(found.graph)
            if r.node.name.rpartition(".")[2] == "mlp_norm"
        }
        assert lengths == set(halved(length))


@pytest.mark.parametrize(("name", "key"), sizes_in(COUNTED))
def test_every_size_is_looked_at(name, key):
    """A size that makes no sense is refused, or a note says that it plays no part."""
    assert key in told_of({**COUNTED[name]["config"], key: {"no": "size"}})


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("transfo-xl", {"attn_type": 1}, "'attn_type' = 1: only 0 is supported"),
        ("transfo-xl", {"untie_r": False}, "'untie_r' = False: only True is supported"),
        ("transfo-xl", {"cutoffs": [30, 20]}, r"'cutoffs' = \[30, 20\] are no ends of clusters"),
        ("transfo-xl", {"div_val": 9}, "'div_val' = 9 leaves nothing of 'd_embed' = 32"),
        ("transfo-xl", {"tie_projs": [True]}, "'tie_projs' says nothing of some of 4 clusters"),
        ("xlnet", {"attn_type": "uni"}, "'attn_type' = 'uni' is not supported"),
        ("xlnet", {"d_head": 7}, "'d_head' = 7 is not 24/3"),
        ("funnel", {"attention_type": "factorized"}, "only 'relative_shift' is supported"),
        ("funnel", {"pooling_type": "min"}, "'pooling_type' = 'min': no mean and no max"),
        ("funnel", {"block_repeats": [1]}, "differ in length"),
    ],
)
def test_what_is_not_understood_is_refused(name, change, said):
    with pytest.raises(ModelError, match=said):
        load_model({**COUNTED[name]["config"], **change})


def test_distances_cost_a_product_and_are_tiled_as_a_bias():
    plain, fused = (cg.compile("xlnet-large", "h100", p).program.graph for p in ("", "fuse"))
    kinds = [r.kind for r in rows(plain)]
    assert kinds.count("relative-matmul") == kinds.count("qk-matmul") == 1
    kinds = [r.kind for r in rows(fused)]
    assert "qk-matmul" not in kinds
    assert "relative-matmul" in kinds


#: The published vocabulary of Transformer-XL is odd.
EVEN = {**COUNTED["transfo-xl"]["config"], "n_head": 4, "vocab_size": 96, "cutoffs": [12, 28, 60]}


@pytest.mark.parametrize("model", [EVEN, "xlnet-large", "funnel-small"])
def test_two_devices_do_half_of_the_products_each(model):
    phases = [cg.compile(model, "2xh100", p).program.phases[-1] for p in ("", "parallel{tp=2}")]
    values = {B: Integer(4), q: Integer(8), T: Integer(64), S: Integer(8)}
    kinds = ("qk-matmul", "relative-matmul", "sv-matmul")

    def attended(phase) -> Expr:
        flops = (r.count * r.cost.total_flops for r in rows(phase.graph) if r.kind in kinds)
        return sum(flops, Integer(0)).xreplace(values)

    whole, part = map(attended, phases)
    assert 2 * part == whole


@pytest.mark.parametrize(
    ("model", "options", "cache", "product"),
    [("transfo-xl-wt103", {}, "state_cache", "k_proj"),
     ("deepseek-v2-lite", {"mla": "naive"}, "latent_cache", "k_up")],
)  # fmt: skip
def test_caches_that_products_read_stay_wide_and_that_is_said(model, options, cache, product):
    """A product of narrow rows would be one of narrow results, which no kernel makes."""
    plain, narrow = (cg.compile(model, "h100", p, **options) for p in ("", "quantize{kv=int8}"))
    assert any(m.node == cache and product in m.reason for m in narrow.trace.misses)
    graphs = [c.program.phases[-1].graph for c in (plain, narrow)]
    kept = [
        {t.name: t.dtype for g in graph.walk() for t in g.sources if t.name == cache}
        for graph in graphs
    ]
    assert kept[0] == kept[1]
    assert kept[0]
