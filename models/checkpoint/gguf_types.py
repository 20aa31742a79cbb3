"""The types of GGUF's tensors: blocks of elements, and how many bytes one takes.

Source: ``ggml-common.h`` and the GGUF specification of the ggml project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from sympy import Integer, Rational

from costgraph.ir.dtypes import BF16, FP16, FP32, INT32, INT64, DType


@dataclass(frozen=True)
class GgufType:
    """A block of ``block`` elements in ``size`` bytes.

    Attributes:
        name: as ggml writes it.
        block, size: elements of a block, and its bytes.
        bits: payload of an element; the rest of a block are its scales.
        compute: as of a :class:`~costgraph.ir.dtypes.DType`; empty for code books.
        group, scale, zero: elements per scale, and bits of a scale and of a minimum.
        plain: a format without blocks.
        coded: elements that one code stands for.
    """

    name: str
    block: int
    size: int
    bits: Rational | int = 0
    compute: str = ""
    group: int = 0
    scale: int = 0
    zero: int = 0
    plain: DType | None = None
    coded: int = 1

    @cached_property
    def format(self) -> DType:
        """The element format; its bits per element times a block are the block's bytes."""
        if self.plain is not None:
            return self.plain
        name, total = self.name.lower(), Integer(8 * self.size)
        if not self.group:
            return DType(name, total / self.block, self.compute)
        groups = self.block // self.group
        payload = Rational(self.bits)
        # What is left of a block: a scale of its scales, in 16 bit, and one of its minima.
        outer = total - payload * self.block - groups * (self.scale + self.zero)
        return DType(
            name,
            payload,
            self.compute,
            Integer(self.group),
            Integer(self.scale),
            Integer(self.zero),
            Integer(groups) if outer else None,
            outer,
            coded=Integer(self.coded),
        )


def _book(name: str, size: int, coded: int) -> GgufType:
    """Codes into a table, of ``coded`` elements each, with an fp16 scale per 256 elements."""
    return GgufType(name, 256, size, Rational(8 * size - 16, 256), "", 256, 16, coded=coded)


def _plain(name: str, format: DType, size: int) -> GgufType:
    return GgufType(name, 1, size, plain=format)


#: By the number that stands in files.
TYPES: Mapping[int, GgufType] = MappingProxyType(
    {
        0: _plain("F32", FP32, 4),
        1: _plain("F16", FP16, 2),
        2: GgufType("Q4_0", 32, 18, 4, "int4", 32, 16),
        3: GgufType("Q4_1", 32, 20, 4, "int4", 32, 16, 16),
        6: GgufType("Q5_0", 32, 22, 5, "int8", 32, 16),
        7: GgufType("Q5_1", 32, 24, 5, "int8", 32, 16, 16),
        8: GgufType("Q8_0", 32, 34, 8, "int8", 32, 16),
        9: GgufType("Q8_1", 32, 36, 8, "int8", 32, 16, 16),
        10: GgufType("Q2_K", 256, 84, 2, "int4", 16, 4, 4),
        11: GgufType("Q3_K", 256, 110, 3, "int4", 16, 6),
        12: GgufType("Q4_K", 256, 144, 4, "int4", 32, 6, 6),
        13: GgufType("Q5_K", 256, 176, 5, "int8", 32, 6, 6),
        14: GgufType("Q6_K", 256, 210, 6, "int8", 16, 8),
        15: GgufType("Q8_K", 256, 292, 8, "int8", 16, 16),
        16: _book("IQ2_XXS", 66, 8),
        17: _book("IQ2_XS", 74, 8),
        18: _book("IQ3_XXS", 98, 4),
        19: _book("IQ1_S", 50, 8),
        20: GgufType("IQ4_NL", 32, 18, 4, "", 32, 16),
        21: _book("IQ3_S", 110, 4),
        22: _book("IQ2_S", 82, 8),
        23: GgufType("IQ4_XS", 256, 136, 4, "", 32, 6),
        24: _plain("I8", DType("int8", Integer(8), "int8"), 1),
        25: _plain("I16", DType("int16", Integer(16), "int8"), 2),
        26: _plain("I32", INT32, 4),
        27: _plain("I64", INT64, 8),
        28: _plain("F64", DType("fp64", Integer(64), "fp32"), 8),
        29: _book("IQ1_M", 56, 8),
        30: _plain("BF16", BF16, 2),
        34: _book("TQ1_0", 54, 5),
        35: _book("TQ2_0", 66, 1),
        39: GgufType("MXFP4", 32, 17, 4, "fp4", 32, 8),
    }
)
