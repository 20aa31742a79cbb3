"""How operations split: which operands a device needs a part of, and what it then makes.

A rule looks at the places of an operation's operands and says which places it wants them
in, what operation a device runs, and the places of the results. An operation without a rule
wants everything whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from costgraph import ops
from costgraph.ir.op import Op
from costgraph.ops.adapters import AdapterIn, AdapterOut
from costgraph.ops.arrays import Join
from costgraph.ops.attention import KVAppend
from costgraph.ops.bias import PairBias, ScoreBias
from costgraph.ops.collectives import (
    AllGather,
    AllReduce,
    AllToAll,
    Received,
    ReduceScatter,
    RowStatistics,
    Send,
)
from costgraph.ops.compress import Compress, Importance
from costgraph.ops.elementwise import Binary
from costgraph.ops.flash import FlashAttention
from costgraph.ops.hadamard import Hadamard
from costgraph.ops.image import Cut, Gate, Modulate
from costgraph.ops.index import Choose, Nearest, PageAppend, PageScores, PromptVotes, ScoreBook
from costgraph.ops.latent import HeadLinear, SplitScores
from costgraph.ops.maps import Map
from costgraph.ops.quant import NarrowResult, QuantizeTo
from costgraph.ops.recurrent import (
    WKV,
    BlockLinear,
    GatedDelta,
    GatedLinearRecurrence,
    MatrixWKV,
)
from costgraph.ops.relative import ByDistance, RelativeScores
from costgraph.ops.rotary import Turn
from costgraph.ops.scan import SelectiveScan, StateSpaceDual
from costgraph.ops.tokens import Concat, Embedding, Sample, SelectLast, Split
from costgraph.ops.views import Reshape, Transpose
from costgraph.passes.parallel.attention import (
    append,
    book,
    choose,
    compress,
    flash,
    importance,
    nearest,
    page_append,
    page_scores,
    pair_bias,
    prompt_votes,
    relative,
    rope,
    scores,
    softmax,
    values,
)
from costgraph.passes.parallel.products import (
    adapter_in,
    adapter_out,
    along,
    convolution,
    embedding,
    expert_linear,
    head_linear,
    linear,
    sample,
)
from costgraph.passes.parallel.rows import (
    addition,
    by_row,
    combine,
    concat,
    cut,
    elementwise,
    exchange,
    gate,
    linear_map,
    norm,
    per_sample,
    reshape,
    row_scale,
    select,
    split,
    transform,
    transpose,
)
from costgraph.passes.parallel.site import Rule, Ruled, Site, whole


def narrowed(site: Site) -> Ruled:
    """As the operation inside; what devices would have to add up first is not stored narrow."""
    op = site.op
    assert isinstance(op, NarrowResult)
    wide = (op.inner.infer(site.inputs)[0].named(site.outputs[0].name),)
    ruled = rule_of(op.inner)(replace(site, op=op.inner, outputs=wide))
    if any(place.partial for place in ruled.results):
        reason = "its result is stored narrow as it is made, and devices would add up parts of it"
        split = (p for p in site.places if p is not None)
        raise site.blocked(f"{reason} (dynamic=true narrows the sum)", *split)
    return replace(ruled, op=replace(op, inner=ruled.op))


#: Rules by operation; a subclass takes that of its nearest base.
RULES: Mapping[type[Op], Rule] = {
    ops.Activation: elementwise,
    ops.SoftCap: elementwise,
    ops.Scale: linear_map,
    ops.Add: addition,
    ops.Multiply: elementwise,
    Binary: elementwise,
    Map: elementwise,
    ops.RMSNorm: norm,
    ops.LayerNorm: norm,
    ops.Rope: rope,
    Turn: elementwise,
    ScoreBook: book,
    PageAppend: page_append,
    PageScores: page_scores,
    Nearest: nearest,
    PromptVotes: prompt_votes,
    Compress: compress,
    Importance: importance,
    Choose: choose,
    ops.Linear: linear,
    ops.ExpertLinear: expert_linear,
    AdapterIn: adapter_in,
    AdapterOut: adapter_out,
    HeadLinear: head_linear,
    Embedding: embedding,
    Sample: sample,
    Split: split,
    Concat: concat,
    Join: concat,
    Cut: cut,
    Modulate: per_sample,
    Gate: gate,
    Reshape: reshape,
    SelectLast: select,
    Transpose: transpose,
    KVAppend: append,
    ops.AttentionScores: scores,
    SplitScores: scores,
    ops.Softmax: softmax,
    ops.Alibi: elementwise,
    PairBias: pair_bias,
    ScoreBias: elementwise,
    RelativeScores: relative,
    ByDistance: relative,
    ops.AttentionValues: values,
    FlashAttention: flash,
    ops.Route: by_row,
    ops.Combine: combine,
    ops.RowScale: row_scale,
    QuantizeTo: elementwise,
    NarrowResult: narrowed,
    Hadamard: transform,
    **dict.fromkeys((AllReduce, AllGather, ReduceScatter, AllToAll, Send), exchange),
    Received: exchange,
    RowStatistics: by_row,
    ops.CausalConv1d: convolution,
    SelectiveScan: along(2, 2, None, None, 0, 0, 1, 2, 1),
    StateSpaceDual: along(2, 2, 2, 2, 0, 0, 0, 1, 2, 1),
    GatedDelta: along(2, 2, 2, 2, 2, 0, 0, 1, 2, 1, by=2),
    GatedLinearRecurrence: along(2, 2, 2, 0, 1, 2, 1),
    WKV: along(2, 2, 0, 0, 1, 2, 1),
    MatrixWKV: along(2, 2, 2, 2, 0, 1, 2, 1),
    BlockLinear: along(2, 0, 0, 2),
}


def rule_of(op: Op) -> Rule:
    """The rule of an operation: its own, or that of the nearest class that it derives from."""
    for cls in type(op).__mro__:
        if cls in RULES:
            return RULES[cls]
    return whole
