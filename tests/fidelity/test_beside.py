"""Attention of decodes beside a prompt's chunk, where both run in one kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import costgraph as cg
from costgraph.hardware.machine import Engine
from costgraph.timing.fidelity.calibration import shipped
from costgraph.timing.fidelity.said import JOINT

DECODES, CHUNK = ("c", 1, "T"), (1, "C", "P")
AT = {"c": 32, "T": 4096, "C": 512, "P": 1024}


def attention(device: str, fidelity: str, *groups: tuple[Any, ...]) -> float:
    step = cg.compile("llama-3-8b", device, "fuse", fidelity=fidelity).step(*groups)
    terms = tuple(t for t in step.terms if any("attention" in op for op in t.ops))
    made = replace(step, terms=terms)
    return float(made(**{s.name: AT[s.name] for s in made.symbols}))


@pytest.mark.parametrize("device", ["rtx-4090", "rtx-pro-6000"])
def test_decodes_beside_a_chunk_take_the_fit_of_one_kernel(device: str) -> None:
    both, alone = attention(device, "calibrated@vllm", DECODES, CHUNK), 0.0
    alone += attention(device, "calibrated@vllm", CHUNK)
    own = shipped(device)
    assert own is not None
    v, machine = own.fits["beside", "bf16-bf16@vllm"].values, cg.load_hardware(device)
    T, c = AT["T"], AT["c"]
    read = c * T * 8 * 128 * 4 / float(machine.memory.bandwidth)
    blocks = v["tw"] * c * 32 * T / float(machine.multiprocessors)
    blocks += c * T * 32 * 128 * 4 / float(machine.peak(Engine.TENSOR, "bf16"))
    expected = 32 * np.hypot(blocks, read + v["tt"] * T)
    # New rows are written as well: a cache is read, and a token's vectors beside it.
    assert both - alone == pytest.approx(expected, rel=2e-3)
    assert both > 1.2 * (alone + attention(device, "calibrated@vllm", DECODES))
    assert both >= attention(device, "ideal", DECODES, CHUNK)


@pytest.mark.parametrize("device", ["h100", "b200", "l40s"])
def test_others_run_two_kernels(device: str) -> None:
    both = attention(device, "calibrated@vllm", DECODES, CHUNK)
    apart = sum(attention(device, "calibrated@vllm", g) for g in (DECODES, CHUNK))
    assert both == pytest.approx(apart, rel=1e-9)


def test_the_step_says_so() -> None:
    model = cg.compile("llama-3-8b", "rtx-4090", "fuse", fidelity="calibrated@vllm")
    said = [t for t in model.step(DECODES, CHUNK).assumptions if t.startswith(JOINT)]
    assert len(said) == 1
    assert "own rtx-4090" in said[0]
    assert "median" in said[0]
    assert not any(t.startswith(JOINT) for t in model.step(DECODES).assumptions)
    plain = cg.compile("llama-3-8b", "h100", "fuse", fidelity="calibrated").step(DECODES, CHUNK)
    assert not any(t.startswith(JOINT) for t in plain.assumptions)
