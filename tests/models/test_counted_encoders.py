"""Encoders and encoder–decoders against PyTorch's counter on the real model code."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sympy import Integer

from costgraph.counting.count import parameters, rows
from costgraph.counting.footprint import cache_bytes
from costgraph.hardware.machine import Engine
from costgraph.models import load_model
from costgraph.symbols import B, S, T, q

DATA = Path(__file__).parent / "counted"
COUNTED: dict[str, Any] = json.loads((DATA / "counted.json").read_text())

MODELS = ["modernbert-base", "t5-small", "flan-t5-xxl", "whisper-tiny", "whisper-large-v3"]

CASES = [
    (name, kind, case)
    for name in MODELS
    for kind in COUNTED[name]["flops"]
    for case in COUNTED[name]["flops"][kind]
]

#: ``forward_bB_sS``; ``encdec_bB_encS_decD``; ``whisper_bB_melM_decD``; with one more step.
CASE = re.compile(r"(forward|encdec|whisper)_b(\d+)_(s|enc|mel)(\d+)(?:_dec(\d+))?(\+decode1)?")


@cache
def program(name: str):
    config = json.loads((DATA / "configs" / f"{name}.json").read_text())
    # The counted T5 class ties its head whatever the configuration says.
    return load_model({**config, "tie_word_embeddings": True}, mask="compute", logits="all")


def products(graph, values) -> int:
    total = Integer(0)
    for row in rows(graph):
        for (engine, _), flops in row.cost.flops.items():
            if engine is Engine.TENSOR:
                total += row.count * flops
    value = total.xreplace(values)
    assert value.is_Integer, value
    return int(value)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_equal(name):
    total = parameters(program(name))
    assert total == COUNTED[name]["params"]["total"]


@pytest.mark.parametrize(("name", "kind", "case"), CASES)
def test_products_are_equal(name, kind, case):
    counted = COUNTED[name]["flops"][kind][case]["total"]
    form, batch, unit, length, new, more = CASE.fullmatch(case).groups()
    source = Integer(int(length) // (2 if unit == "mel" else 1))
    found = program(name)
    if form == "forward":
        assert products(found.graph, {B: Integer(batch), q: source}) == counted
        return
    step = found.phase("decode").graph
    tokens = Integer(new)
    values = {B: Integer(batch), S: source, q: tokens, T: tokens}
    if more:
        assert products(step, {**values, q: Integer(1), T: tokens + 1}) == counted
        return
    encoded = products(found.phase("encode").graph, {B: Integer(batch), q: source})
    assert encoded + products(step, values) == counted


@pytest.mark.parametrize("name", [n for n in MODELS if COUNTED[n].get("kv_cache")])
def test_caches_are_equal(name):
    found = program(name)
    for case, counted in COUNTED[name]["kv_cache"]["prefill"].items():
        _, batch, unit, length, new, _ = CASE.fullmatch(case).groups()
        source = Integer(int(length) // (2 if unit == "mel" else 1))
        values = {B: Integer(batch), S: source, q: Integer(1), T: Integer(new)}
        assert cache_bytes(found.phase("decode").graph).xreplace(values) == counted["kv_bytes_bf16"]
        crossed = cache_bytes(found.phase("encode").graph).xreplace({**values, q: source})
        own = cache_bytes(found.phase("decode").graph).xreplace({**values, S: Integer(0)})
        assert crossed + own == counted["kv_bytes_bf16"]
