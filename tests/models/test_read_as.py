"""Unknown types read on request, and the index of a checkpoint as a second source."""

from __future__ import annotations

import json

import pytest

import costgraph as cg
from costgraph.counting.count import parameters
from costgraph.errors import InputError, ModelError
from costgraph.models import load_model

UNKNOWN = {
    "model_type": "heron",
    "architectures": ["HeronForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 128,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
LLAMA = {**UNKNOWN, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def test_an_unknown_type_is_refused_unless_asked():
    with pytest.raises(ModelError, match="--read-as llama"):
        load_model(UNKNOWN)
    made = load_model(UNKNOWN, read_as="llama")
    assert parameters(made.graph) == parameters(load_model(LLAMA).graph)
    assert any("read as 'llama' on request: 'heron'" in line for line in made.assumptions)
    compiled = cg.compile(UNKNOWN, "h100", read_as="llama")
    same = cg.compile(LLAMA, "h100")
    assert compiled.tpot.evaluate(B=1, T=100) == same.tpot.evaluate(B=1, T=100)


@pytest.mark.parametrize(
    ("changes", "read_as", "error", "says"),
    [
        ({"beak_length": 7}, "llama", ModelError, "does not understand 'beak_length'"),
        ({"num_experts": 8}, "llama", ModelError, "num_experts"),
        ({"use_qk_norm": False}, "llama", ModelError, "use_qk_norm"),
        ({"vision_config": {"depth": 2}}, "llama", ModelError, "vision_config"),
        ({"architectures": ["HeronForMaskedLM"]}, "llama", ModelError, "HeronForMaskedLM"),
        ({"model_type": "llama"}, "llama", InputError, "is known"),
        ({}, "lama", InputError, "did you mean 'llama'"),
        ({"vocab_size": None}, "llama", ModelError, "vocab_size"),
    ],
)
def test_what_is_not_understood_is_refused(changes, read_as, error, says):
    with pytest.raises(error, match=says):
        load_model({**UNKNOWN, **changes}, read_as=read_as)


@pytest.mark.parametrize(
    ("extra", "told"), [(0, "notes"), (2**20, "assumptions"), (-2, "assumptions")]
)
def test_the_size_of_the_index_is_compared(tmp_path, extra, told):
    (tmp_path / "config.json").write_text(json.dumps(UNKNOWN))
    size = 2 * int(parameters(load_model(LLAMA).graph)) + extra
    index = {"metadata": {"total_size": size}, "weight_map": {}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in (tmp_path, tmp_path / "config.json"):
        made = load_model(path, read_as="llama")
        assert any(f"{size:,} bytes" in line for line in getattr(made, told))
    asked = load_model(tmp_path, read_as="llama", weights="fp8")
    assert not any("bytes" in line for line in (*asked.notes, *asked.assumptions))


@pytest.mark.parametrize("index", [[], {}, {"metadata": {"total_size": "many"}}])
def test_an_index_that_is_none_is_refused(tmp_path, index):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="total_size"):
        load_model(tmp_path)
