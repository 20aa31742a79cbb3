"""Families that the counted models do not cover: published sizes, structure, refusals."""

from __future__ import annotations

import json

import pytest
from sympy import Integer, Min

import costgraph as cg
from costgraph.counting.count import parameters, rows
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import ModelError
from costgraph.ir.verify import verify_program
from costgraph.models import load_model
from costgraph.models.families import ARCHITECTURES, FAMILIES, classes_of
from costgraph.symbols import B, T


def llama(kind: str, d: int, layers: int, heads: int, kv: int, ffn: int, vocab: int, **more):
    return {
        "model_type": kind, "hidden_size": d, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "intermediate_size": ffn,
        "vocab_size": vocab, **more,
    }  # fmt: skip


UNTIED = {"tie_word_embeddings": False}

#: Dimensions of published configurations, and the number of parameters that the
#: publishers' checkpoints hold (model cards, safetensors metadata).
PUBLISHED = {
    "phi-2": (
        llama("phi", 2560, 32, 32, 32, 10240, 51200, partial_rotary_factor=0.4, **UNTIED),
        2_779_683_840,
    ),
    "phi-4": (llama("phi3", 5120, 40, 40, 10, 17920, 100352, **UNTIED), 14_659_507_200),
    "gemma-3-270m": (
        llama("gemma3_text", 640, 18, 4, 1, 2048, 262144, head_dim=256, sliding_window=512),
        268_098_176,
    ),
    "gemma-3-1b": (
        llama("gemma3_text", 1152, 26, 4, 1, 6912, 262144, head_dim=256, sliding_window=512),
        999_885_952,
    ),
    "falcon-40b": (
        {
            "model_type": "falcon", "hidden_size": 8192, "num_hidden_layers": 60,
            "num_attention_heads": 128, "num_kv_heads": 8, "vocab_size": 65024,
            "new_decoder_architecture": True, "bias": False, "alibi": False,
        },
        41_303_293_952,
    ),
    "falcon-rw-1b": (
        {
            "model_type": "falcon", "hidden_size": 2048, "num_hidden_layers": 24,
            "num_attention_heads": 32, "vocab_size": 50304, "multi_query": False,
            "parallel_attn": False, "bias": True, "alibi": True,
        },
        1_311_625_216,
    ),
    "bloom-560m": (
        {"model_type": "bloom", "hidden_size": 1024, "n_layer": 24, "n_head": 16,
         "vocab_size": 250880},
        559_214_592,
    ),
    "bloom-176b": (
        {"model_type": "bloom", "n_embed": 14336, "num_hidden_layers": 70,
         "num_attention_heads": 112, "vocab_size": 250880},
        176_247_271_424,
    ),
    "mpt-7b": (
        {
            "model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32,
            "expansion_ratio": 4, "max_seq_len": 2048, "vocab_size": 50432, "no_bias": True,
            "attn_config": {"alibi": True, "attn_type": "multihead_attention"},
        },
        6_649_286_656,
    ),
    # Norms without weights and products without biases: OPTForCausalLM.
    "galactica-1.3b": (
        {"model_type": "opt", "hidden_size": 2048, "num_hidden_layers": 24, "ffn_dim": 8192,
         "num_attention_heads": 32, "max_position_embeddings": 2048, "vocab_size": 50000,
         "enable_bias": False, "layer_norm_elementwise_affine": False},
        1_314_557_952,
    ),
    "starcoder": (
        {"model_type": "gpt_bigcode", "n_embd": 6144, "n_head": 48, "n_layer": 40,
         "n_inner": 24576, "n_positions": 8192, "vocab_size": 49152, "multi_query": True},
        15_517_456_384,
    ),
    "codegen-350m": (
        {"model_type": "codegen", "n_embd": 1024, "n_head": 16, "n_layer": 20,
         "rotary_dim": 32, "vocab_size": 51200},
        356_712_448,
    ),
    "stablelm-3b-4e1t": (
        llama("stablelm", 2560, 32, 32, 32, 6912, 50304, **UNTIED), 2_795_443_200
    ),
    "command-r": (
        llama("cohere", 8192, 40, 64, 64, 22528, 256000, use_qk_norm=False), 34_980_831_232
    ),
    "command-r-plus": (
        llama("cohere", 12288, 64, 96, 8, 33792, 256000, use_qk_norm=True), 103_810_674_688
    ),
    "olmo-1b": (llama("olmo", 2048, 16, 16, 16, 8192, 50304, tie_word_embeddings=True),
                1_176_764_416),
    "olmo-7b": (llama("olmo", 4096, 32, 32, 32, 11008, 50304, **UNTIED), 6_888_095_744),
    "olmo-2-7b": (llama("olmo2", 4096, 32, 32, 32, 11008, 100352, **UNTIED), 7_298_617_344),
    "olmo-3-7b": (llama("olmo3", 4096, 32, 32, 32, 11008, 100278, **UNTIED), 7_298_011_136),
    "glm-4-9b": (
        {
            "model_type": "chatglm", "hidden_size": 4096, "num_layers": 40,
            "num_attention_heads": 32, "multi_query_attention": True, "multi_query_group_num": 2,
            "kv_channels": 128, "ffn_hidden_size": 13696, "padded_vocab_size": 151552,
            "add_qkv_bias": True, "add_bias_linear": False, "rmsnorm": True,
            "post_layer_norm": True, "tie_word_embeddings": False,
        },
        9_399_951_360,
    ),
    "glm-4-9b-hf": (
        llama("glm", 4096, 40, 32, 2, 13696, 151552, attention_bias=True, head_dim=128, **UNTIED),
        9_399_951_360,
    ),
    "smollm3-3b": (llama("smollm3", 2048, 36, 16, 4, 11008, 128256), 3_075_098_624),
    "exaone-3.5-7.8b": (
        {
            "model_type": "exaone", "hidden_size": 4096, "num_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
            "activation_function": "silu", "vocab_size": 102400, "tie_word_embeddings": False,
        },
        7_818_448_896,
    ),
    "internlm2-7b": (
        llama("internlm2", 4096, 32, 32, 8, 14336, 92544, bias=False, **UNTIED), 7_737_708_544
    ),
    "internlm2-20b": (
        llama("internlm2", 6144, 48, 48, 8, 16384, 92544, bias=False, **UNTIED), 19_861_149_696
    ),
    "baichuan2-7b": (
        llama("baichuan", 4096, 32, 32, 32, 11008, 125696, max_position_embeddings=4096,
              **UNTIED),
        7_505_973_248,
    ),
    "baichuan-13b": (
        llama("baichuan", 5120, 40, 40, 40, 13696, 64000, model_max_length=4096, **UNTIED),
        13_264_901_120,
    ),
    "qwen-7b": (
        {
            "model_type": "qwen", "hidden_size": 4096, "num_hidden_layers": 32,
            "num_attention_heads": 32, "intermediate_size": 22016, "kv_channels": 128,
            "no_bias": True, "vocab_size": 151936, "tie_word_embeddings": False,
        },
        7_721_324_544,
    ),
    "yi-6b": (llama("llama", 4096, 32, 32, 4, 11008, 64000, **UNTIED), 6_061_035_520),
    "minicpm-2b": (
        llama("minicpm", 2304, 40, 36, 36, 5760, 122753, scale_emb=12, scale_depth=1.4,
              dim_model_base=256),
        2_724_880_896,
    ),
    "llada-8b": (
        {
            "model_type": "llada", "d_model": 4096, "n_heads": 32, "n_kv_heads": 32,
            "n_layers": 32, "mlp_hidden_size": 12288, "embedding_size": 126464,
            "vocab_size": 126464, "weight_tying": False, "include_bias": False,
        },
        8_015_581_184,
    ),
    "dream-7b": (llama("Dream", 3584, 28, 28, 4, 18944, 152064, **UNTIED), 7_615_616_512),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_equal_the_published_count(name):
    config, published = PUBLISHED[name]
    program = load_model(config)
    verify_program(program)
    assert parameters(program.graph) == published
    assert program.notes == ()


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_metric_and_fusion_work(name):
    config, _ = PUBLISHED[name]
    compiled = cg.compile(config, "h100", "fuse")
    steps = {"K": 8} if compiled.program.phases[0].name == "denoise" else {}
    values = {"B": 2, "S": 64, "N": 8, **steps}
    latency = compiled.latency.evaluate(**values)
    assert latency > 0
    assert compiled.memory.evaluate(B=2, S=64, N=8) > 2 * int(compiled.parameters)
    assert compiled.throughput.evaluate(**values) * latency == pytest.approx(16)
    if not steps:
        assert 0 < compiled.tpot.evaluate(B=2, T=64) < latency
        unfused = cg.compile(config, "h100").bytes.evaluate(**values)
        assert compiled.bytes.evaluate(**values) < unfused


def test_every_architecture_names_a_family():
    assert set(ARCHITECTURES.values()) <= set(FAMILIES)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_classes_stand_in_the_file_of_their_family(family):
    assert set(classes_of(family)) == {n for n, its in ARCHITECTURES.items() if its == family}


def kv(config) -> object:
    return cache_bytes(load_model(config).graph).expand()


def test_windows_and_positions_follow_the_pattern():
    gemma = PUBLISHED["gemma-3-1b"][0]
    per_layer = 2 * 2 * 256
    # 26 layers: four times five sliding and one full, then two sliding.
    assert kv(gemma) == (per_layer * B * (22 * Min(T, 512) + 4 * T)).expand()
    names = [r.name for r in rows(load_model(gemma).graph) if r.name.endswith("q_proj")]
    assert names == ["sliding.q_proj", "full.q_proj", "last_sliding.q_proj"]
    command = llama("cohere2", 64, 8, 4, 2, 128, 100, sliding_window=16)
    found = {r.name: r.count for r in rows(load_model(command).graph)}
    # Layers that see everything do not rotate: the name is unique without its region.
    assert found["q_rope"] == found["sliding.q_proj"] == 6
    assert found["full.q_proj"] == 2
    smol = {r.name: r.count for r in rows(load_model(PUBLISHED["smollm3-3b"][0]).graph)}
    assert sum(c for n, c in smol.items() if n.endswith("q_rope")) == 27
    assert sum(c for n, c in smol.items() if n.endswith("q_proj")) == 36
    exaone = llama("exaone4", 64, 7, 4, 2, 128, 100, sliding_window=16,
                   sliding_window_pattern="LLLG")  # fmt: skip
    assert kv(exaone) == (2 * 2 * 2 * 16 * B * (5 * Min(T, 16) + 2 * T)).expand()
    olmo = llama("olmo3", 64, 8, 4, 4, 128, 100, sliding_window=16)
    assert kv(olmo) == (2 * 2 * 64 * B * (6 * Min(T, 16) + 2 * T)).expand()
    listed = {**olmo, "layer_types": ["full_attention"] * 4 + ["sliding_attention"] * 4}
    assert kv(listed) == (2 * 2 * 64 * B * (4 * Min(T, 16) + 4 * T)).expand()


def test_gemma_3_without_its_tower_is_its_text_part():
    text = {k: v for k, v in PUBLISHED["gemma-3-1b"][0].items() if k != "model_type"}
    seen = {"hidden_size": 1152, "num_attention_heads": 16, "num_hidden_layers": 27,
            "intermediate_size": 4304, "image_size": 896, "patch_size": 14}  # fmt: skip
    both = {"model_type": "gemma3", "text_config": text, "vision_config": seen}
    assert parameters(load_model(both).phase("decode").graph) == PUBLISHED["gemma-3-1b"][1]
    with pytest.raises(ModelError, match="256 tokens of a grid of 14 x 14"):
        load_model({**both, "vision_config": {"hidden_size": 1152}})
    # What the published text part leaves out has its own defaults.
    small = {"model_type": "gemma3", "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "sliding_window": 1024}}  # fmt: skip
    assert parameters(load_model(small).graph) == 3_880_263_168


def test_linear_biases_cost_two_per_pair():
    config = llama("baichuan", 32, 2, 4, 4, 64, 100, model_max_length=64)
    plain = llama("baichuan", 32, 2, 4, 4, 64, 100, max_position_embeddings=64)
    step = cg.compile(config, "a6000").breakdown("prefill", B=3, S=10)
    assert step["alibi"].flops == 2 * 3 * 4 * 55
    fused = cg.compile(config, "a6000", "fuse").breakdown("prefill", B=3, S=10)
    without = cg.compile(plain, "a6000", "fuse").breakdown("prefill", B=3, S=10)
    assert fused["attention"].flops - without["attention"].flops == 2 * 3 * 4 * 55
    assert fused["attention"].bytes == without["attention"].bytes


def test_scales_are_counted():
    config = llama("granite", 32, 3, 4, 2, 64, 100, embedding_multiplier=12,
                   residual_multiplier=0.2, logits_scaling=8)  # fmt: skip
    found = {r.name: r for r in rows(load_model(config).graph)}
    assert found["attn_scale"].count == found["mlp_scale"].count == 3
    assert found["logit_scale"].cost.total_flops == 100 * B
    assert "embed_scale" in found
    bare = {k: v for k, v in config.items() if not k.endswith(("multiplier", "scaling"))}
    assert not {n for n in (r.name for r in rows(load_model(bare).graph)) if "scale" in n}


def test_denoising_runs_over_everything_and_caches_nothing():
    config = PUBLISHED["llada-8b"][0]
    compiled = cg.compile(config, "h100")
    assert cache_bytes(compiled.graph) == Integer(0)
    one = compiled.flops.evaluate(B=1, S=100, N=28, K=1)
    assert compiled.flops.evaluate(B=1, S=100, N=28, K=32) == 32 * one
    pairs = 4 * 32 * 128 * 128 * 128  # all pairs, both products, per layer
    step = compiled.breakdown("denoise", B=1, S=100, N=28, K=1)
    assert step["qk_matmul"].flops + step["sv_matmul"].flops == pairs
    assert step["lm_head"].flops == 2 * 4096 * 126464 * 128
    latency = compiled.latency.evaluate(B=1, S=100, N=28, K=7)
    assert compiled.tpot.evaluate(B=1, S=100, N=28, K=7) == pytest.approx(latency / 28)
    assert compiled.ttft.evaluate(B=1, S=100, N=28) == pytest.approx(latency / 7)


TINY = llama("llama", 64, 2, 4, 2, 128, 100)


def test_keys_that_play_no_part_are_noted_once():
    program = load_model({**TINY, "wibble": 7, "rope_theta": 5.0, "off": False, "nothing": None})
    assert program.notes == ("keys of the configuration that play no part: 'wibble'",)
    many = load_model({**TINY, **{f"key{i}": 1 for i in range(20)}})
    assert "and 8 more" in many.notes[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_experts": 8}, ["num_experts", "experts"]),
        ({"kv_lora_rank": 512}, ["kv_lora_rank", "compressed"]),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, ["no_rope_layers", "2"]),
        ({"model_type": "gemma3_text", "layer_types": ["x", "y"]}, ["layer_types", "'x'"]),
        ({"model_type": "gemma3_text", "layer_types": 5}, ["layer_types", "list"]),
        ({"model_type": "starcoder2", "mlp_type": "other"}, ["mlp_type"]),
        ({"model_type": "baichuan"}, ["max_position_embeddings", "model_max_length"]),
        ({"model_type": "exaone4", "sliding_window": 8, "sliding_window_pattern": "GL"}, ["GL"]),
        ({"model_type": "mpt", "attn_config": 3}, ["attn_config", "object"]),
        ({"model_type": "gemma3", "text_config": None}, ["text_config"]),
        ({"model_type": "qwen", "intermediate_size": 7}, ["intermediate_size", "even"]),
        ({"model_type": "granite", "residual_multiplier": "x"}, ["residual_multiplier"]),
    ],
)
def test_what_counts_and_is_not_understood_is_refused(change, words):
    with pytest.raises(ModelError) as caught:
        load_model({**TINY, **change})
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_model_type_says_what_was_understood():
    with pytest.raises(ModelError) as caught:
        load_model({**TINY, "model_type": "wobble", "wibble": 3})
    text = str(caught.value)
    for word in ("wobble", "hidden_size", "not 'wibble'", "docs/families.md"):
        assert word in text
    assert "\n" not in text
    with pytest.raises(ModelError, match="fails"):
        load_model({"model_type": "wobble", "n_wobble": 3})


def test_configurations_survive_a_round_trip():
    config = PUBLISHED["gemma-3-1b"][0]
    assert load_model(json.loads(json.dumps(config))).graph == load_model(config).graph


def test_every_file_of_families_is_listed_once():
    from pathlib import Path

    from costgraph.models import families

    folder = Path(families.__file__).parent
    holders = {
        p.stem for p in folder.glob("*.py") if "FAMILIES: Mapping" in p.read_text(encoding="utf-8")
    }
    assert holders - {"__init__"} == set(families.FILES)
    assert len(list(FAMILIES)) == len(set(FAMILIES)) == len(FAMILIES)
    assert len(list(ARCHITECTURES)) == len(set(ARCHITECTURES))
