"""Quantisation schemes by name: an element format and how its scales are grouped.

Bits per element are exact: ``bits + (scale + zero)/group + outer/(group·outer_group)``.
Groups run along the contracted dimension; where they do not divide it, the last
one is short and still has a scale of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import sympy
from sympy import Expr, Integer, Rational, ceiling

from costgraph.ir.dtypes import DType, dtype, with_groups

_ZERO = Integer(0)
_HALF = Rational(1, 2)
_FP16 = Integer(16)

#: One scale per row of the contraction (per channel, per token, per head).
ROW = "row"
#: One scale per tensor: nothing per element.
TENSOR = "tensor"


@dataclass(frozen=True)
class Scheme:
    """How a tensor is quantised.

    Attributes:
        base: format of the payload; a block format brings its own scales.
        group: elements per scale, or :data:`ROW` or :data:`TENSOR`.
        scale_bits, zero_bits: bits of a group's scale and zero point.
        outer_group, outer_bits: second-level scales (groups per scale, bits).
    """

    base: DType
    group: Expr | str = TENSOR
    scale_bits: Expr = _FP16
    zero_bits: Expr = _ZERO
    outer_group: Expr | None = None
    outer_bits: Expr = _ZERO

    def over(self, row: Expr) -> DType:
        """The element format for rows of ``row`` elements."""
        if self.base.grouped and self.group == TENSOR:
            return self.base
        if self.group == TENSOR or self.group == sympy.oo:
            return self.base
        group = row if self.group == ROW else _even(self.group, row)
        made = with_groups(
            self.base,
            group,
            self.scale_bits,
            self.zero_bits,
            self.outer_group,
            self.outer_bits,
        )
        shown = self.group if isinstance(self.group, Expr) else group
        return replace(made, name=f"{self.base.name}-g{shown}")


def _even(group: Expr | str, row: Expr) -> Expr:
    """Mean elements per scale: ``group``, less where it does not divide the row."""
    assert isinstance(group, Expr)
    if group.is_number and row.is_number:
        return row / ceiling(row / group)
    return group


def _grouped(
    base: str, group: int | str, scale: int = 16, zero: int = 0, outer: int = 0, outer_bits: int = 0
) -> Scheme:
    return Scheme(
        dtype(base),
        Integer(group) if isinstance(group, int) else group,
        Integer(scale),
        Integer(zero),
        Integer(outer) if outer else None,
        Integer(outer_bits),
    )


def _block(name: str, bits: Expr, compute: str, group: int) -> Scheme:
    return Scheme(DType(name, bits, compute, Integer(group), Integer(8)))


#: Schemes of weights, with the groups in which checkpoints usually come.
WEIGHTS: Mapping[str, Scheme] = MappingProxyType(
    {
        # Per output channel (SmoothQuant, arXiv 2211.10438).
        "int8": _grouped("int8", ROW),
        "int6": _grouped("int6", 128),
        "int5": _grouped("int5", 128),
        # GPTQ and AWQ checkpoints: 128 elements, fp16 scale, zero point as wide as an element.
        "int4": _grouped("int4", 128, zero=4),
        "int3": _grouped("int3", 128, zero=3),
        "int2": _grouped("int2", 128, zero=2),
        "int1": _grouped("int1", 128),
        # QLoRA (arXiv 2305.14314): 64 elements, fp32 scale; double quantisation: 8-bit
        # scales with an fp32 scale per 256 of them.
        "nf4": _grouped("nf4", 64, 32),
        "nf4-dq": _grouped("nf4", 64, 8, outer=256, outer_bits=32),
        "fp8": Scheme(dtype("fp8")),
        "e4m3": Scheme(dtype("e4m3")),
        "e5m2": Scheme(dtype("e5m2")),
        "fp6": _grouped("fp6", ROW),
        "fp4": _grouped("fp4", 128),
        # OCP Microscaling v1.0, and NVFP4: scales are part of the format.
        "mxfp8": Scheme(dtype("mxfp8")),
        "mxint8": _block("mxint8", Integer(8), "int8", 32),
        "mxfp6": Scheme(dtype("mxfp6")),
        "mxfp4": Scheme(dtype("mxfp4")),
        "nvfp4": Scheme(dtype("nvfp4")),
        # Shared micro-exponents (arXiv 2302.08007): 8-bit exponent per 16 elements and
        # one bit per 2.
        "mx9": _block("mx9", 8 + _HALF, "", 16),
        "mx6": _block("mx6", 5 + _HALF, "", 16),
        "mx4": _block("mx4", 3 + _HALF, "", 16),
        # GGUF blocks of 32: fp16 scale, and for the second kind an fp16 minimum.
        "q4_0": _grouped("int4", 32),
        "q4_1": _grouped("int4", 32, zero=16),
        "q5_0": _grouped("int5", 32),
        "q5_1": _grouped("int5", 32, zero=16),
        "q8_0": _grouped("int8", 32),
    }
)

_BLOCKS = ("fp8", "e4m3", "e5m2", "mxfp8", "mxint8", "mxfp6", "mxfp4", "nvfp4")

#: Schemes of activations: one fp16 scale per token, or the format's own blocks.
ACTIVATIONS: Mapping[str, Scheme] = MappingProxyType(
    {
        **{name: _grouped(name, ROW) for name in ("int8", "int6", "int4", "fp8", "e4m3", "e5m2")},
        **{name: WEIGHTS[name] for name in _BLOCKS if name.startswith(("mx", "nv"))},
        "fp6": _grouped("fp6", ROW),
        "fp4": _grouped("fp4", ROW),
    }
)

#: Schemes of caches: one scale per token and head, a zero point below 8 bit.
KV: Mapping[str, Scheme] = MappingProxyType(
    {
        "int8": _grouped("int8", ROW),
        "int4": _grouped("int4", ROW, zero=4),
        "int3": _grouped("int3", ROW, zero=3),
        "int2": _grouped("int2", ROW, zero=2),
        "int1": _grouped("int1", ROW),
        "nf4": _grouped("nf4", ROW),
        "fp4": _grouped("fp4", ROW),
        **{name: WEIGHTS[name] for name in _BLOCKS},
        # KIVI (arXiv 2402.02750): groups of 32, fp16 scale and minimum; without its
        # window of recent tokens in 16 bit.
        "kivi2": _grouped("int2", 32, zero=16),
        "kivi4": _grouped("int4", 32, zero=16),
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
        "mxfp8": Preset("mxfp8", "mxfp8"),
        "mxfp4": Preset("mxfp4", "mxfp4"),
        "nvfp4": Preset("nvfp4", "nvfp4"),
    }
)
