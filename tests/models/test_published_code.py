"""Files as they are published: as many parameters as their tensors, or their class, have.

Most types are their publishers' alone, and no class of transformers is theirs: the number stands in
the index of the tensors, or is the sum that the published layers give.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from sympy import Integer

from costgraph.counting.count import exact_cost, parameters, rows
from costgraph.errors import InputError, ModelError
from costgraph.ir.verify import verify_program
from costgraph.models import load_model
from costgraph.symbols import B, S, q
from tests.models.counting import products

BERT = {
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
    "num_hidden_layers": 12, "hidden_act": "gelu", "type_vocab_size": 2,
    "max_position_embeddings": 8192, "vocab_size": 30528,
}  # fmt: skip
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
         "num_hidden_layers": 24}  # fmt: skip
LLAMA = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
MISTRAL = {
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32,
    "rms_norm_eps": 1e-5, "sliding_window": 4096, "vocab_size": 32000,
}  # fmt: skip
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "jinaai/jina-embeddings-v2-base-en": (
        {**BERT, "model_type": "bert", "architectures": ["JinaBertModel"],
         "position_embedding_type": "alibi", "feed_forward_type": "geglu"},
        137_368_320,
    ),
    "jinaai/jina-embeddings-v3": (
        {**BERT, **LARGE, "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"],
         "position_embedding_type": "rotary", "vocab_size": 250002, "type_vocab_size": 1,
         "lora_adaptations": ["a", "b", "c", "d", "e"], "lora_rank": 4},
        572_310_396,
    ),
    "Alibaba-NLP/gte-large-en-v1.5": (
        {**BERT, **LARGE, "model_type": "new", "architectures": ["NewModel"],
         "position_embedding_type": "rope", "layer_norm_type": "layer_norm"},
        434_139_136,
    ),
    "nomic-ai/nomic-embed-text-v2-moe": (
        {"model_type": "nomic_bert", "architectures": ["NomicBertModel"], "n_embd": 768,
         "n_head": 12, "n_inner": 3072, "n_layer": 12, "n_positions": 2048, "vocab_size": 250048,
         "type_vocab_size": 1, "activation_function": "gelu", "qkv_proj_bias": True,
         "mlp_fc1_bias": True, "mlp_fc2_bias": True, "num_experts": 8, "moe_top_k": 2,
         "moe_every_n_layers": 2, "add_pooling_layer": False},
        475_292_928,
    ),
    "amazon/chronos-bolt-base": (
        {"model_type": "t5", "architectures": ["ChronosBoltModelForForecasting"], "d_model": 768,
         "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12,
         "feed_forward_proj": "relu", "vocab_size": 2, "reg_token_id": 1,
         "tie_word_embeddings": False, "chronos_config": {
             "context_length": 2048, "input_patch_size": 16, "input_patch_stride": 16,
             "prediction_length": 64, "quantiles": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
             "use_reg_token": True}},
        205_292_928,
    ),
    "state-spaces/mamba-130m": (
        {"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": True,
         "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8},
        129_135_360,
    ),
    "state-spaces/mamba2-2.7b": (
        {"d_model": 2560, "d_intermediate": 0, "n_layer": 64, "vocab_size": 50277,
         "ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True,
         "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16,
         "tie_embeddings": True},
        2_702_599_680,
    ),
    "deepseek-ai/deepseek-moe-16b-base": (
        {**LLAMA, "model_type": "deepseek", "hidden_size": 2048, "intermediate_size": 10944,
         "moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2,
         "num_experts_per_tok": 6, "first_k_dense_replace": 1, "num_attention_heads": 16,
         "num_hidden_layers": 28, "num_key_value_heads": 16, "vocab_size": 102400},
        16_375_728_128,
    ),
    "microsoft/Phi-3-small-8k-instruct": (
        {"model_type": "phi3small", "hidden_act": "gegelu", "hidden_size": 4096,
         "ff_intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
         "num_hidden_layers": 32, "vocab_size": 100352, "blocksparse_num_local_blocks": 16,
         "blocksparse_block_size": 64, "blocksparse_vert_stride": 8},
        7_392_272_384,
    ),
    "tiiuae/falcon-40b": (
        {"model_type": "RefinedWeb", "architectures": ["RWForCausalLM"], "hidden_size": 8192,
         "n_head": 128, "n_head_kv": 8, "n_layer": 60, "vocab_size": 65024, "multi_query": True},
        41_303_293_952,
    ),
    "allenai/OLMo-1B": (
        {"model_type": "hf_olmo", "d_model": 2048, "n_heads": 16, "n_layers": 16, "mlp_ratio": 8,
         "embedding_size": 50304, "vocab_size": 50280, "weight_tying": True},
        1_176_764_416,
    ),
    "internlm/internlm-7b": (
        {**LLAMA, "model_type": "internlm", "bias": True, "hidden_size": 4096,
         "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32,
         "vocab_size": 103168},
        7_321_948_160,
    ),
    "xverse/XVERSE-7B": (
        {**LLAMA, "model_type": "xverse", "hidden_size": 4096, "intermediate_size": 10240,
         "num_attention_heads": 32, "num_hidden_layers": 32, "vocab_size": 100534,
         "max_tokenizer_truncation": 6144},
        6_997_856_256,
    ),
    # Adapters of queries, keys and values: Zamba2ForCausalLM.
    "Zyphra/Zamba2-1.2B": (
        {"model_type": "zamba2", "hidden_size": 2048, "attention_hidden_size": 4096,
         "attention_head_dim": 128, "num_attention_heads": 32, "intermediate_size": 8192,
         "adapter_rank": 128, "mamba_d_state": 128, "mamba_ngroups": 1, "n_mamba_heads": 64,
         "num_hidden_layers": 38, "num_mem_blocks": 1, "use_mem_rope": True,
         "use_shared_attention_adapter": True, "vocab_size": 32000,
         "hybrid_layer_ids": [5, 11, 17, 23, 29, 35],
         "layers_block_type": [
             "hybrid" if i % 6 == 5 and i < 36 else "mamba" for i in range(38)]},
        1_215_064_704,
    ),
    "deepseek-ai/DeepSeek-OCR-2": (
        {"model_type": "deepseek_vl_v2", "architectures": ["DeepseekOCR2ForCausalLM"],
         "candidate_resolutions": [[1024, 1024]], "global_view_pos": "head", "tile_tag": "2D",
         "hidden_size": 1280, "use_mla": False,
         "projector_config": {"input_dim": 896, "model_type": "mlp_projector", "n_embed": 1280,
                              "projector_type": "linear"},
         "vision_config": {"image_size": 1024, "mlp_ratio": 3.7362, "model_type": "vision",
                           "model_name": "deepencoderv2"},
         "language_config": {
             "architectures": ["DeepseekV2ForCausalLM"], "hidden_size": 1280,
             "intermediate_size": 6848, "moe_intermediate_size": 896, "kv_lora_rank": None,
             "q_lora_rank": None, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "v_head_dim": 0,
             "use_mla": False, "n_routed_experts": 64, "n_shared_experts": 2, "n_group": 1,
             "topk_group": 1, "topk_method": "greedy", "num_experts_per_tok": 6,
             "num_attention_heads": 10, "num_key_value_heads": 10, "num_hidden_layers": 12,
             "first_k_dense_replace": 1, "lm_head": True, "rm_head": False,
             "vocab_size": 129280}},
        3_389_119_360,
    ),
    "nvidia/NV-Embed-v2": (
        {"model_type": "nvembed", "architectures": ["NVEmbedModel"], "hidden_size": 4096,
         "text_config": {**MISTRAL, "model_type": "bidir_mistral"},
         "latent_attention_config": {"model_type": "latent_attention"}},
        7_851_016_192,
    ),
    "nvidia/llama-embed-nemotron-8b": (
        {**MISTRAL, "model_type": "llama_bidirec", "architectures": ["LlamaBidirectionalModel"],
         "vocab_size": 128256, "pooling": "avg"},
        7_504_924_672,
    ),
    # One label is one row of the hidden size.
    "LlamaBidirectionalForSequenceClassification": (
        {**MISTRAL, "model_type": "llama_bidirec", "vocab_size": 128256,
         "architectures": ["LlamaBidirectionalForSequenceClassification"],
         "id2label": {"0": "LABEL_0"}},
        7_504_928_768,
    ),
    # What the class has where a file says nothing.
    "nemotron_h": ({"model_type": "nemotron_h"}, 1_968_355_712),
    "glm_moe_dsa": (
        {"model_type": "glm_moe_dsa", "hidden_size": 6144, "intermediate_size": 12288,
         "kv_lora_rank": 512, "moe_intermediate_size": 2048, "n_routed_experts": 256,
         "num_attention_heads": 64, "num_experts_per_tok": 8, "num_hidden_layers": 78,
         "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256,
         "vocab_size": 154880, "hidden_act": "silu", "tie_word_embeddings": False},
        743_911_199_232,
    ),
    "meta-llama/Llama-4-Scout, text": (
        {"model_type": "llama4", "architectures": ["Llama4ForCausalLM"], "hidden_size": 5120,
         "head_dim": 128, "num_attention_heads": 40, "num_key_value_heads": 8,
         "num_hidden_layers": 48, "num_local_experts": 16, "num_experts_per_tok": 1,
         "intermediate_size": 8192, "intermediate_size_mlp": 16384, "hidden_act": "silu",
         "interleave_moe_layer_step": 1, "vocab_size": 202048, "attention_chunk_size": 8192,
         "use_qk_norm": True},
        107_769_861_120,
    ),
}  # fmt: skip
SECOND = PUBLISHED["deepseek-ai/DeepSeek-OCR-2"][0]
PUBLISHED["deepseek-ai/DeepSeek-OCR"] = (
    {**SECOND, "architectures": ["DeepseekOCRForCausalLM"],
     "projector_config": {**SECOND["projector_config"], "input_dim": 2048}},
    3_336_106_240,
)  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    config, wanted = PUBLISHED[name]
    program = load_model(config)
    verify_program(program)
    assert parameters(program) == wanted


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("jinaai/jina-embeddings-v2-base-en", {"position_embedding_type": "absolute"}, "alibi"),
        ("jinaai/jina-embeddings-v2-base-en", {"feed_forward_type": "original"}, "geglu"),
        ("jinaai/jina-embeddings-v2-base-en",
         {"auto_map": {"AutoConfig": "jinaai/jina-bert-v2-qk-post-norm--c.C"}}, "qk|queries"),
        ("jinaai/jina-embeddings-v2-base-en", {"architectures": ["BertModel"]}, "alibi"),
        ("jinaai/jina-embeddings-v3", {"lora_rank": None}, "lora_rank"),
        ("nomic-ai/nomic-embed-text-v2-moe", {"qkv_proj_bias": False}, "qkv_proj_bias"),
        ("deepseek-ai/deepseek-moe-16b-base", {"kv_lora_rank": 512}, "kv_lora_rank"),
        ("Alibaba-NLP/gte-large-en-v1.5", {"layer_norm_type": "rms_norm"}, "layer_norm_type"),
        ("allenai/OLMo-1B", {"include_bias": True}, "include_bias"),
        ("amazon/chronos-bolt-base", {"chronos_config": None}, "chronos_config"),
        ("state-spaces/mamba2-2.7b", {"attn_layer_idx": [9, 18]}, "attention between the layers"),
        ("state-spaces/mamba2-2.7b", {"d_intermediate": 64}, "d_intermediate"),
        ("state-spaces/mamba2-2.7b", {"ssm_cfg": {"layer": "Mamba3"}}, "Mamba3"),
        ("state-spaces/mamba-130m", {"ssm_cfg": {"d_inner": 64}}, "d_inner"),
        ("state-spaces/mamba-130m", {"rms_norm": False}, "rms_norm"),
        ("Zyphra/Zamba2-1.2B", {"hybrid_layer_ids": [5, 11]}, "hybrid_layer_ids"),
        ("deepseek-ai/DeepSeek-OCR-2", {"architectures": ["DeepseekVLV2ForCausalLM"]}, "OCR2"),
        ("deepseek-ai/DeepSeek-OCR-2", {"architectures": ["DeepseekOCRForCausalLM"]}, "input_dim"),
        ("deepseek-ai/DeepSeek-OCR-2", {"hidden_size": 640}, "language_config"),
        ("deepseek-ai/DeepSeek-OCR",
         {"vision_config": {"width": {"clip-l-14-224": {"layers": 12}}}}, "'layers' = 12: only 24"),
        ("deepseek-ai/DeepSeek-OCR", {"language_config": {"topk_method": "noaux_tc"}}, "greedy"),
        ("deepseek-ai/DeepSeek-OCR", {"language_config": {"sliding_window": 128}}, "only None"),
        ("nvidia/NV-Embed-v2", {"hidden_size": 2048}, "'hidden_size' = 2048: only 4096"),
        ("nvidia/NV-Embed-v2", {"latent_attention_config": {"latent_dim": 64}}, "latent_dim"),
        ("nvidia/llama-embed-nemotron-8b", {"architectures": ["LlamaBidirectional"]}, "known"),
    ],
)  # fmt: skip
def test_what_makes_it_another_model_is_refused(
    name: str, change: dict[str, Any], word: str
) -> None:
    with pytest.raises(ModelError, match=word):
        load_model({**PUBLISHED[name][0], **change})


def test_adapters_rest_and_are_told() -> None:
    config = PUBLISHED["jinaai/jina-embeddings-v3"][0]
    program = load_model(config)
    assert any("adapters of 5 tasks" in said for said in program.assumptions)
    plain = load_model({k: v for k, v in config.items() if not k.startswith("lora")})
    mine, others = (exact_cost(p.phases[0].graph) for p in (program, plain))
    assert mine.total_flops == others.total_flops


def test_every_position_looks_at_all_latent_rows_of_its_text() -> None:
    """Two texts of 3 positions: what the published layers behind the decoder multiply."""
    config = json.loads(json.dumps(PUBLISHED["nvidia/NV-Embed-v2"][0]))
    config["hidden_size"] = 64
    config["text_config"] |= {"hidden_size": 64, "num_attention_heads": 8}
    config["latent_attention_config"] |= {
        "hidden_dim": 64, "latent_dim": 64, "num_cross_heads": 2, "cross_dim_head": 5,
        "num_latents_value": 7,
    }  # fmt: skip
    graph = load_model(config).phases[0].graph
    given = {B: Integer(2), q: Integer(3), S: Integer(3)}
    found = {
        r.name: int((r.count * products(r)).xreplace(given))
        for r in rows(graph)
        if r.name.startswith("latent_") and products(r) != 0
    }
    positions, latents, d, width = 2 * 3, 2 * 7, 64, 2 * 5
    assert found == {
        "latent_q_proj": 2 * positions * d * width,
        "latent_kv_proj": 2 * latents * d * 2 * width,
        "latent_qk_matmul": 2 * positions * 7 * width,
        "latent_sv_matmul": 2 * positions * 7 * width,
        "latent_o_proj": 2 * positions * width * d,
        "latent_gate_up_proj": 2 * positions * d * 8 * d,
        "latent_down_proj": 2 * positions * 4 * d * d,
    }


@pytest.mark.parametrize(("name", "largest"), [("DeepSeek-OCR", 640), ("DeepSeek-OCR-2", 768)])
def test_pictures_that_are_shown_in_parts_are_refused(name: str, largest: int) -> None:
    config = PUBLISHED[f"deepseek-ai/{name}"][0]
    told = load_model(config, image=(largest, 500)).assumptions
    assert any("makes G = 256 tokens" in said for said in told)
    with pytest.raises(InputError, match=f"more than {largest} pixels a side are shown in parts"):
        load_model(config, image=(largest + 1, 500))
