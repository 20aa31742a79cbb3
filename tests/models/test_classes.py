"""The class that a file names decides, with its model type, what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sympy import Integer

from costgraph.counting.count import exact_cost, parameters, rows
from costgraph.errors import ModelError
from costgraph.ir.verify import verify_program
from costgraph.models.catalog import CONFIGS
from costgraph.models.families import ARCHITECTURES, FAMILIES
from costgraph.models.hf import import_config
from costgraph.symbols import B, S, q
from tests.models.counting import products


def _config(name: str, **changes: Any) -> dict[str, Any]:
    return {**json.loads((CONFIGS / f"{name}.json").read_text()), **changes}


def _count(config: dict[str, Any]) -> int:
    program = import_config(config, "m")
    verify_program(program)
    return int(parameters(program))


ONE = {"id2label": {"0": "LABEL_0"}}
#: Shipped configurations under the name of another class, and the parameters of that class,
#: instantiated in PyTorch (Transformers 5.24, meta device).
COUNTED = {
    ("llama-3.1-8b", "LlamaForSequenceClassification"): 7_504_928_768,
    ("mistral-7b", "MistralModel"): 7_110_660_096,
    ("llama-3.1-8b", "LlamaForTokenClassification"): 7_504_928_769,
    ("gpt2", "GPT2ForTokenClassification"): 124_440_577,
    ("qwen2.5-7b", "Qwen2ForQuestionAnswering"): 7_070_626_306,
    ("bart-large", "BartForSequenceClassification"): 407_342_081,
    ("bart-large", "BartModel"): 406_291_456,
    ("t5-base", "T5ForSequenceClassification"): 223_494_913,
    ("t5-base", "T5ForTokenClassification"): 109_629_313,
    ("gemma-3-27b-text", "Gemma3TextForSequenceClassification"): 27_009_351_680,
    ("qwen3.5-27b", "Qwen3_5ForCausalLM"): 26_895_998_464,
}


@pytest.mark.parametrize(("name", "named"), list(COUNTED))
def test_bare_models_and_scores_equal_the_published_classes(name: str, named: str) -> None:
    assert _count(_config(name, architectures=[named], **ONE)) == COUNTED[name, named]


def test_scores_of_every_position_are_counted_at_each() -> None:
    bare, tags = (
        import_config(_config("qwen2.5-0.5b", architectures=[f"Qwen2{end}"], num_labels=5), "m")
        for end in ("Model", "ForTokenClassification")
    )
    graphs = [program.phases[0].graph for program in (tags, bare)]
    tagged, hidden = (exact_cost(graph).total_flops for graph in graphs)
    # A product with 896 rows and a bias, for each of five labels at each position.
    assert (tagged - hidden - B * q * 5 * (2 * 896 + 1)).expand() == 0


@pytest.mark.parametrize(
    ("name", "named", "counted"),
    [("bart-large", "BartModel", 11_312_037_888), ("t5-small", "T5Model", 1_418_723_328)],
)
def test_a_pair_without_logits_reads_its_text_twice(name: str, named: str, counted: int) -> None:
    """Products of 16 tokens that both parts read, as PyTorch's counter finds them."""
    program = import_config(_config(name, architectures=[named]), "m", mask="compute")
    encode, forward = program.phases
    assert (encode.name, forward.name, program.emits) == ("encode", "forward", False)
    sizes = {B: Integer(1), S: Integer(16)}
    each = ((phase, row) for phase in program.phases for row in rows(phase.graph))
    assert sum(phase.bind(r.count * products(r)).xreplace(sizes) for phase, r in each) == counted


@pytest.mark.parametrize(
    ("kind", "named"),
    [("t5gemma", "T5GemmaForQuestionAnswering"), ("bart", "BartForTokenClassification")],
)
def test_heads_of_pairs_that_are_not_known_are_refused(kind: str, named: str) -> None:
    folder = Path(__file__).parent / "counted" / "configs"
    config = {
        "t5gemma": lambda: json.loads((folder / "t5gemma-default.json").read_text()),
        "bart": lambda: _config("bart-large"),
    }[kind]()
    with pytest.raises(ModelError, match=named):
        import_config({**config, "architectures": [named]}, "m")


def test_a_reward_model_has_two_products_behind_its_layers() -> None:
    base = _config("qwen2.5-7b", architectures=["Qwen2Model"])
    d, bare = base["hidden_size"], _count(base)
    for name, labels in (("Qwen2ForRewardModel", 1), ("Qwen2ForProcessRewardModel", 2)):
        made = _count({**base, "architectures": [name]})
        assert made - bare == d * d + d + labels * (d + 1)


def test_a_pooler_is_counted() -> None:
    # bert-large of another vocabulary: bge-large-en, 335,141,888 in PyTorch.
    large = _config("bert-large", architectures=["BertModel"])
    d = 1024
    rows = large["vocab_size"] - 30_522
    assert _count(large) == 335_141_888 + rows * d
    alone = _count({k: v for k, v in large.items() if k != "architectures"})
    assert _count(large) - alone == d * d + d
    labels = _config("bert-large", architectures=["BertForSequenceClassification"], **ONE)
    assert _count(labels) - _count(large) == d + 1


def test_an_encoder_is_no_pair() -> None:
    whole, half = _config("t5-base"), _config("t5-base", architectures=["T5EncoderModel"])
    program = import_config(half, "m")
    assert [p.name for p in program.phases] == ["forward"]
    assert _count(half) < _count(whole) / 1.9


def test_a_multilingual_encoder_is_its_alias() -> None:
    # XLMRobertaModel of bge-m3.
    config = {
        "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "hidden_size": 1024,
        "num_attention_heads": 16, "num_hidden_layers": 24, "intermediate_size": 4096,
        "vocab_size": 250002, "max_position_embeddings": 8194, "type_vocab_size": 1,
        "hidden_act": "gelu",
    }  # fmt: skip
    assert _count(config) == 567_754_752


def test_one_pass_has_no_tokens_and_says_what_it_is() -> None:
    program = import_config(_config("llama-3.1-8b", architectures=["LlamaModel"]), "m")
    (phase,) = program.phases
    assert (phase.name, phase.tokens) == ("forward", 0)
    assert any("no output layer" in said for said in program.assumptions)
    assert not any(node.op.kind == "sample" for node in phase.graph.nodes)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_an_unknown_class_is_refused_in_every_family(family: str) -> None:
    known = [name for name, its in ARCHITECTURES.items() if its == family]
    names = [p.stem for p in sorted(CONFIGS.glob("*.json"))]
    found = [n for n in names if _config(n).get("model_type") == family]
    if not found or not known:
        pytest.skip("no configuration of this family is shipped, or it has no classes")
    for odd in ("HeronForCausalLM", known[0] + "WithBeak", "DFlashDraftModel"):
        with pytest.raises(ModelError, match=r"not read under model_type|no model of its own") as e:
            import_config(_config(found[0], architectures=[odd]), "m")
        assert "\n" not in str(e.value)


def test_a_head_under_the_name_of_its_target_is_refused() -> None:
    with pytest.raises(ModelError, match="a draft head"):
        import_config(_config("llama-2-7b", num_hidden_layers=1), "m")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("modernbert-base", "decoder_bias", False),
        ("modernbert-base", "tie_word_embeddings", False),
        ("bert-base", "tie_word_embeddings", False),
        ("qwen3-30b-a3b", "mlp_layer_types", ["dense"]),
        ("mixtral-8x7b", "kv_lora_rank", 512),
        ("jamba-v0.1", "hidden_size_per_layer_input", 256),
        ("llama-2-7b", "layer_norm_elementwise_affine", False),
    ],
)
def test_what_changes_a_count_refuses_in_every_kind_of_family(
    name: str, key: str, value: Any
) -> None:
    with pytest.raises(ModelError, match=key):
        import_config(_config(name, **{key: value}), "m")


def test_keys_of_a_section_are_guarded_as_those_outside() -> None:
    config = _config("qwen3.5-27b")
    config["text_config"]["attn_output_gate"] = False
    with pytest.raises(ModelError, match=r"text_config\.attn_output_gate"):
        import_config(config, "m")


@pytest.mark.parametrize("part", ["vision_config", "audio_config", "speech_config"])
def test_a_part_that_is_not_counted_is_said(part: str) -> None:
    for name in ("llama-3.1-8b", "gemma-3-27b-text", "mixtral-8x7b"):
        program = import_config(_config(name, **{part: {"hidden_size": 1152}}), "m")
        assert any(f"({part!r})" in said for said in program.assumptions)


def test_towers_that_are_read_are_in_memory_in_every_phase() -> None:
    for name in ("qwen3-vl-8b", "qwen3.5-27b", "whisper-small", "llava-1.5-7b"):
        program = import_config(_config(name), "m")
        assert len({int(parameters(phase)) for phase in program.phases}) == 1
        assert not any("alone is counted" in said for said in program.assumptions)


@pytest.mark.parametrize("name", ["granite-4.0-h-micro", "nemotron-h-56b"])
def test_names_that_transformers_5_writes_are_read(name: str) -> None:
    config = _config(name)
    names = {"mamba": "linear_attention", "attention": "full_attention", "mlp": "mlp"}
    if "layer_types" in config:
        resaved = {**config, "layer_types": [names[k] for k in config["layer_types"]]}
    else:
        letters = {"M": "linear_attention", "*": "full_attention", "-": "mlp"}
        resaved = dict(config)
        pattern = resaved.pop("hybrid_override_pattern")
        resaved["layers_block_type"] = [letters[k] for k in pattern]
    assert resaved != config
    assert import_config(resaved, "m").phases == import_config(config, "m").phases


def _prompt_flop(found: Any) -> Any:
    """FLOP of products of a prompt of 700 tokens, by the number of sequences."""
    total = sum((r.count * products(r) for r in found), Integer(0))
    return total.xreplace({S: Integer(700), q: Integer(700)})


@pytest.mark.parametrize("images", [True, False])
def test_what_sees_and_has_no_logits_reads_images_and_a_prompt(images: bool) -> None:
    """Its products are those of the whole model but logits, with images and without."""
    bare, whole = (
        import_config(_config("llava-1.5-7b", architectures=[name]), "m", images=images)
        for name in ("LlavaModel", "LlavaForConditionalGeneration")
    )
    assert [p.name for p in bare.phases] == (["vision"] if images else []) + ["forward"]
    prompt = rows(whole.phase("prefill").graph)
    rest = [r for r in prompt if r.node.name != "lm_head"]
    assert len(rest) == len(prompt) - 1
    made = rows(bare.phase("forward").graph)
    assert (_prompt_flop(made) - _prompt_flop(rest)).expand() == 0


def test_a_bare_class_that_is_another_model_is_refused() -> None:
    config = {"model_type": "blip", "text_config": {}, "vision_config": {}}
    with pytest.raises(ModelError, match="BlipModel"):
        import_config({**config, "architectures": ["BlipModel"]}, "m")
    import_config({**config, "architectures": ["BlipForConditionalGeneration"]}, "m")


def test_a_bare_class_whose_eyes_are_left_out_says_so() -> None:
    config = {"model_type": "molmo2", "text_config": {}, "architectures": ["Molmo2Model"]}
    said = import_config(config, "m").assumptions
    assert any("alone is counted" in a and "Molmo2Model" in a for a in said)
