"""Mutated configurations are read or refused in one line; nothing else happens."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costgraph.errors import CostgraphError
from costgraph.ir.program import Program
from costgraph.ir.verify import verify_program
from costgraph.models import load_model
from costgraph.models.catalog import CONFIGS
from costgraph.models.families import FAMILIES
from costgraph.models.known import COUNTS, OBJECTS

COUNTED = Path(__file__).parent / "counted" / "configs"
#: One real configuration per family, smallest file first.
REAL: dict[str, dict[str, Any]] = {}
for path in sorted([*CONFIGS.glob("*.json"), *COUNTED.glob("*.json")], key=lambda p: p.name):
    config = json.loads(path.read_text())
    if config.get("model_type") in FAMILIES:
        REAL.setdefault(config["model_type"], config)

KEYS = sorted({key for config in REAL.values() for key in config})

values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["silu", "gelu", "sliding_attention", "LLLG", "bfloat16", "int4"]),
    st.lists(st.one_of(st.integers(0, 3), st.sampled_from(["full_attention", "x"])), max_size=3),
    st.dictionaries(st.sampled_from(["alibi", "attn_type", "partial_rotary_factor", "kv_n_heads"]),
                    st.one_of(st.integers(-2, 9), st.booleans(), st.text(max_size=3)), max_size=2),
)  # fmt: skip

#: Keys that families read and no real configuration here has.
OTHER = [
    "layer_types", "sliding_window_pattern", "no_rope_layers", "attn_config", "expansion_ratio",
    "clip_qkv", "qk_layernorm", "partial_rotary_factor", "scale_depth", "text_config",
    "num_experts", "kv_lora_rank", "embedding_size", "d_model", "architectures",
    "sliding_window", "use_sliding_window", "max_window_layers", "rope_parameters",
]  # fmt: skip


def read(config: dict[str, Any]) -> Program | str:
    """The program, or the text of the refusal; any other error passes on."""
    try:
        return load_model(config)
    except CostgraphError as error:
        return str(error)


@pytest.mark.parametrize("kind", sorted(FAMILIES))
@settings(max_examples=12)
@given(data=st.data())
def test_a_mutated_configuration_is_read_or_refused(kind, data):
    # Families without a real configuration here get one of the nearest shape.
    base = copy.deepcopy(REAL.get(kind, REAL["llama"]))
    base["model_type"] = kind
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from([*base, *OTHER, *KEYS]))
        if data.draw(st.booleans()):
            base.pop(key, None)
        else:
            base[key] = data.draw(values)
    outcome = read(base)
    if isinstance(outcome, str):
        assert "\n" not in outcome
        assert len(outcome) < 2000
    else:
        verify_program(outcome)


@pytest.mark.parametrize("kind", sorted(REAL))
def test_counts_and_objects_that_are_none_are_refused(kind):
    """Also where a family does not read them, and in the sections of a file."""
    base = REAL[kind]
    bad = [
        (key, value)
        for key in (*base, "sliding_window", "rope_scaling")
        for value in ((-3, "x", [1], True) if key in COUNTS else (3, [1], "x"))
        if key in COUNTS | OBJECTS
    ]
    assert len(bad) > 6
    for key, value in bad:
        outcome = read({**base, key: value})
        assert isinstance(outcome, str), (key, value)
        assert repr(key) in outcome
    for off in (None, False, 0):
        # What is switched off says nothing, and neither does a sensible value.
        plain = {**base, "rope_scaling": {}}
        assert read({**plain, "prefill_chunk_size": off}) == read(plain)
    nested = {**base, "audio_config": {"text_config": {"sliding_window": -3}}}
    assert "text_config: 'sliding_window' must be positive, not -3" in read(nested)


@given(st.dictionaries(st.text(max_size=12), values, max_size=6))
def test_any_object_is_read_or_refused(config):
    outcome = read(config)
    assert not isinstance(outcome, str) or "\n" not in outcome
