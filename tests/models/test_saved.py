"""Shipped files as transformers 5 saves them again: the same model.

Kept are the keys that saving changed or added and that families look at;
``tests/models/test_transformers.py`` saves all files anew where transformers is installed.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from costgraph.counting.count import parameters
from costgraph.errors import ModelError
from costgraph.models import load_model
from costgraph.models.catalog import CONFIGS
from costgraph.models.hf import import_config
from tests.models.counting import DATA, changed

COUNTED = DATA / "configs"

_T5 = {"tie_word_embeddings": True, "scale_decoder_outputs": False, "is_gated_act": True,
       "dense_act_fn": "gelu_new"}  # fmt: skip
_LAYERS = 48
SAVED: dict[str, dict[str, Any]] = {
    "flan-t5-xl": _T5,
    "long-t5-tglobal-base": _T5,
    "llama-4-scout": {
        "tie_word_embeddings": False,
        "text_config.moe_layers": list(range(_LAYERS)),
        "text_config.no_rope_layers": [1, 1, 1, 0] * (_LAYERS // 4),
        "text_config.layer_types": [*["chunked_attention"] * 3, "full_attention"] * (_LAYERS // 4),
        "vision_config": {
            "model_type": "llama4_vision_model", "hidden_act": "gelu", "hidden_size": 768,
            "image_size": 448, "intermediate_size": 5632, "multi_modal_projector_bias": False,
            "num_attention_heads": 16, "num_channels": 3, "num_hidden_layers": 34,
            "patch_size": 14, "pixel_shuffle_ratio": 0.5, "projector_input_dim": 4096,
            "projector_output_dim": 4096, "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default", "vision_output_dim": 7680,
        },
    },
    "mimo-v2-flash": {
        "layer_types": [
            "full_attention" if i == 0 or i % 6 == 5 else "sliding_attention"
            for i in range(_LAYERS)
        ],
        "mlp_layer_types": ["dense", *["sparse"] * (_LAYERS - 1)],
        "sliding_window": 129,
        "rope_parameters": {
            kind: {"partial_rotary_factor": 0.334, "rope_theta": theta, "rope_type": "default"}
            for kind, theta in (("full_attention", 5e6), ("sliding_attention", 1e4))
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_file_is_the_same_model(name):
    published = json.loads((CONFIGS / f"{name}.json").read_text())
    again = import_config(changed(published, SAVED[name]), name)
    assert again.phases == import_config(published, name).phases


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("flan-t5-xl", {"scale_decoder_outputs": True}, "contradict each other"),
        ("mimo-v2-flash", {"sliding_window": 128}, "'sliding_window_size' must be one less"),
        ("mimo-v2-flash", {"swa_num_key_value_heads": 4}, "which means 8"),
        ("mimo-v2-flash", {"mlp_layer_types": ["sparse"] * _LAYERS}, "'moe_layer_freq'"),
    ],
)
def test_names_that_contradict_each_other_are_refused(name, changes, said):
    published = json.loads((CONFIGS / f"{name}.json").read_text())
    saved = {} if name == "flan-t5-xl" else SAVED[name]
    with pytest.raises(ModelError, match=said):
        load_model(changed(changed(published, saved), changes))


def test_a_head_of_t5_behind_a_tower_is_its_own_where_nothing_is_scaled():
    """As in published files of BLIP-2 with FLAN-T5 that transformers 5 saved."""
    config = json.loads((COUNTED / "blip2-t5-small.json").read_text())
    own = changed(config, {"text_config.scale_decoder_outputs": False})
    text = config["text_config"]
    more = parameters(load_model(own)) - parameters(load_model(config))
    assert more == text["vocab_size"] * text["d_model"]


def test_a_head_of_mt5_that_its_saved_file_does_not_tell_is_told():
    config = {"model_type": "mt5", "tie_word_embeddings": True, "d_model": 64, "d_ff": 128,
              "num_heads": 4, "d_kv": 16, "num_layers": 2, "vocab_size": 128}  # fmt: skip
    late = load_model({**config, "transformers_version": "5.24.0"})
    assert any("writes that into every file of mT5" in a for a in late.assumptions)
    early = load_model({**config, "transformers_version": "4.57.1"})
    assert not any("mT5" in a for a in early.assumptions)
