"""MiniMax-M3 as its own files write it: other names for what the class of transformers has."""

from __future__ import annotations

from typing import Any

import pytest

from costgraph.counting.count import parameters
from costgraph.errors import ModelError
from costgraph.models import load_model
from tests.models.test_counted_small import SMALL

OURS: dict[str, Any] = SMALL["minimax_m3_vl_text"]
#: Names of the class, and of the files.
NAMES = {
    "index_n_heads": "sparse_num_index_heads",
    "index_head_dim": "sparse_index_dim",
    "index_block_size": "sparse_block_size",
    "index_topk_blocks": "sparse_topk_blocks",
}
INDEXED = [0, 1, 1, 0]


def published(inner: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """The small configuration with the keys of the published files."""
    config = dict(OURS["config"])
    index = {theirs: config.pop(ours) for ours, theirs in NAMES.items()}
    for key in ("layer_types", "mlp_layer_types"):
        del config[key]
    index |= {
        "use_sparse_attention": True,
        "sparse_attention_freq": INDEXED,
        "sparse_disable_index_value": INDEXED,
        "sparse_score_type": "max",
        "sparse_init_block": 0,
        "sparse_local_block": 1,
    }
    return {
        **config,
        "model_type": "minimax_m3",
        "architectures": ["MiniMaxM3ForCausalLM"],
        "moe_layer_freq": [0, 1, 1, 1],
        "qk_norm_type": "per_head",
        "scoring_func": "sigmoid",
        "attention_output_gate": False,
        "sparse_attention_config": {**index, **inner},
        **changed,
    }


def test_it_has_the_parameters_of_its_class():
    assert parameters(load_model(published({})).graph) == OURS["parameters"]


@pytest.mark.parametrize(
    ("inner", "changed"),
    [
        ({"sparse_disable_index_value": [0, 1, 0, 0]}, {}),
        ({"sparse_disable_index_value": [1]}, {}),
        ({"sparse_score_type": "mean"}, {}),
        ({"sparse_init_block": 1}, {}),
        ({}, {"qk_norm_type": "per_layer"}),
        ({}, {"attention_output_gate": True}),
        ({}, {"scoring_func": "softmax"}),
        ({}, {"use_routing_bias": False}),
        ({}, {"n_shared_experts": 2}),
    ],
)
def test_what_would_count_otherwise_is_refused(inner, changed):
    key = next(iter({**inner, **changed}))
    with pytest.raises(ModelError, match=f"'{key}'"):
        load_model(published(inner, **changed))
