"""Operation kinds; each owns its shape rule, its work and its memory traffic."""

from costgraph.ops.attention import Alibi, AttentionScores, AttentionValues, KVAppend, Softmax
from costgraph.ops.base import Op, Spec
from costgraph.ops.elementwise import (
    Activation,
    Add,
    LayerNorm,
    Multiply,
    RMSNorm,
    Rope,
    Scale,
    SoftCap,
)
from costgraph.ops.linear import Linear
from costgraph.ops.quant import NarrowResult, QuantizeTo, QuantLinear
from costgraph.ops.tokens import Embedding, Sample, SelectLast, Split

__all__ = [
    "Activation",
    "Add",
    "Alibi",
    "AttentionScores",
    "AttentionValues",
    "Embedding",
    "KVAppend",
    "LayerNorm",
    "Linear",
    "Multiply",
    "NarrowResult",
    "Op",
    "QuantLinear",
    "QuantizeTo",
    "RMSNorm",
    "Rope",
    "Sample",
    "Scale",
    "SelectLast",
    "SoftCap",
    "Softmax",
    "Spec",
    "Split",
]
