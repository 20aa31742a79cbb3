"""Parameters, FLOPs and caches against PyTorch's own counter on the real model code."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sympy import Integer

from costgraph.counting.count import parameters, rows
from costgraph.hardware.machine import Engine
from costgraph.ir.tensor import Role
from costgraph.models import load_model
from costgraph.models.families import FAMILIES
from costgraph.symbols import B, T, q

DATA = Path(__file__).parent / "counted"
COUNTED: dict[str, Any] = json.loads((DATA / "counted.json").read_text())

#: The counter's convention: no masked pair is left out, every position gets logits,
#: latent attention expands the whole cache in every step.
CONVENTION = {"mask": "compute", "logits": "all", "mla": "naive"}

#: Classes that multiply every token with every expert, though each needs only some.
ALL_EXPERTS = {"llama-4-scout", "llama-4-maverick"}

#: Classes that keep a window of rows where attention sees those of its chunk alone; layers in
#: four of which three do.
CHUNKED = {"llama-4-scout", "llama-4-maverick"}
CHUNK = 8192

#: Models that other files compare: test_counted_scans.py takes the scans' parts
#: apart, test_counted_encoders.py knows phases other than prefill and decode, and
#: test_counted_vision.py knows images.
ELSEWHERE = {
    "clip-vit-b-32",
    "convnext-tiny",
    "flan-t5-xxl",
    "flux-1-dev",
    "mamba-codestral-7b",
    "modernbert-base",
    "nemotron-h-56b",
    "qwen3-vl-8b",
    "qwen3.5-27b",
    "resnet-50",
    "rwkv-4-169m",
    "rwkv-4-7b",
    "t5-small",
    "whisper-large-v3",
    "whisper-tiny",
    "zamba2-classdefault",
}

CASES = [
    (name, case)
    for name, entry in COUNTED.items()
    for case in next(iter(entry["flops"].values()))
    if re.fullmatch(r"(prefill_b\d+_s\d+|decode_b\d+_l\d+)", case)
]


def config(name: str) -> dict[str, Any]:
    found = json.loads((DATA / "configs" / f"{name}.json").read_text())
    found.pop("quantization_config", None)
    return found


@cache
def program(name: str):
    found = config(name)
    if name in ELSEWHERE:
        pytest.skip("compared in a file of its own")
    if found.get("model_type") not in FAMILIES:
        pytest.skip(f"no family reads {found.get('model_type')}")
    # Towers only rest in memory: test_counted_towers.py holds what they compute.
    seen = {"images": False} if found.get("vision_config") else {}
    return load_model(found, **CONVENTION, **seen)


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_are_equal(name):
    assert parameters(program(name)) == COUNTED[name]["params"]["total"]
    assert not any("also holds" in a for a in program(name).assumptions)


def products(graph, values) -> int:
    """FLOP of matrix products: all that runs on the tensor engine."""
    total = Integer(0)
    for row in rows(graph):
        work = sum(
            (f for (engine, _), f in row.cost.flops.items() if engine is Engine.TENSOR), Integer(0)
        )
        total += row.count * work
    value = total.xreplace(values)
    assert value.is_Integer, value
    return int(value)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_products_are_equal(name, case):
    entry = COUNTED[name]["flops"]
    counted = entry.get("sdpa", entry.get("eager"))[case]
    graph = program(name).graph
    phase, batch, length = re.fullmatch(r"(\w+)_b(\d+)_[sl](\d+)", case).groups()
    new, context = (int(length),) * 2 if phase == "prefill" else (1, int(length) + 1)
    values = {B: Integer(batch), q: Integer(new), T: Integer(context)}
    wanted = counted["total"]
    if name in ALL_EXPERTS:
        text = config(name)["text_config"]
        rest = text["num_local_experts"] - text["num_experts_per_tok"]
        wanted -= counted["routed_experts"] * rest // text["num_local_experts"]
    if phase == "decode" and behind_the_chunk(name, context):
        text = config(name)["text_config"]
        width = text["num_attention_heads"] * text["head_dim"]
        wanted -= 4 * int(batch) * width * behind_the_chunk(name, context)
    assert products(graph, values) == wanted


def behind_the_chunk(name: str, context: int) -> int:
    """Rows that chunked layers keep and attend in the class, though no query sees them."""
    if name not in CHUNKED:
        return 0
    layers = config(name)["text_config"]["num_hidden_layers"] * 3 // 4
    return layers * (min(context, CHUNK) - ((context - 1) % CHUNK + 1))


def stored(graph, values) -> tuple[int, int]:
    """(bytes of caches before a step, elements of recurrent states)."""
    from costgraph.ir.regions import Repeat

    caches = states = Integer(0)
    for tensor in graph.sources:
        if tensor.role is Role.KV:
            caches += tensor.bytes
        elif tensor.role is Role.STATE:
            states += tensor.numel
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            inner = stored(node.op.body, values)
            caches += node.op.instances * inner[0]
            states += node.op.instances * inner[1]
    return caches.xreplace(values), states.xreplace(values)


@pytest.mark.parametrize(
    "name", [n for n, e in COUNTED.items() if e.get("kv_cache", {}).get("prefill")]
)
def test_caches_are_equal(name):
    if name.startswith("falcon"):
        pytest.skip("the class stores keys and values repeated for all query heads")
    graph = program(name).graph
    for case, counted in COUNTED[name]["kv_cache"]["prefill"].items():
        batch, length = map(int, re.fullmatch(r"b(\d+)_s(\d+)", case).groups())
        # What the next decode step finds cached.
        values = {B: Integer(batch), q: Integer(1), T: Integer(length + 1)}
        caches, states = stored(graph, values)
        wanted = counted.get("kv_bytes_bf16")
        if wanted is not None:
            if behind_the_chunk(name, length + 1):
                text = config(name)["text_config"]
                row = 4 * text["num_key_value_heads"] * text["head_dim"]
                wanted -= batch * row * behind_the_chunk(name, length + 1)
            assert caches == wanted, case
        assert states == counted.get("state_numel", 0), case
