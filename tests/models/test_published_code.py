"""Types that only their publishers' code reads: as many parameters as the published tensors have.

No class of transformers is theirs; a number stands in the index of the tensors, or is the sum that
the published layers give.
"""

from __future__ import annotations

from typing import Any

import pytest

from costgraph.counting.count import exact_cost, parameters
from costgraph.errors import ModelError
from costgraph.ir.verify import verify_program
from costgraph.models import load_model

BERT = {
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
    "num_hidden_layers": 12, "hidden_act": "gelu", "type_vocab_size": 2,
    "max_position_embeddings": 8192, "vocab_size": 30528,
}  # fmt: skip
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
         "num_hidden_layers": 24}  # fmt: skip
LLAMA = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
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
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    config, wanted = PUBLISHED[name]
    program = load_model(config)
    verify_program(program)
    assert parameters(program) == wanted
    # A layer more is counted, so the number is none that was put there.
    key = next(k for k in ("num_hidden_layers", "n_layer", "n_layers") if k in config)
    assert parameters(load_model({**config, key: config[key] + 2})) > wanted


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
