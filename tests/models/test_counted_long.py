"""Encoders of long documents against PyTorch's counter on the published classes.

``counted/long.json`` holds small configurations, parameters, and the FLOP of products for
sequences such as ``b2_s64`` (with ``n5`` positions of a decoder at once). What the classes
multiply beside the model is counted apart in :func:`beside`.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.counting.count import parameters, rows
from costgraph.errors import ModelError
from costgraph.ir.verify import verify_program
from costgraph.models import load_model
from costgraph.symbols import B, S, T, q
from tests.models.counting import DATA, products, sizes_in, told_of

COUNTED: dict[str, Any] = json.loads((DATA / "long.json").read_text())
CASES = [(name, case) for name, entry in COUNTED.items() for case in entry["cases"]]


@cache
def program(name: str):
    found = load_model(COUNTED[name]["config"], mask="compute", logits="all")
    verify_program(found)
    return found


def flop(graph, values) -> int:
    return int(sum((r.count * products(r) for r in rows(graph)), Integer(0)).xreplace(values))


def beside(config: dict[str, Any], batch: int, length: int) -> int:
    """What the class multiplies beside the model."""
    kind = config["model_type"]
    if kind == "longt5":
        if config["encoder_attention_type"] == "local":
            return 0
        # Sums of blocks are products with rows of zeros and ones.
        means = length // config["global_block_size"]
        return 2 * batch * length * means * config["d_model"] * config["num_layers"]
    if kind in ("longformer", "led"):
        # Scores come in chunks of two blocks that overlap by one: 4w² for each but the last.
        d = config.get("hidden_size") or config["d_model"]
        windows = (w // 2 for w in config["attention_window"])
        chunks = (4 * w * w * (length // w - 1) - 3 * w * length for w in windows)
        return sum(2 * batch * d * cells for cells in chunks)
    # All layers process what a sequence is filled up with to whole blocks.
    size, random = config["block_size"], config["num_random_blocks"]
    sparse = config.get("attention_type") != "original_full"
    filled = -length % size if sparse and length > (5 + 2 * random) * size else 0
    d = config.get("hidden_size") or config["d_model"]
    wide = config.get("intermediate_size") or config["encoder_ffn_dim"]
    layers = config.get("num_hidden_layers") or config["encoder_layers"]
    return 2 * batch * filled * layers * (4 * d * d + 2 * d * wide)


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_are_equal(name):
    assert parameters(program(name)) == COUNTED[name]["params"]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_products_are_equal(name, case):
    entry = COUNTED[name]
    batch, length, *new = map(int, re.findall(r"\d+", case))
    found = program(name)
    values = {B: Integer(batch), q: Integer(length)}
    total = flop(found.phases[0].graph, values)
    if new:
        step = {B: Integer(batch), S: Integer(length), q: Integer(new[0]), T: Integer(new[0])}
        total += flop(found.phase("decode").graph, step)
    counted = entry["cases"][case]["total"]
    assert total + beside(entry["config"], batch, length) == counted


@pytest.mark.parametrize(("name", "key"), sizes_in(COUNTED))
def test_every_size_is_looked_at(name, key):
    """A size that makes no sense is refused, or a note says that it plays no part."""
    assert key in told_of({**COUNTED[name]["config"], key: {"no": "size"}})


@pytest.mark.parametrize("name", ["longformer", "longt5-tglobal", "big-bird", "led-global"])
def test_pairs_of_a_sequence_are_fewer_than_all(name):
    """Useful pairs never exceed those that blocks hold, and grow with the sequence alone."""
    skipped = load_model(COUNTED[name]["config"], logits="all").phases[0].graph
    whole = program(name).phases[0].graph
    attention = [
        sum((r.cost.total_flops * r.count for r in rows(g) if r.kind == "qk-matmul"), Integer(0))
        for g in (skipped, whole)
    ]
    few, all_ = ([int(e.xreplace({B: Integer(1), q: Integer(n)})) for n in (80, 160, 320)]
                 for e in attention)  # fmt: skip
    assert all(0 < a <= b for a, b in zip(few, all_, strict=True))
    near, far = few[1] - few[0], few[2] - few[1]
    limit = 4 if name == "longt5-tglobal" else 2.1  # means of blocks see all, pair by pair
    assert near < far < limit * near


def test_a_long_sequence_costs_a_line_where_a_full_encoder_pays_a_square():
    config = COUNTED["longformer"]["config"]
    local = cg.compile({**config, "max_position_embeddings": 10**6}, "h100").latency
    ratio = local.evaluate(B=1, S=400_000) / local.evaluate(B=1, S=200_000)
    assert 1.9 < ratio < 2.1


@pytest.mark.parametrize("name", COUNTED)
def test_more_layers_than_are_believed_take_no_time(name):
    """Where each layer is looked at they are refused; where all are alike they are read."""
    config = dict(COUNTED[name]["config"])
    keys = [k for k in ("num_hidden_layers", "encoder_layers", "num_layers") if k in config]
    many = {**config, **dict.fromkeys(keys, 10**9)}
    if isinstance(many.get("attention_window"), list):
        many["attention_window"] = many["attention_window"][0]
    if config["model_type"] in ("longt5", "bigbird_pegasus"):
        assert load_model(many).phases
    else:
        with pytest.raises(ModelError, match="is beyond 10000"):
            load_model(many)


def test_global_tokens_are_told():
    config = COUNTED["longformer"]["config"]
    assert any("'global_tokens'" in a for a in load_model(config).assumptions)
    many = load_model({**config, "global_tokens": 7})
    assert any("7, the first ones" in a for a in many.assumptions)
    with pytest.raises(ModelError, match="'global_tokens' = -1 is no number of tokens"):
        load_model({**config, "global_tokens": -1})
    with pytest.raises(ModelError, match="'attention_window': 7 is no even size"):
        load_model({**config, "attention_window": [8, 7, 8]})
