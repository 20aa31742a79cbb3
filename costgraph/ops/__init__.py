"""Operation kinds; each owns its shape rule, its work and its memory traffic."""

from costgraph.ops.attention import AttentionScores, AttentionValues, KVAppend, Softmax
from costgraph.ops.base import Op, Spec
from costgraph.ops.conv import CausalConv1d, Conv
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
from costgraph.ops.position import AsSequence, RelativeBias
from costgraph.ops.quant import NarrowResult, QuantizeTo, QuantLinear
from costgraph.ops.recurrent import (
    WKV,
    BlockLinear,
    GatedDelta,
    GatedLinearRecurrence,
    MatrixWKV,
    TokenShift,
)
from costgraph.ops.scan import SelectiveScan, StateSpaceDual
from costgraph.ops.tokens import Concat, Embedding, Sample, SelectLast, Split

__all__ = [
    "WKV",
    "Activation",
    "Add",
    "AsSequence",
    "AttentionScores",
    "AttentionValues",
    "BlockLinear",
    "CausalConv1d",
    "Concat",
    "Conv",
    "Embedding",
    "GatedDelta",
    "GatedLinearRecurrence",
    "KVAppend",
    "LayerNorm",
    "Linear",
    "MatrixWKV",
    "Multiply",
    "NarrowResult",
    "Op",
    "QuantLinear",
    "QuantizeTo",
    "RMSNorm",
    "RelativeBias",
    "Rope",
    "Sample",
    "Scale",
    "SelectLast",
    "SelectiveScan",
    "SoftCap",
    "Softmax",
    "Spec",
    "Split",
    "StateSpaceDual",
    "TokenShift",
]
