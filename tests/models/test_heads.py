"""Draft heads and modules for multi-token prediction: counted as published, and no models."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.counting.count import parameters
from costgraph.errors import InputError, ModelError, PipelineError
from costgraph.models import load_model
from costgraph.models.ahead import own_parameters
from costgraph.models.heads import EAGLE, EAGLE3, head_of, kind_of_head, target_of, usual_head

CONFIGS = Path(cg.__file__).parents[1] / "models" / "configs"


def target(name: str):
    program = cg.load_model(name)
    graph = program.phases[-1].graph
    return target_of(name, graph), graph


def llama_like(d: int, ffn: int, heads: int, kv: int, vocab: int, **more):
    """A target of these dimensions; its layers do not matter to a head."""
    config = {
        "model_type": "llama", "hidden_size": d, "intermediate_size": ffn, "hidden_act": "silu",
        "num_attention_heads": heads, "num_key_value_heads": kv, "num_hidden_layers": 2,
        "vocab_size": vocab, **more,
    }  # fmt: skip
    program = cg.load_model(config)
    return target_of("target", program.graph), config


# --- multi-token prediction

#: Tensors of ``mtp.*`` in the published checkpoint of Qwen3.5-27B.
QWEN3_5_27B = [
    (5120, 10240), (5120,), (5120, 17408), (17408, 5120), (17408, 5120), (5120,), (256,),
    (1024, 5120), (5120, 6144), (256,), (12288, 5120), (1024, 5120), (5120,), (5120,), (5120,),
]  # fmt: skip


def deepseek_module() -> int:
    """``model.layers.61.*`` of DeepSeek-V3, without its copies of embedding and head."""
    d, rank, heads = 7168, 512, 128
    mla = d * 1536 + 1536 + 1536 * heads * 192 + d * (rank + 64) + rank + rank * heads * 256
    mla += heads * 128 * d
    experts = 256 * d + 257 * 3 * d * 2048
    return 2 * d * d + 3 * d + 2 * d + mla + experts


def qwen3_next_module() -> int:
    """``mtp.*`` of Qwen3-Next-80B-A3B: gated attention and 512 experts with a shared one."""
    d = 2048
    attention = 2 * 16 * 256 * d + 2 * 2 * 256 * d + 16 * 256 * d + 2 * 256
    experts = 512 * d + 513 * 3 * d * 512 + d
    return 2 * d * d + 3 * d + 2 * d + attention + experts


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("qwen3.5-27b", sum(map(prod, QWEN3_5_27B))),
        ("deepseek-v3", deepseek_module()),
        ("deepseek-r1", deepseek_module()),
        ("qwen3-next-80b-a3b", qwen3_next_module()),
    ],
)
def test_modules_of_files_are_counted_tensor_by_tensor(model, count):
    program = cg.load_model(model)
    assert own_parameters(program.ahead) == count
    (said,) = [n for n in program.notes if "multi-token" in n]
    assert f"{count:,} parameters" in said
    assert "draft=mtp" in said


def test_the_module_of_deepseek_completes_the_published_size():
    """671B and a module make 685B; the module's layer alone is 11.5B (README_WEIGHTS)."""
    program = cg.load_model("deepseek-v3")
    own, shared = own_parameters(program.ahead), 2 * 129280 * 7168
    whole = parameters(program) + own + shared
    assert round(float(whole) / 1e9) in (684, 685)
    assert round(float(own - 2 * 7168**2) / 1e9, 1) == 11.5


def test_a_model_holds_its_module_only_when_asked():
    plain = cg.load_model("deepseek-v3")
    assert parameters(plain) == 671_026_404_352
    assert all("next-token" not in r.graph.name for p in plain.phases for r in p.resident)
    with pytest.raises(PipelineError, match="kimi-k2 has no module for multi-token prediction"):
        cg.compile("kimi-k2", "h200", "speculative{draft=mtp}")


def test_modules_that_are_not_known_are_told():
    (said,) = [n for n in cg.load_model("minimax-m2.5").notes if "multi-token" in n]
    assert "num_mtp_modules = 3" in said
    with pytest.raises(PipelineError, match=r"minimax-m2\.5 has no module"):
        cg.compile("minimax-m2.5", "h200", "speculative{draft=mtp}")


@pytest.mark.parametrize("count", [1, 2])
def test_several_modules_are_told_as_many(count):
    config = json.loads((CONFIGS / "deepseek-v3.json").read_text())
    config |= {"num_nextn_predict_layers": count, "num_hidden_layers": 4}
    config.pop("quantization_config", None)
    (said,) = [n for n in cg.load_model(config).notes if "multi-token" in n]
    assert ("a module of" if count == 1 else "2 modules of") in said


# --- EAGLE

#: Trainable parameters of EAGLE's heads in billions (arXiv 2401.15077, section 4).
PUBLISHED = [("llama-2-7b", 0.24), ("llama-2-13b", 0.37), ("llama-2-70b", 0.99)]


@pytest.mark.parametrize(("model", "billions"), PUBLISHED)
def test_eagle_heads_are_as_large_as_published(model, billions):
    head = usual_head(EAGLE, *target(model))
    assert round(float(own_parameters(head)) / 1e9, 2) == billions


def eagle3_tensors(d, ffn, q, kv, rows):
    """Tensors of a published EAGLE-3 head, as its file lists them."""
    return sum(map(prod, [
        (d, 3 * d), (d,), (d,), (d,), (q, 2 * d), (kv, 2 * d), (kv, 2 * d), (d, q),
        (ffn, d), (ffn, d), (d, ffn), (d,), (rows, d),
    ]))  # fmt: skip


def eagle3_config(d, ffn, heads, kv, vocab, **more):
    return {
        "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "hidden_size": d,
        "intermediate_size": ffn, "num_attention_heads": heads, "num_key_value_heads": kv,
        "num_hidden_layers": 1, "vocab_size": vocab, "draft_vocab_size": 32000,
        "hidden_act": "silu", **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dims", "more", "tensors", "published"),
    [
        # Qwen3-4B-Instruct-2507-EAGLE3 of the hub: 202,700,416 with the maps between vocabularies.
        ((2560, 9728, 32, 8, 151936), {}, (2560, 9728, 2560, 640, 32000), 202_700_416),
        # A head of Qwen3.5-9B: shapes as its file lists them.
        ((4096, 12288, 32, 8, 248320), {}, (4096, 12288, 4096, 1024, 32000), None),
        # Llama-3.1-8B's, and one with heads of another size than d / H.
        ((4096, 14336, 32, 8, 128256), {}, (4096, 14336, 4096, 1024, 32000), None),
        ((1024, 4096, 32, 8, 151936), {"head_dim": 128}, (1024, 4096, 4096, 1024, 32000), None),
    ],
)
def test_eagle3_heads_hold_the_tensors_of_their_files(dims, more, tensors, published):
    d, ffn, heads, kv, vocab = dims
    known, _ = llama_like(d, ffn, heads, kv, vocab)
    head = head_of(eagle3_config(*dims, **more), "head", EAGLE3, known)
    own = own_parameters(head)
    assert own == eagle3_tensors(*tensors)
    if published is not None:
        assert own + 32000 + vocab == published
    assert head.borrowed == ("embed.weight",)


def test_without_a_file_a_head_is_as_wide_as_its_target():
    known, graph = target("llama-3.1-8b")
    usual = usual_head(EAGLE3, known, graph)
    read = head_of(eagle3_config(4096, 14336, 32, 8, 128256), "head", EAGLE3, known)
    assert own_parameters(usual) == own_parameters(read)


def test_an_eagle_head_costs_what_the_paper_derives():
    """``(P_layer + 2d² + dV) / (L·P_layer + dV)`` = 0.055 for 7B: both are bound by weights."""
    plain = cg.compile("llama-2-7b", "a100", "fuse").tpot.evaluate(B=1, T=8)
    made = cg.compile("llama-2-7b", "a100", "fuse,speculative{draft=eagle,gamma=5}")
    assert made.time("draft").evaluate(B=1, T=8) / plain == pytest.approx(0.0555, abs=2e-4)


# --- heads are no models

MARKED = [
    ({"architectures": ["LlamaForCausalLMEagle3"]}, "EAGLE3"),
    ({"architectures": ["LlamaForCausalLMEagle"]}, "EAGLE"),
    ({"architectures": ["Eagle3LlamaForCausalLM"]}, "EAGLE3"),
    ({"architectures": ["LlamaForCausalLM"], "draft_vocab_size": 32000}, "EAGLE3"),
    ({"architectures": ["DeepseekV3ForCausalLMNextN"]}, "draft=mtp"),
    ({"medusa_num_heads": 5}, "draft=heads"),
    ({"model_type": "mlp_speculator"}, "MLP speculator"),
    ({"speculators_model_type": "eagle3"}, "speculators"),
]


@pytest.mark.parametrize(("change", "words"), MARKED)
def test_a_head_is_never_read_as_a_model(change, words):
    _, config = llama_like(512, 1024, 8, 8, 1000)
    assert kind_of_head(config) is None
    with pytest.raises(ModelError, match=words):
        cg.load_model(config | change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 1024}, "a head for a hidden size of 1,024; target has 512"),
        ({"vocab_size": 2000}, "a head for a vocabulary of 2,000; target has 1,000"),
        ({"num_hidden_layers": 3}, "heads of one layer"),
        ({"model_type": "mistral"}, "only layers as in Llama"),
    ],
)
def test_heads_of_other_targets_are_refused(change, words):
    known, _ = llama_like(512, 1024, 8, 8, 1000)
    config = eagle3_config(512, 1024, 8, 8, 1000) | change
    with pytest.raises(InputError, match=words):
        head_of(config, "head", EAGLE3, known)


def test_a_head_of_another_hidden_size_says_the_target_s():
    known, _ = llama_like(512, 1024, 8, 8, 1000)
    config = eagle3_config(256, 1024, 8, 8, 1000, target_hidden_size=512)
    head = head_of(config, "head", EAGLE3, known)
    (fuse,) = [t for t, _ in head.graph.weights() if t.name == "fuse.weight"]
    assert fuse.shape == (Integer(256), Integer(1536))


def test_targets_without_plain_layers_need_the_head_s_file():
    for model in ("mixtral-8x7b", "deepseek-v3", "jamba-v0.1", "mamba-2.8b"):
        with pytest.raises(PipelineError, match=r"name the head's config\.json"):
            cg.compile(model, "h200", "speculative{draft=eagle3}")


def test_colbert_makes_a_vector_for_each_word_beside_berts_pooler():
    config = {
        "model_type": "bert", "architectures": ["HF_ColBERT"], "hidden_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
        "vocab_size": 200, "max_position_embeddings": 64, "type_vocab_size": 2,
    }  # fmt: skip
    bare = load_model({**config, "architectures": ["BertModel"]})
    words = load_model(config)
    assert parameters(words) == parameters(bare) + 128 * 32
    assert any("128" in said for said in words.assumptions)
    assert parameters(load_model({**config, "dim": 24})) == parameters(bare) + 24 * 32
