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
