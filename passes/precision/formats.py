"""Quantisation schemes by name, and presets of them.

Bits per element are exact: ``bits + (scale + zero)/group + outer/(group·outer_group)``,
plus what a format stores besides (:attr:`costgraph.ir.dtypes.DType.parts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from costgraph.ir.dtypes import dtype
from costgraph.passes.precision.families import schemes
from costgraph.passes.precision.scheme import ROW, TENSOR, Scheme, grouped

__all__ = ["ACTIVATIONS", "KV", "PRESETS", "ROW", "TENSOR", "WEIGHTS", "Preset", "Scheme"]

#: Schemes of weights, with the groups in which checkpoints usually come.
WEIGHTS: Mapping[str, Scheme] = MappingProxyType(
    {
        # Per output channel (SmoothQuant, arXiv 2211.10438).
        "int8": grouped("int8", ROW),
        "int6": grouped("int6", 128),
        "int5": grouped("int5", 128),
        # GPTQ and AWQ checkpoints: 128 elements, fp16 scale, zero point as wide as an element.
        "int4": grouped("int4", 128, zero=4),
        "int3": grouped("int3", 128, zero=3),
        "int2": grouped("int2", 128, zero=2),
        "int1": grouped("int1", 128),
        # QLoRA (arXiv 2305.14314): 64 elements, fp32 scale; double quantisation: 8-bit
        # scales with an fp32 scale per 256 of them.
        "nf4": grouped("nf4", 64, 32),
        "nf4-dq": grouped("nf4", 64, 8, outer=256, outer_bits=32),
        "fp8": Scheme(dtype("fp8")),
        "e4m3": Scheme(dtype("e4m3")),
        "e5m2": Scheme(dtype("e5m2")),
        # DeepSeek-V3 (arXiv 2412.19437, §3.3.2): an fp32 scale per 128 × 128 weights.
        "fp8-block": replace(grouped("e4m3", 128, 32), rows=128),
        "fp6": grouped("fp6", ROW),
        "fp4": grouped("fp4", 128),
        # OCP Microscaling v1.0, and NVFP4: scales are part of the format.
        "mxfp8": Scheme(dtype("mxfp8")),
        "mxfp6": Scheme(dtype("mxfp6")),
        "mxfp4": Scheme(dtype("mxfp4")),
        "nvfp4": Scheme(dtype("nvfp4")),
        # GGUF blocks of 32: fp16 scale, and for the second kind an fp16 minimum.
        "q4_0": grouped("int4", 32),
        "q4_1": grouped("int4", 32, zero=16),
        "q5_0": grouped("int5", 32),
        "q5_1": grouped("int5", 32, zero=16),
        "q8_0": grouped("int8", 32),
        **schemes("weights"),
    }
)

_BLOCKS = ("fp8", "e4m3", "e5m2", "mxfp8", "mxfp6", "mxfp4", "nvfp4")

#: Schemes of activations: one fp16 scale per token, or the format's own blocks.
ACTIVATIONS: Mapping[str, Scheme] = MappingProxyType(
    {
        **{name: grouped(name, ROW) for name in ("int8", "int6", "int4", "fp8", "e4m3", "e5m2")},
        **{name: WEIGHTS[name] for name in _BLOCKS if name.startswith(("mx", "nv"))},
        # Beside weights in blocks: an fp32 scale per 128 elements of a token.
        "fp8-block": grouped("e4m3", 128, 32),
        "fp6": grouped("fp6", ROW),
        "fp4": grouped("fp4", ROW),
        **schemes("activations"),
    }
)

#: Schemes of caches: one scale per token and head, a zero point below 8 bit.
KV: Mapping[str, Scheme] = MappingProxyType(
    {
        "int8": grouped("int8", ROW),
        "int4": grouped("int4", ROW, zero=4),
        "int3": grouped("int3", ROW, zero=3),
        "int2": grouped("int2", ROW, zero=2),
        "int1": grouped("int1", ROW),
        "nf4": grouped("nf4", ROW),
        "fp4": grouped("fp4", ROW),
        **{name: WEIGHTS[name] for name in _BLOCKS},
        **schemes("kv"),
    }
)


@dataclass(frozen=True)
class Preset:
    """Formats of weights, activations and caches that go by one name."""

    weights: str = "none"
    activations: str = "none"
    kv: str = "none"


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "none": Preset(),
        "w8a8": Preset("int8", "int8"),
        "w8a8kv8": Preset("int8", "int8", "int8"),
        "w8a16": Preset("int8"),
        "w4a16": Preset("int4"),
        "w3a16": Preset("int3"),
        "w2a16": Preset("int2"),
        "w4a8": Preset("int4", "int8"),
        "w4a8kv4": Preset("int4", "int8", "int4"),
        "w4a4": Preset("int4", "int4"),
        "w4a4kv4": Preset("int4", "int4", "int4"),
        "w4kv4": Preset("int4", "none", "int4"),
        "kv8": Preset(kv="int8"),
        "kv4": Preset(kv="int4"),
        "fp8": Preset("e4m3", "e4m3"),
        "fp8kv8": Preset("e4m3", "e4m3", "e4m3"),
        "fp8-block": Preset("fp8-block", "fp8-block"),
        "mxfp8": Preset("mxfp8", "mxfp8"),
        "mxfp4": Preset("mxfp4", "mxfp4"),
        "nvfp4": Preset("nvfp4", "nvfp4"),
    }
)
