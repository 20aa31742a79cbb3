"""Decoders whose positions see later ones too: one pass without caches, windows on both sides."""

from __future__ import annotations

from typing import Any

import pytest
from sympy import Integer

from costgraph.counting.count import parameters, rows
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import ModelError
from costgraph.ir.program import Program
from costgraph.ir.verify import verify_program
from costgraph.models.hf import import_config
from costgraph.symbols import B, S

HEADS, WIDTH = 4, 16
SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2, "head_dim": WIDTH, "vocab_size": 50, "torch_dtype": "bfloat16",
}  # fmt: skip
GEMMA: dict[str, Any] = {
    **SMALL, "model_type": "gemma3_text", "sliding_window": 8, "use_bidirectional_attention": True,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
STEMS = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral"}


def _scores(program: Program, tokens: int) -> int:
    """FLOP of the scores of one sequence."""
    (phase,) = program.phases
    found = sum(
        (r.count * r.cost.total_flops for r in rows(phase.graph) if r.kind == "qk-matmul"),
        Integer(0),
    )
    return int(found.xreplace(dict(phase.bindings)).xreplace({B: 1, S: tokens}))


@pytest.mark.parametrize("end", ["Model", "TextModel", "ForCausalLM", "ForSequenceClassification"])
def test_half_of_a_window_lies_on_either_side(end: str) -> None:
    program = import_config({**GEMMA, "architectures": [f"Gemma3{end}"]}, "m")
    verify_program(program)
    assert [p.name for p in program.phases] == ["forward"]
    assert cache_bytes(program.phases[0].graph) == 0
    assert any("both directions" in said for said in program.assumptions)
    tokens = 20
    near = sum(abs(i - j) <= 4 for i in range(tokens) for j in range(tokens))
    assert _scores(program, tokens) == 2 * HEADS * WIDTH * (2 * near + tokens**2)


@pytest.mark.parametrize("kind", STEMS)
@pytest.mark.parametrize("end", ["ForCausalLM", "Model", "ForSequenceClassification"])
def test_is_causal_false_sees_all(kind: str, end: str) -> None:
    file = {**SMALL, "model_type": kind, "architectures": [STEMS[kind] + end]}
    file["sliding_window"] = None
    causal = import_config(file, "m")
    program = import_config({**file, "is_causal": False}, "m")
    assert [p.name for p in program.phases] == ["forward"]
    assert parameters(program) == parameters(causal)
    assert _scores(program, 20) == 3 * 2 * HEADS * WIDTH * 20**2


def test_windows_that_nothing_says_how_to_turn_are_refused() -> None:
    file = {**SMALL, "model_type": "mistral", "sliding_window": 8, "is_causal": False}
    with pytest.raises(ModelError, match="is_causal"):
        import_config(file, "m")
