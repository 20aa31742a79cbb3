"""Keys left out count as the published class has them; what it cannot mean is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from costgraph.counting.count import parameters
from costgraph.errors import ModelError
from costgraph.models.catalog import CONFIGS
from costgraph.models.families.absent import ABSENT, filled
from costgraph.models.families.common import KEY_HEADS
from costgraph.models.fields import Fields
from costgraph.models.hf import import_config

BERT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 50, "max_position_embeddings": 40, "type_vocab_size": 2,
}  # fmt: skip
LLAMA = {
    "hidden_size": 320, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 80,
    "vocab_size": 50,
}  # fmt: skip
OPT = {
    "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 50, "word_embed_proj_dim": 64,
}  # fmt: skip
MLA = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 50, "q_lora_rank": 24, "kv_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
}  # fmt: skip
MIXED = {
    "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50, "layer_types": ["mamba", "attention"],
    "num_experts_per_tok": 2, "shared_intermediate_size": 96, "mamba_n_heads": 8,
    "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2,
    "mamba_d_conv": 4,
}  # fmt: skip
EYES = {
    "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip
EXAONE = {
    "hidden_size": 320, "intermediate_size": 96, "num_layers": 2, "num_attention_heads": 80,
    "vocab_size": 50, "activation_function": "silu",
}  # fmt: skip
#: Key heads of classes that do not take those of queries.
FEW = {
    "bitnet": 5,
    "mistral": 8,
    "ministral3": 8,
    "seed_oss": 8,
    "smollm3": 4,
    "starcoder2": 2,
    "glm4": 2,
}
#: A file, a key, what the class of transformers has where the file leaves the key out.
LEFT_OUT: list[tuple[dict[str, Any], str, int]] = [
    ({**BERT, "model_type": "electra"}, "embedding_size", 128),
    ({**BERT, "model_type": "albert"}, "embedding_size", 128),
    ({**BERT, "model_type": "rembert", "output_embedding_size": 32}, "input_embedding_size", 256),
    ({**BERT, "model_type": "tapas", "type_vocab_sizes": [3, 2]}, "max_position_embeddings", 1024),
    ({**BERT, "model_type": "esm"}, "max_position_embeddings", 1026),
    ({**BERT, "model_type": "xlm-roberta-xl"}, "max_position_embeddings", 514),
    ({**OPT, "model_type": "opt"}, "max_position_embeddings", 2048),
    ({**MLA, "model_type": "minicpm3"}, "v_head_dim", 16),
    ({**MIXED, "model_type": "granitemoehybrid"}, "num_local_experts", 8),
    ({**EYES, "model_type": "idefics3_vision"}, "hidden_size", 1152),
    ({**EYES, "model_type": "smolvlm_vision"}, "hidden_size", 1152),
    ({**EXAONE, "model_type": "exaone"}, "num_key_value_heads", 8),
    *[({**LLAMA, "model_type": kind}, "num_key_value_heads", count) for kind, count in FEW.items()],
]


def _without(config: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k != key}


@pytest.mark.parametrize(
    ("config", "key", "default"), LEFT_OUT, ids=[f"{c['model_type']}-{k}" for c, k, _ in LEFT_OUT]
)
def test_what_is_left_out_is_the_default_of_the_class(
    config: dict[str, Any], key: str, default: int
) -> None:
    silent = import_config(_without(config, key), "m")
    stated = import_config({**config, key: default}, "m")
    other = import_config({**config, key: 2 * default}, "m")
    assert silent.phases == stated.phases
    assert parameters(silent) != parameters(other)


@pytest.mark.parametrize("kind", FEW)
def test_null_key_heads_are_those_of_queries(kind: str) -> None:
    config = {**LLAMA, "model_type": kind, "num_key_value_heads": None}
    alike = import_config({**config, "num_key_value_heads": 80}, "m")
    assert import_config(config, "m").phases == alike.phases


DINO = {
    "model_type": "dinov3_vit", "hidden_size": 64, "intermediate_size": 96, "image_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 16,
}  # fmt: skip
DEBERTA = {**BERT, "model_type": "deberta-v2", "pos_att_type": "c2p", "norm_rel_ebd": "layer_norm"}
XLM = {"model_type": "xlm", "emb_dim": 64, "n_layers": 2, "n_heads": 4, "n_words": 50}
#: Files whose class is another model than they seem to be.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({**DINO, "value_bias": False}, "value_bias"),
    ({**DINO, "query_bias": False}, "value_bias"),
    (DEBERTA, "norm_rel_ebd"),
    ({**LLAMA, "model_type": "persimmon", "num_key_value_heads": 40}, "num_key_value_heads"),
    ({**XLM, "vocab_size": 60}, "vocab_size"),
]


@pytest.mark.parametrize(("config", "named"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_what_a_key_left_out_contradicts_is_refused(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named) as refused:
        import_config(config, "m")
    assert "\n" not in str(refused.value)


def test_sides_that_share_a_table_say_so_where_logits_have_their_own() -> None:
    config = {
        "model_type": "bart", "d_model": 64, "vocab_size": 50, "max_position_embeddings": 40,
        "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
    }  # fmt: skip
    tied = import_config(config, "m")
    parted = import_config({**config, "tie_word_embeddings": False}, "m")
    assert parameters(parted) - parameters(tied) == 50 * 64
    assert [s for s in parted.assumptions if "tie_word_embeddings" in s]
    assert not [s for s in tied.assumptions if "tie_word_embeddings" in s]


@pytest.mark.parametrize("part", ["audio_config", "vision_config"])
def test_an_empty_part_is_that_of_the_class_and_null_is_none(part: str) -> None:
    config = json.loads((COUNTED / "configs" / "gemma4-unified-small.json").read_text())
    empty = parameters(import_config({**config, part: {}}, "m"))
    assert empty > parameters(import_config(config, "m"))  # the class is larger than the small one
    if part == "audio_config":
        assert empty - parameters(import_config({**config, part: None}, "m")) == 640 * 48


def _shipped() -> list[tuple[str, str]]:
    found = []
    for path in sorted(CONFIGS.glob("*.json")):
        config = json.loads(path.read_text())
        usual = ABSENT.get(str(config.get("model_type")), {})
        found += [(path.stem, k) for k, v in usual.items() if config.get(k) == v]
    return found


@pytest.mark.parametrize(("name", "key"), _shipped())
def test_shipped_files_count_the_same_without_what_their_class_has(name: str, key: str) -> None:
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    assert import_config(_without(config, key), name).phases == import_config(config, name).phases


def test_null_is_not_absent() -> None:
    fields = Fields("m", {"q_lora_rank": None})
    assert filled(fields, "youtu") is fields
    assert filled(Fields("m", {}), "youtu").values["q_lora_rank"] == 1536


COUNTED = Path(__file__).parent / "counted"
#: Small models, and those with a language model as a part, each with the section that it is in.
SILENT: list[tuple[str, dict[str, Any], str]] = [
    *(
        (name, entry["config"], "")
        for name, entry in json.loads((COUNTED / "small.json").read_text()).items()
    ),
    *(
        (path.stem, json.loads(path.read_text()), "text_config")
        for path in sorted((COUNTED / "configs").glob("*-small.json"))
        if "text_config" in path.read_text()
    ),
]


def _usual() -> Iterator[tuple[str, dict[str, Any], str, str, Any]]:
    for name, config, section in SILENT:
        inner = config.get(section) if section else config
        if not isinstance(inner, dict):
            continue
        kind = str(inner.get("model_type"))
        heads = {"num_key_value_heads": KEY_HEADS[kind]} if kind in KEY_HEADS else {}
        for key, value in {**ABSENT.get(kind, {}), **heads}.items():
            yield name, config, section, key, value


def _read(config: dict[str, Any], section: str, inner: dict[str, Any]) -> Any:
    """The phases of a file with another part; what is said where it is refused."""
    try:
        return import_config({**config, section: inner} if section else inner, "m").phases
    except ModelError as refused:
        return str(refused)


@pytest.mark.parametrize(
    ("config", "section", "key", "value"),
    [case[1:] for case in _usual()],
    ids=[f"{case[0]}-{case[3]}" for case in _usual()],
)
def test_every_family_has_what_its_class_has_for_an_absent_key(
    config: dict[str, Any], section: str, key: str, value: Any
) -> None:
    inner = {**(config[section] if section else config)}
    if key == "first_k_dense_replace":  # a list of layers says it otherwise
        inner.pop("mlp_layer_types", None)
    silent = _read(config, section, _without(inner, key))
    stated = _read(config, section, {**_without(inner, key), key: value})
    assert isinstance(silent, str) or silent == stated


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({**MIXED, "model_type": "granitemoehybrid", "num_local_experts": 0}, "mamba_conv_bias"),
        ({**OPT, "model_type": "opt"}, "enable_bias"),
        ({**OPT, "model_type": "opt"}, "tie_word_embeddings"),
        ({**LLAMA, "model_type": "seed_oss", "head_dim": 4}, "attention_bias"),
    ],
    ids=str,
)
def test_null_where_the_class_has_true_is_refused(config: dict[str, Any], key: str) -> None:
    silent, off = import_config(config, "m"), import_config({**config, key: False}, "m")
    assert parameters(silent) != parameters(off)
    with pytest.raises(ModelError, match=key):
        import_config({**config, key: None}, "m")


def test_a_hybrid_granite_is_untied_where_it_does_not_say() -> None:
    file = {**MIXED, "model_type": "granitemoehybrid"}
    tied = import_config({**file, "tie_word_embeddings": True}, "m")
    assert parameters(import_config(file, "m")) - parameters(tied) == 50 * 64


def test_a_tower_has_no_logits_to_tie() -> None:
    text = {**LLAMA, "hidden_size": 64, "num_attention_heads": 4, "model_type": "llama"}
    eyes = {**EYES, "hidden_size": 64, "model_type": "idefics3_vision"}
    file = {"model_type": "idefics3", "text_config": text, "vision_config": eyes, "scale_factor": 2}
    plain = import_config(file, "m")
    said = import_config({**file, "vision_config": {**eyes, "tie_word_embeddings": False}}, "m")
    assert said.phases == plain.phases
