"""The uniform dense decoder: one flat description, composed from blocks.

A :class:`Decoder` says what varies between decoder-only transformers whose
layers are all alike. Dimensions may be numbers or symbols.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sympy import Expr, Symbol

from costgraph.graph import Graph
from costgraph.models.blocks import (
    Attention,
    Ends,
    FeedForward,
    Layer,
    Norm,
    Segment,
    Stack,
    Style,
)
from costgraph.symbols import symbol


@dataclass(frozen=True)
class Decoder:
    """What distinguishes one dense decoder from another.

    Dimensions: ``layers`` decoder layers, hidden size ``d``, ``heads`` query
    heads and ``kv_heads`` key/value heads of size ``head_dim``, feed-forward
    width ``ffn``, ``vocab`` tokens, ``positions`` learned positions (or None).
    The other attributes are those of :class:`~costgraph.models.blocks.Attention`,
    ``FeedForward``, ``Layer`` and ``Ends``.
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

    def stack(self) -> Stack:
        """The model as blocks."""
        norm = Norm(self.norm, self.norm_bias)
        attention = Attention(
            d=self.d,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            rotary=self.rotary,
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
            qk_norm=norm if self.qk_norm else None,
            score_cap=self.score_cap,
            fused_qkv=self.fused_qkv,
        )
        feed_forward = FeedForward(
            d=self.d,
            width=self.ffn,
            activation=self.activation,
            gated=self.gated,
            bias=self.mlp_bias,
            fused_gate_up=self.fused_gate_up,
        )
        layer = Layer(
            d=self.d,
            mixer=attention,
            channel=feed_forward,
            norm=norm,
            parallel=self.parallel,
            shared_norm=self.shared_norm,
            post_norms=self.post_norms,
            norm_first=self.norm_first,
        )
        ends = Ends(
            d=self.d,
            vocab=self.vocab,
            positions=self.positions,
            embed_dim=self.embed_dim,
            embed_scale=self.embed_scale,
            norm=norm if self.final_norm else None,
            tied=self.tied,
            head_bias=self.head_bias,
            logit_cap=self.logit_cap,
        )
        return Stack(ends, (Segment("layers", layer, self.layers),))

    def graph(self, name: str, style: Style) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``."""
        return self.stack().graph(name, style)

    def symbolic(self) -> tuple[Decoder, dict[Symbol, Expr]]:
        """The model over symbols for its dimensions, and their values."""
        names = {
            "layers": "L",
            "d": "d",
            "heads": "H",
            "kv_heads": "Hk",
            "head_dim": "dh",
            "ffn": "I",
            "vocab": "V",
        }
        dims: dict[Symbol, Expr] = {}
        changes: dict[str, Any] = {}
        for attribute, short in names.items():
            dims[symbol(short)] = getattr(self, attribute)
            changes[attribute] = symbol(short)
        if self.rotary == self.head_dim:
            changes["rotary"] = symbol("dh")
        if self.positions is not None:
            dims[symbol("P")] = self.positions
            changes["positions"] = symbol("P")
        return replace(self, **changes), dims


def build(name: str, model: Decoder, style: Style | None = None) -> Graph:
    """The step graph of ``model``."""
    return model.graph(name, style or Style())
