"""Gemma 3n's layers: a hidden state of several streams, of which each layer computes one.

Alternating updates (AltUp, arXiv 2301.13310): a small map predicts all streams, the layer
computes one, and what it changed corrects the others. Beside attention runs a learned
residual of low rank (LAuReL, arXiv 2411.07501).
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.perlayer import RMS, SharingAttention
from costgraph.models.blocks.style import Maker, Style
from costgraph.ops import Activation, Add, Linear, Multiply, RMSNorm, RowScale, Scale
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.matmul import MatMul
from costgraph.ops.views import Reshape, Slice, Stack, Transpose
from costgraph.symbols import B, q


@dataclass(frozen=True)
class Streams:
    """A hidden state ``(P, B, q, d)``.

    Attributes:
        d: hidden size.
        count: streams ``P``.
        active: the stream that layers compute, counted from zero.
    """

    d: Expr
    count: int
    active: int = 0

    def opened(self, m: Maker, hidden: str) -> str:
        """Adds the streams of embeddings ``(B, q, d)``: projections of the same magnitude."""
        made = [hidden]
        target = self._magnitude(m, "streams", hidden)
        for i in range(1, self.count):
            made.append(self._projected(m, f"stream_{i}", hidden, target))
        return m.add("streams", Stack(), *made)

    def closed(self, m: Maker, streams: str) -> str:
        """Adds the mean of all streams, projected back: ``(B, q, d)``."""
        first = self.take(m, "last_stream_0", streams, 0)
        made = [first]
        target = self._magnitude(m, "last_streams", first)
        for i in range(1, self.count):
            one = self.take(m, f"last_stream_{i}", streams, i)
            made.append(self._projected(m, f"last_stream_{i}", one, target))
        return m.add("streams_mean", Map("average"), *made)

    def take(self, m: Maker, name: str, streams: str, index: int) -> str:
        """Adds the view ``(B, q, d)`` of one stream."""
        part = m.add(f"{name}_part", Slice(0, Integer(index)), streams)
        return m.add(name, Reshape((B, q, self.d)), part)

    def _projected(self, m: Maker, name: str, x: str, target: str) -> str:
        x = m.linear(f"{name}_proj", x, self.d, self.d)
        ratio = m.add(f"{name}_ratio", Map("div"), target, self._magnitude(m, name, x))
        return m.add(f"{name}_scaled", RowScale(), x, ratio)

    @staticmethod
    def _magnitude(m: Maker, name: str, x: str) -> str:
        return m.add(f"{name}_magnitude", Reduce("norm2", (2,), keep=True), x)


@dataclass(frozen=True)
class StreamLayer:
    """A layer between a prediction of all streams and their correction.

    Attributes:
        streams: of the hidden state.
        attention, feed: the blocks, with norms on both sides.
        rank: of the learned residual.
        own: width of the layer's own input.
        activation: of the gate that lets it through.
        stores: the layer also gives its keys and values.
    """

    streams: Streams
    attention: SharingAttention
    feed: FeedForward
    rank: Expr
    own: Expr
    activation: str = "gelu_tanh"
    stores: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """What the attention shares, and the layer's own input."""
        own = Tensor("own_input", (B, q, self.own), style.acts)
        return (*self.attention.operands(style), own)

    def graph(self, style: Style) -> Graph:
        """Streams and shared operands in; streams, and what is stored, out."""
        s = self.streams
        m = Maker("layer", style)
        shape = (Integer(s.count), B, q, s.d)
        streams = m.source(Tensor("hidden", shape, style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        predicted = self._predicted(m, streams)
        x = s.take(m, "predicted_active", predicted, s.active)
        normed = m.norm("attn_norm", x, s.d, RMS)
        low = m.linear("laurel_left", normed, self.rank, s.d)
        low = m.norm("laurel_norm", m.linear("laurel_right", low, s.d, self.rank), s.d, RMS)
        beside = m.add("laurel_add", Add(), low, normed)
        mixed, keys, values = self.attention.add(m, normed)
        mixed = m.add("attn_add", Add(), m.norm("attn_post_norm", mixed, s.d, RMS), x)
        mixed = m.add("beside_scale", Scale(), m.add("beside_add", Add(), mixed, beside))
        fed = self.feed.add(m, m.norm("mlp_norm", mixed, s.d, RMS))
        made = m.add("mlp_add", Add(), m.norm("mlp_post_norm", fed, s.d, RMS), mixed)
        out = self._gated(m, self._corrected(m, predicted, x, made))
        return m.build(out, keys, values) if self.stores else m.build(out)

    def _routed(self, m: Maker, name: str, x: str) -> str:
        """A number for each stream ``(B, q, P)``; both maps are made with the same weights."""
        s = self.streams
        weight = m.vector("router_norm.weight", s.d)
        x = m.add(f"{name}_router_norm", RMSNorm(), x, weight)
        x = m.add(f"{name}_router_scale", Scale(), x)
        matrix = m.weight("router.weight", Integer(s.count), s.d)
        return m.add(f"{name}_router_act", Activation("tanh"),
                     m.add(f"{name}_router", Linear(), x, matrix))  # fmt: skip

    def _predicted(self, m: Maker, streams: str) -> str:
        """``x + C x`` of the streams ``x``, with a matrix ``C (P, P)`` for every position."""
        s, p = self.streams, Integer(self.streams.count)
        routed = self._routed(m, "predict", s.take(m, "active", streams, s.active))
        flat = m.linear("prediction_coefs", routed, p**2, p)
        coefs = m.add("prediction_matrix", Reshape((B, q, p, p)), flat)
        last = m.add("streams_last", Transpose((1, 2, 3, 0)), streams)
        mixed = m.add("predict_mix", MatMul(), last, coefs)
        first = m.add("streams_first", Transpose((3, 0, 1, 2)), mixed)
        return m.add("predict_add", Add(), first, streams)

    def _corrected(self, m: Maker, predicted: str, x: str, made: str) -> str:
        """Every stream moved by what the layer changed of one, times a number of its own."""
        p = Integer(self.streams.count)
        routed = self._routed(m, "correct", made)
        coefs = m.linear("correction_coefs", routed, p, p)
        coefs = m.add("correction_one", Map("add_constant"), coefs)
        coefs = m.add("correction_turn", Transpose((2, 0, 1)), coefs)
        coefs = m.add("correction_each", Reshape((p, B, q, Integer(1))), coefs)
        change = m.add("innovation", Map("sub"), made, x)
        moved = m.add("correct_mul", Map("mul"), change, coefs)
        return m.add("correct_add", Add(), moved, predicted)

    def _gated(self, m: Maker, streams: str) -> str:
        """The layer's own input, let through by the corrected stream, added to the others."""
        s = self.streams
        first = s.take(m, "corrected_active", streams, s.active)
        scale = m.vector("correct_output_scale", s.d)
        x = m.add("correct_scale", Map("mul"), first, scale)
        gate = m.add("own_act", Activation(self.activation), m.linear("own_gate", x, self.own, s.d))
        let = m.add("own_mul", Multiply(), gate, "own_input")
        x = m.norm("own_norm", m.linear("own_proj", let, s.d, self.own), s.d, RMS)
        others = Integer(s.count - 1)
        rest = m.add("other_streams", Slice(0, Integer(1), others), streams)
        rest = m.add("own_add", Map("add"), rest, x)
        parts = [s.take(m, "kept_stream", streams, 0)]
        parts += [s.take(m, f"moved_stream_{i}", rest, i) for i in range(s.count - 1)]
        return m.add("layer_streams", Stack(), *parts)
