"""Keys that a file says in two places, or in two words: they agree, one rules, or it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import costgraph as cg
from costgraph.counting.count import parameters
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import ModelError
from costgraph.models import load_model
from costgraph.models.catalog import CONFIGS as SHIPPED
from tests.models.counting import changed

CONFIGS = Path(__file__).parent / "counted" / "configs"


def config(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    return changed(json.loads((CONFIGS / f"{name}.json").read_text()), changes)


#: What PyTorch's class has more or fewer of than with the file as it stands.
DIFFERENCES = [
    ("gemma-4-26b-a4b", {"tie_word_embeddings": False}, 738_197_504),
    ("gemma-4-26b-a4b", {"text_config.tie_word_embeddings": False}, 0),
    ("gemma-4-26b-a4b", {"text_config.use_double_wide_mlp": True}, 0),
    ("gemma-4-26b-a4b", {"vision_config.global_head_dim": 144}, 0),
    ("gemma-4-26b-a4b", {"vision_config.num_key_value_heads": 8}, -35_831_808),
    ("gemma-4-26b-a4b", {"vision_config.standardize": False}, 0),
    ("paligemma-default", {"vision_config.projection_dim": 1024}, 0),
    ("paligemma-default", {"vocab_size": 300_000}, 0),
    ("paligemma-default", {"vision_config.num_attention_heads": 8}, 0),
    ("t5gemma-default", {"decoder.tie_word_embeddings": False}, 0),
    ("t5gemma-default", {"tie_word_embeddings": False}, 589_824_000),
    ("llava-onevision-default", {"tie_word_embeddings": False}, 0),
    (
        "llava-onevision-default",
        {"tie_word_embeddings": False, "text_config.tie_word_embeddings": True},
        -622_329_856,
    ),
    ("llama-4-scout-seeing", {"tie_word_embeddings": True}, 0),
    ("llama-4-scout-seeing", {"text_config.tie_word_embeddings": True}, -1_034_485_760),
    ("internvl-default", {"text_config.tie_word_embeddings": True}, 0),
]


@pytest.mark.parametrize(("name", "changes", "difference"), DIFFERENCES)
def test_a_key_counts_as_in_the_class(name, changes, difference):
    base = parameters(load_model(config(name, {})))
    assert parameters(load_model(config(name, changes))) - base == difference


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_half_that_says_how_logits_are_tied_is_told(part):
    told = load_model(config("t5gemma-default", {f"{part}.tie_word_embeddings": False})).assumptions
    assert [
        t for t in told if t.startswith(f"'{part}.tie_word_embeddings' = false is not followed")
    ]
    whole = {"tie_word_embeddings": False, f"{part}.tie_word_embeddings": False}
    told = load_model(config("t5gemma-default", whole)).assumptions
    assert not any(t.startswith(f"'{part}.tie_word_embeddings'") for t in told)


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("paligemma-default", {"projection_dim": 4096}, "4096"),
        ("internvl-default", {"vision_config.patch_size": [14, 28]}, "patch_size"),
        ("mt5-default", {"is_gated_act": False}, "is_gated_act"),
        ("mt5-default", {"dense_act_fn": "relu"}, "dense_act_fn"),
        ("gemma-4-26b-a4b", {"vision_config.attention_bias": True}, "attention_bias"),
    ],
)
def test_what_does_not_agree_is_refused(name, changes, key):
    with pytest.raises(ModelError, match=key):
        load_model(config(name, changes))


#: Files that hold one thing under its old and its new name, with contradicting values.
TWICE: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"n_embd": 768, "hidden_size": 1024}),
    ("gpt2", {"n_layer": 12, "num_hidden_layers": 3}),
    ("bloom-7b1", {"n_head": 32, "num_attention_heads": 3}),
    ("falcon-7b", {"num_hidden_layers": 32, "n_layer": 3}),
    ("lfm2-1.2b", {"intermediate_size": 12288, "block_ff_dim": 3}),
    ("mamba-2.8b", {"hidden_size": 2560, "d_model": 3}),
    ("mixtral-8x7b", {"num_local_experts": 8, "num_experts": 3}),
    ("mixtral-8x7b", {"num_experts_per_tok": 2, "experts_per_token": 3}),
    ("qwen3-30b-a3b", {"num_experts": 128, "num_local_experts": 3}),
    ("deepseek-v3", {"n_routed_experts": 256, "num_experts": 3}),
    ("llama-3.1-8b", {"torch_dtype": "bfloat16", "dtype": "float16"}),
    (
        "granite-4.0-h-micro",
        {
            "layers_block_type": ["mamba", "attention"] * 20,
            "layer_types": ["mamba"] * 20 + ["attention"] * 20,
        },
    ),
    ("granite-4.0-h-micro", {"layers_block_type": ["attention"] * 40}),
    ("nemotron-h-56b", {"layers_block_type": ["attention"] + ["mamba", "mlp"] * 58 + ["mamba"]}),
    ("mimo-v2-flash", {"layer_types": ["full_attention", "sliding_attention"] * 24}),
]


@pytest.mark.parametrize(("name", "twice"), TWICE)
def test_old_and_new_names_that_contradict_each_other_are_refused(name, twice):
    old = next(iter(twice))
    with pytest.raises(ModelError, match=rf"{old!r} (and|=) |means experts"):
        load_model({**json.loads((SHIPPED / f"{name}.json").read_text()), **twice})


def test_old_and_new_names_that_agree_are_read():
    """Also where the new name parts further what the old one has as one kind."""
    published = json.loads((SHIPPED / "nemotron-h-56b.json").read_text())
    kinds = {"M": "mamba", "*": "attention", "-": "mlp"}
    listed = [kinds[letter] for letter in published["hybrid_override_pattern"]]
    both = load_model({**published, "layers_block_type": listed, "dtype": "bfloat16"})
    assert parameters(both) == parameters(load_model("nemotron-h-56b"))
    finer = {
        "layer_types": [f"{kind}_{'even' if i % 2 else 'odd'}" for i, kind in enumerate(listed)]
    }
    assert parameters(load_model({**published, **finer})) == parameters(both)


def test_a_tower_that_clips_its_products_is_left_out_and_said():
    found = load_model(config("gemma-4-26b-a4b", {"vision_config.use_clipped_linears": True}))
    assert any("also holds a vision tower" in a for a in found.assumptions)
    assert parameters(found) == 25_805_933_872 - 572_792_112


@pytest.mark.parametrize(
    ("image", "tokens"),
    [((768, 768), 256), ((400, 300), 266), ((4000, 3000), 266), ((1, 999), 280)],
)
def test_every_image_is_scaled_to_the_budget(image, tokens):
    """As the published processor scales them: 280 tokens at most."""
    found = load_model(config("gemma-4-26b-a4b", {}), image=image)
    assert any(a.endswith(f"makes G = {tokens} tokens") for a in found.assumptions)


def test_devices_hold_their_heads_of_shared_caches():
    text = config("gemma-4-26b-a4b", {"text_config.num_kv_shared_layers": 10})["text_config"]
    shared = load_model(text)
    one = cache_bytes(cg.compile(shared, "h100").program.graph)
    two = cache_bytes(cg.compile(shared, "2xh100", "parallel{tp=2}").program.graph)
    assert one == 2 * two
    assert cg.compile(shared, "2xh100", "parallel{dp=2}").tpot.evaluate(B=2, T=100) > 0
