"""Encoders and decoders as optimum exports them, against the same models read from their files.

``data/optimum`` holds small T5 and BART models that optimum 2.1 (transformers 4.57) exported, with
zeros for weights: an encoder, a decoder of the first token, one with caches, and both in one.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from sympy import Integer

from costgraph.counting.count import exact_cost
from costgraph.counting.footprint import cache_bytes
from costgraph.hardware.machine import Engine
from costgraph.ir.program import Program
from costgraph.models import load_model
from costgraph.symbols import B, S, T

DATA = Path(__file__).parent / "data" / "optimum"
#: Files that hold the decoder: both steps in one, or each in its own.
DECODERS = (("decoder_model_merged",), ("decoder_model", "decoder_with_past_model"))
VALUES = {B: Integer(2), S: Integer(50), T: Integer(15)}


def file(name: str, folder: Path) -> str:
    """An exported file, unpacked."""
    made = folder / f"{name.partition('-')[2]}.onnx"
    made.write_bytes(gzip.decompress((DATA / f"{name}.onnx.gz").read_bytes()))
    return str(made)


def work(program: Program, *phases: str) -> int:
    """FLOP of products in phases, for two sequences of 50 positions."""
    found = Integer(0)
    for name in phases:
        phase = program.phase(name)
        found += phase.bind(exact_cost(phase.graph).flops_of(Engine.TENSOR)).xreplace(VALUES)
    return int(found)


def kept(program: Program) -> int:
    """Bytes that all caches hold where a step of decoding begins."""
    phase = program.phase("decode")
    return int(phase.bind(cache_bytes(phase.graph)).xreplace(VALUES))


@pytest.mark.parametrize("decoders", DECODERS, ids=["merged", "apart"])
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_exported_pair_computes_what_its_model_does(
    name: str, decoders: tuple[str, ...], tmp_path: Path
) -> None:
    config: dict[str, Any] = json.loads((DATA / f"{name}-config.json").read_text())
    own = load_model(config, logits="all", mask="compute", activations="fp32", weights="fp32")
    paths = [file(f"{name}-{part}", tmp_path) for part in decoders]
    read = load_model(file(f"{name}-encoder_model", tmp_path), decoder=paths)
    assert [phase.name for phase in read.phases] == ["encode", "prefill", "decode"]
    # Keys and values of the encoder's rows are made in the decoder's first step.
    assert work(read, "encode", "prefill") == work(own, "encode", "prefill")
    assert work(read, "decode") == work(own, "decode")
    assert kept(read) == kept(own)
