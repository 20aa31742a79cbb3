"""ETC: two inputs that attend each other, against masks and sums by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sympy import Integer

import costgraph as cg
from costgraph.counting.count import parameters, rows
from costgraph.errors import ModelError
from costgraph.ir.verify import verify_program
from costgraph.models import load_model
from costgraph.symbols import B, q

D, HEADS, FFN, LAYERS, RADIUS, WIDE, KINDS, VOCAB = 24, 3, 40, 2, 4, 5, 12, 97
CONFIG: dict[str, Any] = {
    "model_type": "etc", "vocab_size": VOCAB, "segment_vocab_size": 7, "hidden_size": D,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "local_radius": RADIUS,
    "intermediate_size": FFN, "relative_pos_max_distance": 4, "relative_vocab_size": KINDS,
    "global_tokens": WIDE,
}  # fmt: skip
#: Keys of the file, and how many matrices (d, d) a layer has.
SHARING = [
    ({}, 3 + 2),
    ({"share_att_output_projection": True}, 3 + 1),
    ({"share_qkv_projections": False}, 2 + 8 + 2),
    ({"share_qkv_projections": False, "share_kv_projections": True}, 2 + 4 + 2),
]


def flop(config: dict[str, Any], length: int, kind: str, **style: str) -> int:
    """FLOP of a kind of operation, for two sequences."""
    found = load_model(config, **style)
    verify_program(found)
    values = {B: Integer(2), q: Integer(length)}
    made = (r.count * r.cost.total_flops for r in rows(found.graph) if r.kind == kind)
    return int(sum(made, Integer(0)).xreplace(values))


@pytest.mark.parametrize("length", [6, 9, 20, 61])
def test_pairs_are_those_of_a_mask(length):
    rows_, columns = np.arange(length)[:, None], np.arange(length)[None, :]
    mask = (abs(rows_ - columns) <= RADIUS) | (rows_ < WIDE) | (columns < WIDE)
    assert flop(CONFIG, length, "qk-matmul") == LAYERS * 2 * 2 * D * mask.sum()
    assert flop(CONFIG, length, "score-bias") == LAYERS * 2 * HEADS * mask.sum()
    # Each query is multiplied with every row of its table, which adds a number.
    terms = LAYERS * 2 * HEADS * length * KINDS
    assert flop(CONFIG, length, "relative-matmul") == terms * (2 * D // HEADS + 1)


def test_pairs_of_the_paper():
    """``n(2r + 1 + g) + g(g + n)``, less what a band lacks at both ends of the text."""
    text = 4096
    config = {**CONFIG, "local_radius": 84, "global_tokens": 256}
    made = flop(config, text + 256, "qk-matmul") // (LAYERS * 2 * 2 * D)
    assert made == text * (2 * 84 + 1 + 256) + 256 * (256 + text) - 84 * 85


def test_dense_blocks_hold_three_of_keys_and_all_that_see_all():
    text, block = 20, RADIUS + 1
    cells = -(-text // block) * block * (3 * block + WIDE) + WIDE * (WIDE + text)
    made = flop(CONFIG, text + WIDE, "qk-matmul", mask="compute")
    assert made == LAYERS * 2 * 2 * D * cells


@pytest.mark.parametrize(("keys", "matrices"), SHARING)
def test_parameters_by_hand(keys, matrices):
    tables = 2 * KINDS * (D + HEADS)
    feed = 2 * D * FFN + FFN + D
    layer = matrices * (D * D + D) + tables + feed + 3 * 2 * D
    total = VOCAB * D + 7 * D + 2 * 2 * D + LAYERS * layer
    assert parameters(load_model({**CONFIG, **keys})) == total


@pytest.mark.parametrize("keys", [k for k, _ in SHARING])
def test_projections_are_made_once_for_what_sees_them_alike(keys):
    length = 30
    text = length - WIDE
    seen = {"all": 3 * length, "keys": length + 2 * 2 * length, "none": length + 2 * 2 * length}
    kind = "all" if keys.get("share_qkv_projections", True) else "none"
    products = LAYERS * 2 * (2 * D * D + D) * (seen[kind] + length)
    feed = LAYERS * 2 * length * (2 * 2 * D * FFN + FFN + D)
    assert text > 0
    assert flop({**CONFIG, **keys}, length, "linear") == products + feed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"global_tokens": 0}, "'global_tokens' must say how many positions see all"),
        ({"relative_vocab_size": 11}, "has no room for distances up to"),
        ({"use_pre_activation_order": True}, "'use_pre_activation_order' = True"),
        ({"embedding_size": 8}, "'embedding_size' must be 24"),
    ],
)
def test_what_is_not_understood_is_refused(change, said):
    with pytest.raises(ModelError, match=said):
        load_model({**CONFIG, **change})


def test_a_text_is_longer_than_what_sees_all():
    latency = cg.compile(CONFIG, "h100", "fuse").latency
    assert latency.evaluate(B=1, S=WIDE + 1) > 0
    with pytest.raises(cg.CostgraphError, match="positions that see all"):
        latency.evaluate(B=1, S=WIDE)


@pytest.mark.parametrize("length", [6, 20, 61])
def test_scores_that_do_not_exist_do_not_move(length):
    """Each operation on scores reads and writes those of the mask, and so what is added to them."""
    rows_, columns = np.arange(length)[:, None], np.arange(length)[None, :]
    mask = (abs(rows_ - columns) <= RADIUS) | (rows_ < WIDE) | (columns < WIDE)
    times = {"softmax": 2, "score-bias": 3}
    found = load_model(CONFIG)
    for kind, tensors in times.items():
        moved = sum(r.count * r.cost.total_bytes for r in rows(found.graph) if r.kind == kind)
        expected = LAYERS * 2 * HEADS * mask.sum() * 2 * tensors
        assert moved.xreplace({B: Integer(2), q: Integer(length)}) == expected
