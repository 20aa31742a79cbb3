"""Operation kinds; each owns its shape rule, its work and its memory traffic."""

from costgraph.ir.op import Op, Spec
from costgraph.ops.attention import Alibi, AttentionScores, AttentionValues, KVAppend, Softmax
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
from costgraph.ops.experts import Combine, ExpertLinear, Route, Routing, RowScale
from costgraph.ops.latent import HeadLinear, SplitScores
from costgraph.ops.linear import Linear
from costgraph.ops.position import AsSequence, RelativeBias
from costgraph.ops.quant import NarrowResult, QuantExpertLinear, QuantizeTo, QuantLinear
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
    "Alibi",
    "AsSequence",
    "AttentionScores",
    "AttentionValues",
    "BlockLinear",
    "CausalConv1d",
    "Combine",
    "Concat",
    "Conv",
    "Embedding",
    "ExpertLinear",
    "GatedDelta",
    "GatedLinearRecurrence",
    "HeadLinear",
    "KVAppend",
    "LayerNorm",
    "Linear",
    "MatrixWKV",
    "Multiply",
    "NarrowResult",
    "Op",
    "QuantExpertLinear",
    "QuantLinear",
    "QuantizeTo",
    "RMSNorm",
    "RelativeBias",
    "Rope",
    "Route",
    "Routing",
    "RowScale",
    "Sample",
    "Scale",
    "SelectLast",
    "SelectiveScan",
    "SoftCap",
    "Softmax",
    "Spec",
    "Split",
    "SplitScores",
    "StateSpaceDual",
    "TokenShift",
]
