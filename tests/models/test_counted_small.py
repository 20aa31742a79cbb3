"""Small models of families against PyTorch's own counter on the published classes.

``counted/small.json`` holds, per family, a small configuration that sets every key that counts,
and what the counter found when the class of transformers ran it with random weights: parameters,
matrix products of a prefill and a decode step, elements of caches and states.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sympy import Integer

from costgraph.counting.count import parameters, rows
from costgraph.hardware.machine import Engine
from costgraph.models import load_model
from costgraph.symbols import B, T, q
from tests.models.counting import sizes_in, told_of
from tests.models.test_counted import stored

DATA = Path(__file__).parent / "counted" / "small.json"
SMALL: dict[str, Any] = json.loads(DATA.read_text())
STEPS = {"prefill_b2_s12": (12, 12), "decode_b2_l12": (1, 13)}

#: Families whose scans the classes compute otherwise than kernels do: products are compared
#: without them.
SCANS = {"conv1d", "ssd-scan", "gated-delta", "kimi-delta", "lightning", "matrix-memory"}
ATTENTION = {"index-scores", "matmul", "qk-matmul", "split-qk-matmul", "sv-matmul"}
#: The class multiplies parts of a matrix in batches: all products are compared together below.
BATCHED = {"zamba", "deepseek_v4", "inkling", "zaya"}
#: The class keeps keys and values of positions that its local layers no longer see.
KEEPS_ALL = {"gpt_neo"}
#: Elements that only the class keeps: keys that are the values as well, in its window alone, a
#: second time; whether a position of two indexes is padding.
KEPT_TOO = {"deepseek_v4": 7 * 32, "glm5_next": 2 * 24}


@cache
def program(name: str):
    entry = SMALL[name]
    config = {**entry["config"], "architectures": [entry["class"]], "dtype": "bfloat16"}
    return load_model(config, mask="compute", logits="all", mla="naive")


@pytest.mark.parametrize("name", SMALL)
def test_parameters_are_equal(name):
    assert parameters(program(name).graph) == SMALL[name]["parameters"]


def products(graph, values) -> dict[str, int]:
    """FLOP on the tensor engine by kind of operation."""
    made: dict[str, int] = {}
    for row in rows(graph):
        work = sum(
            (f for (engine, _), f in row.cost.flops.items() if engine is Engine.TENSOR), Integer(0)
        )
        made[row.kind] = made.get(row.kind, 0) + int((row.count * work).xreplace(values))
    return made


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", [n for n in SMALL if n not in BATCHED])
def test_products_are_equal(name, step):
    counted = SMALL[name]["flops"][step]["by_op"]
    new, context = STEPS[step]
    values = {B: Integer(2), q: Integer(new), T: Integer(context)}
    made = products(program(name).graph, values)
    scans = {kind for kind in made if kind in SCANS}
    attention = sum(made[kind] for kind in ATTENTION & set(made))
    rest = sum(v for kind, v in made.items() if kind not in ATTENTION | scans)
    assert rest == counted.get("mm", 0) + counted.get("addmm", 0)
    if not scans - {"conv1d"}:
        assert attention == counted.get("bmm", 0) + counted.get("baddbmm", 0)


def test_products_of_a_scan_in_heads_are_equal():
    # A step's scan multiplies states by C, as a product: 2·B·D·N in each of six layers.
    counted = SMALL["zamba"]["flops"]["decode_b2_l12"]["by_op"]
    made = products(program("zamba").graph, {B: Integer(2), q: Integer(1), T: Integer(13)})
    rest = sum(v for kind, v in made.items() if kind not in ("conv1d", "selective-scan"))
    assert rest + 6 * 2 * 2 * 128 * 8 == counted["mm"] + counted["bmm"]


@pytest.mark.parametrize("step", STEPS)
def test_products_with_pooled_rows_are_equal(step):
    counted = SMALL["deepseek_v4"]["flops"][step]["by_op"]
    new, context = STEPS[step]
    made = products(
        program("deepseek_v4").graph, {B: Integer(2), q: Integer(new), T: Integer(context)}
    )
    # The class weighs an index's heads element by element: two layers, two heads, rows of four.
    weighed = 2 * 2 * 2 * 2 * new * (context // 4)
    assert sum(made.values()) - weighed == counted["mm"] + counted["bmm"]


@pytest.mark.parametrize("step", STEPS)
def test_products_with_shared_experts_in_batches_are_equal(step):
    counted = SMALL["inkling"]["flops"][step]["by_op"]
    new, context = STEPS[step]
    made = products(program("inkling").graph, {B: Integer(2), q: Integer(new), T: Integer(context)})
    assert sum(made.values()) == counted["mm"] + counted["bmm"]


@pytest.mark.parametrize("step", STEPS)
def test_products_with_convolutions_of_heads_are_equal(step):
    counted = SMALL["zaya"]["flops"][step]
    new, context = STEPS[step]
    values = {B: Integer(2), q: Integer(new), T: Integer(context)}
    made = sum(products(program("zaya").graph, values).values())
    convolved = [r for r in rows(program("zaya").graph) if r.node.name.endswith("qk_depthwise")]
    # Of three taps for each channel, on the vector engine; the last column is mixed with the next.
    taps = 4 * 2 * 2 * 64 * 3 * (new + 1)
    biases = 4 * 2 * 64 * (new + 1)
    found = sum(int((r.count * r.cost.total_flops).xreplace(values)) for r in convolved)
    assert found == taps + biases
    # The class projects a position before the first, of zeros, for its half of the values.
    before = 4 * 2 * 2 * 48 * 8 if step.startswith("prefill") else 0
    assert made + taps + before == counted["total"]


@pytest.mark.parametrize("name", SMALL)
def test_caches_and_states_are_equal(name):
    # What the next step finds after 24 tokens, more than the windows hold.
    values = {B: Integer(1), q: Integer(1), T: Integer(25)}
    caches, states = stored(program(name).graph, values)
    counted = SMALL[name]["caches_b1_s24"]
    assert states == counted["state_numel"]
    if name not in KEEPS_ALL:
        assert caches == 2 * (counted["kv_numel"] - KEPT_TOO.get(name, 0))


@pytest.mark.parametrize(("name", "key"), sizes_in(SMALL))
def test_every_size_is_looked_at_or_told(name, key):
    """A size that makes no sense is refused, or a note says that it plays no part."""
    entry = SMALL[name]
    changed = {**entry["config"], key: {"no": "size"}, "architectures": [entry["class"]]}
    if key == "max_position_embeddings":
        pytest.skip("a limit that no count rests on")
    told = told_of(changed)
    assert key in told or "{'no': 'size'}" in told


def test_lightning_attention_in_chunks_is_equal():
    # The class does not fill up the last chunk, and multiplies whole squares.
    counted = SMALL["minimax"]["flops"]["prefill_b2_s12"]["by_op"]["bmm"]
    made = products(program("minimax").graph, {B: Integer(2), q: Integer(12), T: Integer(12)})
    assert sum(made[kind] for kind in (*ATTENTION, "lightning") if kind in made) == counted
