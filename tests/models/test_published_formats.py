"""Descriptions of narrow weights as their publishers write them: each name means its matrix.

A list that names what the graph calls otherwise would leave matrices wide, or make them narrow:
the weights of a whole model would be wrong by a factor, in silence. The names are those of the
files that NVIDIA (modelopt), Moonshot, Z.ai and DeepSeek publish; sizes are small here.
"""

from __future__ import annotations

from typing import Any

import pytest

from costgraph.errors import ModelError
from costgraph.ir.tensor import Role
from costgraph.models import catalog, load_model
from tests.models.test_checkpoints import formats
from tests.models.test_counted_small import SMALL
from tests.models.test_kimi_k3 import WHOLE

BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
          "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}  # fmt: skip
FP8, W4, NV = ({"quant_algo": a} for a in ("FP8", "W4A16_NVFP4", "NVFP4"))
MX8 = {"quant_algo": "MXFP8"}
E4M3, B128 = "e4m3", "e4m3-b128x128"


def modelopt(ignored: list[str], algorithm: str = "NVFP4", **more: Any) -> dict[str, Any]:
    return {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": ignored, **more}


def mixed(layers: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
    return modelopt(ignored, "MIXED_PRECISION", quantized_layers=layers)


def layers_of(name: str) -> int:
    return int(SMALL[name]["config"].get("num_hidden_layers", 0))


def _nemotron(name: str) -> dict[str, Any]:
    experts = SMALL[name]["config"]["n_routed_experts"]
    layers: dict[str, Any] = {"lm_head": W4}
    for i in range(9):
        at = f"backbone.layers.{i}.mixer"
        layers |= {f"{at}.in_proj": FP8, f"{at}.out_proj": FP8}
        for leaf in ("up_proj", "down_proj"):
            layers[f"{at}.shared_experts.{leaf}"] = W4
            layers |= {f"{at}.experts.{e}.{leaf}": W4 for e in range(experts)}
    return mixed(layers, ["backbone.embeddings", "backbone.layers.0.mixer.gate", "mtp*"])


V32 = [
    f"model.layers.{i}.self_attn.{leaf}"
    for i in range(layers_of("deepseek_v32"))
    for leaf in ("indexer*", "kv_a_proj_with_mqa", "kv_b_proj", "q_a_proj", "q_b_proj")
]
G4 = [f"model.language_model.layers.{i}.{leaf}*" for i in range(layers_of("gemma4_text_moe"))
      for leaf in ("mlp", "router", "self_attn")]  # fmt: skip
V4 = {f"layers.{i}.ffn.experts": {**NV, "group_size": 16}
      for i in range(layers_of("deepseek_v4"))}  # fmt: skip
M3 = {f"language_model.model.layers.{i}.{leaf}": kind
      for i in range(layers_of("minimax_m3_vl_text"))
      for leaf, kind in (
          *((f"self_attn.{n}_proj", MX8) for n in ("q", "k", "v", "o", "index_q", "index_k")),
          *((f"{p}.{n}_proj", MX8) for n in ("gate", "up", "down")
            for p in ("mlp", "block_sparse_moe.shared_experts")),
          *((f"block_sparse_moe.experts.{e}.w{n}", NV) for n in (1, 2, 3)
            for e in range(SMALL["minimax_m3_vl_text"]["config"]["num_local_experts"])),
      )}  # fmt: skip
K3 = {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized",
      "ignore": ["re:.*self_attn.*", "re:.*shared_experts.*", "re:.*lm_head.*",
                 r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"],
      "config_groups": {"group_0": {
          "targets": ["Linear"], "weights": {
              "num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}}}}  # fmt: skip
WIDE_V4 = ("lm_head", "attn_hc", "mlp_hc", "head_hc", "router", "pool_kv_proj",
           "index_pool_kv_proj", "index_weights_proj")  # fmt: skip

#: Configuration, description, keys beside it; and what is narrow: format, and some that are wide.
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any], dict[str, tuple[str, ...]]]] = {
    "nemotron-3.5 lightning": (
        "nemotron_h", _nemotron("nemotron_h"), {},
        {"nvfp4": ("expert_up", "expert_down", "shared_up_proj", "shared_down_proj", "lm_head"),
         E4M3: ("in_proj", "out_proj"), "bf16": ("q_proj", "embed", "router")},
    ),
    "nemotron-3 super, latent experts kept": (
        "nemotron_h_latent", modelopt(["*.fc1_latent_proj", "*.fc2_latent_proj", "lm_head"]), {},
        {"nvfp4": ("expert_up", "shared_up_proj"), "bf16": ("latent_up", "latent_down")},
    ),
    "deepseek-v3.2 nvfp4": (
        "deepseek_v32", modelopt(V32), {},
        {"nvfp4": ("o_proj", "expert_up"),
         "bf16": ("index_q_proj", "index_k_proj", "index_weights_proj", "q_b_proj", "k_up")},
    ),
    "glm-5 nvfp4": (
        "deepseek_v32",
        modelopt([f"model.layers.{i}.self_attn*" for i in range(layers_of("deepseek_v32"))]), {},
        {"nvfp4": ("expert_up",), "bf16": ("index_q_proj", "index_k_proj", "q_a_proj", "o_proj")},
    ),
    "deepseek-v3.2 fp8": (
        "deepseek_v32", BLOCKS, {},
        {B128: ("index_q_proj", "index_k_proj", "o_proj", "expert_up"),
         "bf16": ("index_weights_proj", "router")},
    ),
    "gemma-4 nvfp4": (
        "gemma4_text_moe", modelopt([*G4, "lm_head"]), {},
        {"nvfp4": ("expert_gate_up", "expert_down"),
         "bf16": ("gate_proj", "down_proj", "q_proj", "router")},
    ),
    "deepseek-v4": (
        "deepseek_v4", BLOCKS, {"expert_dtype": "fp4"},
        {"mxfp4": ("expert_gate_up", "expert_down"),
         B128: ("q_a_proj", "kv_proj", "o_a_proj", "shared_up_proj", "index_q_proj"),
         "bf16": WIDE_V4},
    ),
    "deepseek-v4 base": (
        "deepseek_v4", BLOCKS, {"expert_dtype": "fp8"},
        {B128: ("expert_gate_up", "expert_down", "kv_proj"), "bf16": WIDE_V4},
    ),
    "deepseek-v4 nvfp4": (
        "deepseek_v4",
        {**BLOCKS, "quant_algo": "MIXED_PRECISION", "moe_quant_algo": "NVFP4", "group_size": 16,
         "ignore": ["*.attn.*", "*.ffn.shared_experts.*", "head", "mtp.*"], "quantized_layers": V4},
        {"expert_dtype": "fp4"},
        {"nvfp4": ("expert_gate_up", "expert_down"), B128: ("kv_proj", "shared_up_proj"),
         "bf16": WIDE_V4},
    ),
    "minimax-m3 nvfp4": (
        "minimax_m3_vl_text", mixed(M3, ["lm_head"]), {},
        {"nvfp4": ("expert_gate_up", "expert_down"),
         "mxfp8": ("q_proj", "index_q_proj", "index_k_proj", "gate_up_proj", "shared_gate_up_proj"),
         "bf16": ("router", "lm_head")},
    ),
    "kimi k3": (
        WHOLE, K3, {},
        {"mxfp4": ("expert_gate", "expert_up", "expert_down"),
         "bf16": ("f_a_proj", "f_b_proj", "g_proj", "b_proj", "attn_gate_proj", "latent_down",
                  "latent_up", "attn_res_proj", "mlp_res_proj", "qkv_proj")},
    ),
}  # fmt: skip


def config_of(given: Any, stated: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    config = SMALL[given]["config"] if isinstance(given, str) else given
    return {**config, "dtype": "bfloat16", "quantization_config": stated, **beside}


@pytest.mark.parametrize("name", CASES)
def test_published_names_mean_their_matrices(name: str) -> None:
    given, stated, beside, wanted = CASES[name]
    program = load_model(config_of(given, stated, beside))
    found = formats(program)
    for kind, leaves in wanted.items():
        for leaf in leaves:
            assert found[f"{leaf}.weight"] == {kind}, leaf
    assert not any("how it would name" in a for a in program.assumptions)


def test_layers_that_read_text_are_not_those_that_see() -> None:
    # Both towers count their layers from 0: a list of the text's is no list of the other's.
    names = {f"model.language_model.layers.{i}.linear_attn.in_proj_qkv": FP8 for i in range(64)}
    config = {**catalog.config_of("qwen3.5-27b"), "quantization_config": mixed(names, ["lm_head"])}
    eyes = load_model(config).phase("vision").graph
    assert {t.dtype.name for t, _ in eyes.weights() if t.name == "qkv_proj.weight"} == {"bf16"}


def test_what_experts_are_stored_in_is_said_or_refused() -> None:
    assumed = load_model(config_of("deepseek_v4", BLOCKS, {})).assumptions
    assert any("names no 'expert_dtype'" in a for a in assumed)
    with pytest.raises(ModelError, match="'expert_dtype' = 'int3': fp4 or fp8"):
        load_model(config_of("deepseek_v4", BLOCKS, {"expert_dtype": "int3"}))


def test_a_description_that_gives_caches_alone_a_format_is_of_another_model() -> None:
    stated = modelopt(["*"], kv_cache_quant_algo="FP8")
    with pytest.raises(ModelError, match="gives none of the model's matrices a format"):
        load_model(config_of("gemma4_text_moe", stated, {}))


def test_matrices_whose_names_are_not_known_are_said() -> None:
    stated = modelopt(["lm_head", "model.layers.0.self_attn*"])
    program = load_model(config_of(catalog.config_of("rwkv-4-169m"), stated, {}))
    assert any("how it would name time_key" in a for a in program.assumptions)


def test_the_caches_that_the_first_files_of_modelopt_name() -> None:
    # They name no method, and list groups as compressed-tensors does.
    group = {"weights": {"num_bits": 8, "type": "float"}}
    stated = {"quant_algo": "FP8", "kv_cache_scheme": "FP8", "ignore": ["lm_head"],
              "config_groups": {"group_0": group}}  # fmt: skip
    program = load_model(config_of("minimax_m3_vl_text", stated, {}))
    graphs = program.phase("decode").graph.walk()
    caches = {t.dtype.name for g in graphs for t in g.sources if t.role is Role.KV}
    assert caches == {E4M3}


def test_experts_that_are_counted_twice_are_as_many() -> None:
    config = SMALL["deepseek_v32"]["config"]
    experts = config["n_routed_experts"]
    load_model({**config, "num_experts": experts})
    with pytest.raises(ModelError, match="two names of one thing, and contradict"):
        load_model({**config, "num_experts": 2 * experts})


#: A key that changes a count, and a family that does not look at it.
UNLOOKED = {
    "use_mla": (True, "compressed caches"),
    "use_cla": (True, "caches shared between layers"),
    "lm_head_bias": (True, "a bias of the projection to logits"),
    "moe_layer_freq": (2, "experts in some layers alone"),
    "moe_layer_interval": (2, "experts in some layers alone"),
    "decoder_sparse_step": (2, "experts in some layers alone"),
}


@pytest.mark.parametrize("key", UNLOOKED)
def test_keys_that_count_are_refused_where_nobody_looks(key: str) -> None:
    value, meaning = UNLOOKED[key]
    plain = catalog.config_of("qwen3-0.6b")
    with pytest.raises(ModelError, match=f"{key!r} = {value} means {meaning}"):
        load_model({**plain, key: value})
    load_model({**plain, key: type(value)(value is not True)})  # off, or 1


def test_a_window_of_minus_one_is_none() -> None:
    load_model({**catalog.config_of("qwen3-0.6b"), "sliding_window_size": -1})
    with pytest.raises(ModelError, match="'num_mtp_modules' must be positive"):
        load_model({**catalog.config_of("qwen3-0.6b"), "num_mtp_modules": -1})
