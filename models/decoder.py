"""The dense decoder: one flat description, composed from blocks.

A :class:`Decoder` says what varies between decoder-only transformers whose
layers are all alike, or differ in a few attributes. Dimensions may be numbers
or symbols.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sympy import Expr, Symbol

from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.models.blocks import (
    Attention,
    Ends,
    FeedForward,
    Layer,
    Norm,
    Segment,
    Stack,
    Style,
    arranged,
)
from costgraph.models.blocks.stack import LOGITS, Output
from costgraph.ops.pattern import Band, Pattern, sliding
from costgraph.symbols import symbol


@dataclass(frozen=True)
class Kind:
    """A kind of layer: the attributes of a :class:`Decoder` that it changes."""

    name: str
    changes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Decoder:
    """What distinguishes one dense decoder from another.

    Dimensions: ``layers`` decoder layers, hidden size ``d``, ``heads`` query
    heads and ``kv_heads`` key/value heads of size ``head_dim``, feed-forward
    width ``ffn``, ``vocab`` tokens, ``positions`` rows of learned positions (or None), of
    which ``unused`` stand for none.
    Where layers differ, ``kinds`` says in what, and ``pattern`` names the kind of
    each layer. The other attributes are those of
    :class:`~costgraph.models.blocks.Attention`, ``FeedForward``, ``Layer`` and
    ``Ends``.
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
    norm_weight: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norm: bool = False
    qk_norm_bias: bool | None = None
    qk_norm_over: str = "head"
    qk_norm_weight: bool = True
    rotary: Expr | None = None
    positions: Expr | None = None
    unused: int = 0
    fixed: bool = False
    tied: bool = False
    parallel: bool = False
    shared_norm: bool = False
    post_norms: bool = False
    pre_norms: bool = True
    norm_first: bool = True
    final_norm: bool = True
    residual_scale: bool = False
    embed_scale: bool = False
    embed_norm: bool = False
    embed_dim: Expr | None = None
    score_cap: bool = False
    logit_cap: bool = False
    logit_scale: bool = False
    head_scale: bool = False
    all_logits: bool = False
    output: Output = LOGITS
    alibi: bool = False
    clip: bool = False
    query_scale: bool = False
    sinks: bool = False
    inner_norms: bool = False
    causal: bool = True
    fused_qkv: bool = False
    fused_gate_up: bool = False
    window: Expr | None = None
    kinds: tuple[Kind, ...] = ()
    pattern: tuple[str, ...] = ()

    def layer(self) -> Layer:
        """One layer, of the kind that the attributes describe."""
        norm = Norm(self.norm, self.norm_bias, self.norm_weight)
        attention = Attention(
            d=self.d,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            rotary=self.rotary,
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
            qk_norm=self._qk_norm(norm) if self.qk_norm else None,
            qk_norm_over=self.qk_norm_over,
            score_cap=self.score_cap,
            fused_qkv=self.fused_qkv,
            pattern=self._sees(),
            alibi=self.alibi,
            clip=self.clip,
            query_scale=self.query_scale,
            sinks=self.sinks,
            inner_norm=norm if self.inner_norms else None,
            causal=self.causal,
        )
        feed_forward = FeedForward(
            d=self.d,
            width=self.ffn,
            activation=self.activation,
            gated=self.gated,
            bias=self.mlp_bias,
            fused_gate_up=self.fused_gate_up,
            inner_norm=norm if self.inner_norms else None,
        )
        return Layer(
            d=self.d,
            mixer=attention,
            channel=feed_forward,
            norm=norm,
            parallel=self.parallel,
            shared_norm=self.shared_norm,
            post_norms=self.post_norms,
            norm_first=self.norm_first,
            pre_norms=self.pre_norms,
            residual_scale=self.residual_scale,
        )

    def _sees(self) -> Pattern:
        """Which positions of the window each one sees; in both directions it lies on both sides."""
        if self.causal or self.window is None:
            return sliding(self.window)
        return Band(self.window - 1)

    def _qk_norm(self, norm: Norm) -> Norm:
        bias = self.norm_bias if self.qk_norm_bias is None else self.qk_norm_bias
        return replace(norm, bias=bias, weight=self.qk_norm_weight)

    def stack(self) -> Stack:
        """The model as blocks."""
        norm = Norm(self.norm, self.norm_bias, self.norm_weight)
        ends = Ends(
            d=self.d,
            vocab=self.vocab,
            positions=self.positions,
            unused=self.unused,
            fixed=self.fixed,
            embed_dim=self.embed_dim,
            embed_scale=self.embed_scale,
            embed_norm=norm if self.embed_norm else None,
            norm=norm if self.final_norm else None,
            tied=self.tied,
            head_bias=self.head_bias,
            logit_cap=self.logit_cap,
            logit_scale=self.logit_scale,
            head_scale=self.head_scale,
            all_logits=self.all_logits,
            output=self.output,
        )
        if not self.pattern:
            return Stack(ends, (Segment("layers", self.layer(), self.layers),))
        layers = {k.name: replace(self, **dict(k.changes)).layer() for k in self.kinds}
        return Stack(ends, arranged(self.d, self.pattern, layers, self.layers))

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What contexts the model has positions for."""
        return self.stack().limits

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
        if self.window is not None:
            dims[symbol("W")] = self.window
            changes["window"] = symbol("W")
        if self.positions is not None:
            dims[symbol("P")] = self.positions
            changes["positions"] = symbol("P")
        return replace(self, **changes), dims


def build(name: str, model: Decoder, style: Style | None = None) -> Graph:
    """The step graph of ``model``."""
    return model.graph(name, style or Style())
