"""The dense decoder family: one description, one builder.

A :class:`Decoder` says what varies between decoder-only transformers; the
builder turns it into a step graph over ``B``, ``q`` and ``T``. Dimensions may be
numbers or symbols: the same builder serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.dtypes import BF16, INT64, DType
from costgraph.graph import Builder, Graph, Repeat
from costgraph.ops import (
    Activation,
    Add,
    AttentionScores,
    AttentionValues,
    Embedding,
    KVAppend,
    LayerNorm,
    Linear,
    Multiply,
    RMSNorm,
    Rope,
    Sample,
    Scale,
    SelectLast,
    SoftCap,
    Softmax,
    Split,
)
from costgraph.symbols import B, T, q
from costgraph.tensor import Role, Tensor


@dataclass(frozen=True)
class Decoder:
    """What distinguishes one dense decoder from another.

    Dimensions: ``layers`` decoder layers, hidden size ``d``, ``heads`` query
    heads and ``kv_heads`` key/value heads of size ``head_dim``, feed-forward
    width ``ffn``, ``vocab`` tokens, ``positions`` learned positions (or None).

    Attributes:
        norm: ``rms`` or ``layer``; ``norm_bias`` for the latter.
        rotary: rotated width per head, or None without rotary embedding.
        gated: gate and up projection multiplied, or a plain two-matrix block.
        parallel: attention and feed-forward both read the layer's input and
            are added together; ``shared_norm``: through one norm.
        post_norms: norms after attention and feed-forward, before the residual
            addition, besides those in front.
        norm_first: norms in front of the blocks (the usual case).
        fused_qkv, fused_gate_up: the projections are one matrix.
        embed_dim: embedding width where it differs from ``d`` (projected).
        mask: how masked score pairs are counted, see
            :data:`costgraph.ops.attention.MASKS`.
        logits: ``last``: only the last position needs logits; ``all``: every one.
    """

    layers: Expr
    d: Expr
    heads: Expr
    kv_heads: Expr
    head_dim: Expr
    ffn: Expr
    vocab: Expr
    activation: str = "silu"
    gated: bool = True
    norm: str = "rms"
    norm_bias: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norm: bool = False
    rotary: Expr | None = None
    positions: Expr | None = None
    tied: bool = False
    parallel: bool = False
    shared_norm: bool = False
    post_norms: bool = False
    norm_first: bool = True
    final_norm: bool = True
    embed_scale: bool = False
    embed_dim: Expr | None = None
    score_cap: bool = False
    logit_cap: bool = False
    fused_qkv: bool = False
    fused_gate_up: bool = False
    weights: DType = BF16
    acts: DType = BF16
    kv: DType = BF16
    mask: str = "skip"
    logits: str = "last"


def build(name: str, model: Decoder) -> Graph:
    """The step graph of ``model``."""
    g = Builder(name)
    ids = g.source(Tensor("ids", (B, q), INT64))
    width = model.embed_dim or model.d
    table = g.source(_weight(model, "embed.weight", model.vocab, width))
    hidden = g.add("embed", Embedding(result=model.acts), ids, table)
    if model.embed_scale:
        hidden = g.add("embed_scale", Scale(), hidden)
    if model.embed_dim is not None:
        hidden = _linear(g, model, "embed_proj", hidden, model.d, width, False)
    if model.positions is not None:
        places = g.source(Tensor("position_ids", (q,), INT64))
        learned = g.source(_weight(model, "positions.weight", model.positions, model.d))
        position = g.add("position_embed", Embedding(result=model.acts), places, learned)
        hidden = g.add("position_add", Add(), hidden, position)
    operands = [hidden]
    if model.rotary is not None:
        operands.append(g.source(_rope_table(model)))
    hidden = g.add("layers", Repeat(layer(model), model.layers), *operands)
    if model.final_norm:
        hidden = _norm(g, model, "final_norm", hidden, model.d)
    if model.embed_dim is not None:
        hidden = _linear(g, model, "output_proj", hidden, width, model.d, False)
    count = Integer(1) if model.logits == "last" else q
    hidden = g.add("last_position", SelectLast(count), hidden)
    logits = _head(g, model, hidden, table, width)
    if model.logit_cap:
        logits = g.add("logit_cap", SoftCap(), logits)
    return g.build(g.add("sample", Sample(), logits))


def layer(model: Decoder) -> Graph:
    """One decoder layer: hidden state (and rotary table) in, hidden state out."""
    g = Builder("layer")
    x = g.source(Tensor("hidden", (B, q, model.d), model.acts))
    table = g.source(_rope_table(model)) if model.rotary is not None else None
    normed = _norm(g, model, "attn_norm", x, model.d) if model.norm_first else x
    attended = _attention(g, model, normed, table)
    if model.post_norms:
        attended = _norm(g, model, "attn_post_norm", attended, model.d)
    if model.parallel:
        second = normed if model.shared_norm else _norm(g, model, "mlp_norm", x, model.d)
        both = g.add("attn_add", Add(), _feed_forward(g, model, second), attended)
        return g.build(g.add("mlp_add", Add(), both, x))
    x = g.add("attn_add", Add(), attended, x)
    if not model.norm_first:
        x = _norm(g, model, "attn_norm", x, model.d)
    normed = _norm(g, model, "mlp_norm", x, model.d) if model.norm_first else x
    fed = _feed_forward(g, model, normed)
    if model.post_norms:
        fed = _norm(g, model, "mlp_post_norm", fed, model.d)
    x = g.add("mlp_add", Add(), fed, x)
    if not model.norm_first:
        x = _norm(g, model, "mlp_norm", x, model.d)
    return g.build(x)


def _attention(g: Builder, model: Decoder, x: str, table: str | None) -> str:
    h, hk, dh = model.heads, model.kv_heads, model.head_dim
    if model.fused_qkv:
        packed = _linear(g, model, "qkv_proj", x, (h + 2 * hk) * dh, model.d, model.qkv_bias)
        query, key, value = g.add_many("qkv_split", Split(((h, dh), (hk, dh), (hk, dh))), packed)
    else:
        query, key, value = (
            _linear(g, model, f"{n}_proj", x, heads * dh, model.d, model.qkv_bias, (heads, dh))
            for n, heads in (("q", h), ("k", hk), ("v", hk))
        )
    if model.qk_norm:
        query = _norm(g, model, "q_norm", query, dh)
        key = _norm(g, model, "k_norm", key, dh)
    if table is not None:
        query = g.add("q_rope", Rope(), query, table)
        key = g.add("k_rope", Rope(), key, table)
    keys = g.add("k_append", KVAppend(), g.source(_cache(model, "k_cache")), key)
    values = g.add("v_append", KVAppend(), g.source(_cache(model, "v_cache")), value)
    scores = g.add("qk_matmul", AttentionScores(model.mask), query, keys)
    if model.score_cap:
        scores = g.add("score_cap", SoftCap(), scores)
    probabilities = g.add("softmax", Softmax(model.mask), scores)
    mixed = g.add("sv_matmul", AttentionValues(model.mask), probabilities, values)
    return _linear(g, model, "o_proj", mixed, model.d, h * dh, model.out_bias, contract=2)


def _feed_forward(g: Builder, model: Decoder, x: str) -> str:
    d, width, bias = model.d, model.ffn, model.mlp_bias
    if not model.gated:
        up = _linear(g, model, "up_proj", x, width, d, bias)
        return _linear(g, model, "down_proj", _act(g, model, up), d, width, bias)
    if model.fused_gate_up:
        packed = _linear(g, model, "gate_up_proj", x, 2 * width, d, bias)
        gate, up = g.add_many("gate_up_split", Split(((width,), (width,))), packed)
    else:
        gate = _linear(g, model, "gate_proj", x, width, d, bias)
        up = _linear(g, model, "up_proj", x, width, d, bias)
    gated = g.add("mlp_mul", Multiply(), _act(g, model, gate), up)
    return _linear(g, model, "down_proj", gated, d, width, bias)


def _act(g: Builder, model: Decoder, x: str) -> str:
    return g.add("mlp_act", Activation(model.activation), x)


def _head(g: Builder, model: Decoder, x: str, table: str, width: Expr) -> str:
    if not model.tied:
        return _linear(g, model, "lm_head", x, model.vocab, width, model.head_bias)
    operands = [x, table]
    if model.head_bias:
        operands.append(g.source(_weight(model, "lm_head.bias", model.vocab)))
    return g.add("lm_head", Linear(bias=model.head_bias), *operands)


def _linear(
    g: Builder,
    model: Decoder,
    name: str,
    x: str,
    oc: Expr,
    ic: Expr,
    bias: bool,
    split: tuple[Expr, ...] = (),
    contract: int = 1,
) -> str:
    operands = [x, g.source(_weight(model, f"{name}.weight", oc, ic))]
    if bias:
        operands.append(g.source(Tensor(f"{name}.bias", (oc,), model.acts, Role.WEIGHT)))
    return g.add(name, Linear(bias, contract, split), *operands)


def _norm(g: Builder, model: Decoder, name: str, x: str, width: Expr) -> str:
    # Norms keep the compute format: no scheme stores them narrower.
    operands = [x, g.source(Tensor(f"{name}.weight", (width,), model.acts, Role.WEIGHT))]
    if model.norm == "rms":
        return g.add(name, RMSNorm(), *operands)
    if model.norm_bias:
        operands.append(g.source(Tensor(f"{name}.bias", (width,), model.acts, Role.WEIGHT)))
    return g.add(name, LayerNorm(model.norm_bias), *operands)


def _weight(model: Decoder, name: str, *shape: Expr) -> Tensor:
    return Tensor(name, shape, model.weights, Role.WEIGHT)


def _cache(model: Decoder, name: str) -> Tensor:
    return Tensor(name, (B, T - q, model.kv_heads, model.head_dim), model.kv, Role.KV)


def _rope_table(model: Decoder) -> Tensor:
    assert model.rotary is not None
    return Tensor("rope_table", (q, model.rotary), model.acts)
