"""Published times of quantised models lie above the bounds, and gains below the ideal ones."""

from __future__ import annotations

import pytest

import costgraph as cg

#: Tokens per second of 16 bit and of AWQ's 4 bit in groups of 128, one request, from the table
#: of the README of mit-han-lab/llm-awq. The language models of VILA 1.5: theirs is the
#: time of a token; the A100 has 40 or 80 GB, the faster one bounds both.
AWQ = [
    ("llama-3-8b", "a100-80g", 74.9, 168.9),
    ("llama-3-8b", "rtx-4090", 57.4, 150.2),
    ("llama-3-8b", "jetson-orin", 10.2, 28.7),
    ("llama-2-13b", "a100-80g", 50.9, 115.9),
    ("llama-2-13b", "rtx-4090", None, 105.7),
    ("llama-2-13b", "jetson-orin", 6.1, 20.6),
]


def seconds(model: str, device: str, passes: str) -> float:
    return cg.compile(model, device, passes).tpot.evaluate(B=1, T=1)


@pytest.mark.parametrize(("model", "device", "wide", "narrow"), AWQ)
def test_awq_is_slower_than_its_bound_and_gains_less_than_the_ideal(model, device, wide, narrow):
    plain, quantised = seconds(model, device, ""), seconds(model, device, "quantize{preset=w4a16}")
    assert 1 / narrow > quantised
    if wide is not None:
        assert 1 / wide > plain
        assert 1 < narrow / wide < plain / quantised


#: Speed-up of 3-bit OPT-175B over 16 bit, from the abstract of GPTQ (arXiv 2210.17323), and
#: the bounds for layers one after the other on as many devices as it takes: bytes over bandwidth.
GPTQ = [("a100-80g", 3.25, 0.172, 0.032), ("a6000", 4.5, 0.456, 0.086)]


@pytest.mark.parametrize(("device", "gain", "wide", "narrow"), GPTQ)
def test_gptq_gains_less_than_the_bytes_it_saves(device, gain, wide, narrow):
    plain = seconds("opt-175b", device, "")
    quantised = seconds("opt-175b", device, "quantize{weights=int3,group=row,keep=none}")
    assert plain == pytest.approx(wide, rel=0.01)
    assert quantised == pytest.approx(narrow, rel=0.02)
    assert 1 < gain < plain / quantised
