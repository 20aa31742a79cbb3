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
from costgraph.ops.experts import Combine, ExpertLinear, Route, Routing, RowScale
from costgraph.ops.latent import HeadLinear, SplitScores
from costgraph.ops.linear import Linear
from costgraph.ops.quant import NarrowResult, QuantExpertLinear, QuantizeTo, QuantLinear
from costgraph.ops.tokens import Embedding, Sample, SelectLast, Split

__all__ = [
    "Activation",
    "Add",
    "Alibi",
    "AttentionScores",
    "AttentionValues",
    "Combine",
    "Embedding",
    "ExpertLinear",
    "HeadLinear",
    "KVAppend",
    "LayerNorm",
    "Linear",
    "Multiply",
    "NarrowResult",
    "Op",
    "QuantExpertLinear",
    "QuantLinear",
    "QuantizeTo",
    "RMSNorm",
    "Rope",
    "Route",
    "Routing",
    "RowScale",
    "Sample",
    "Scale",
    "SelectLast",
    "SoftCap",
    "Softmax",
    "Spec",
    "Split",
    "SplitScores",
]
