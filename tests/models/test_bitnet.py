"""BitNet b1.58 2B as its publisher's file stores it: signs in two bits."""

from __future__ import annotations

from typing import Any

import pytest

from costgraph.counting.count import parameters
from costgraph.errors import ModelError
from costgraph.models import load_model

D, FFN, LAYERS, KEYS, VOCAB = 2560, 6912, 30, 640, 128256
CONFIG: dict[str, Any] = {
    "model_type": "bitnet",
    "architectures": ["BitNetForCausalLM"],
    "hidden_act": "relu2",
    "hidden_size": D,
    "intermediate_size": FFN,
    "num_attention_heads": 20,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 5,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": VOCAB,
}
STATED = {
    "quant_method": "bitnet",
    "linear_class": "autobitlinear",
    "quantization_mode": "offline",
}


def test_bytes_are_those_of_packed_signs_and_one_scale_a_matrix():
    signs = LAYERS * (2 * D * D + 2 * D * KEYS + 3 * D * FFN)
    rest = VOCAB * D + LAYERS * (3 * D + FFN) + D
    made = load_model({**CONFIG, "quantization_config": STATED})
    assert parameters(made) == signs + rest == 2_412_820_480
    stored = sum(t.bytes * count for t, count in made.weights())
    assert stored == signs // 4 + 2 * (rest + 7 * LAYERS)  # the published file has 1.18 GB


@pytest.mark.parametrize("key", [{"quantization_mode": "online"}, {"use_rms_norm": True}])
def test_what_is_computed_otherwise_is_refused(key: dict[str, Any]):
    with pytest.raises(ModelError, match=next(iter(key))):
        load_model({**CONFIG, "quantization_config": {**STATED, **key}})
