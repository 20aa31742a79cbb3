"""Layers of several streams: hyper-connections around each block (arXiv 2512.24880)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.ngrams import IDS, NGrams
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Activation, Add, Linear
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.matmul import MatMul
from costgraph.ops.streams import StreamGates
from costgraph.ops.views import Expand, Reshape, Transpose
from costgraph.symbols import B, q

ONE = Integer(1)


@dataclass(frozen=True)
class Connections(ABC):
    """Streams of a hidden state ``(B, q, n, d)``, and how blocks read and write them.

    Attributes:
        d: hidden size.
        count: streams ``n``.
    """

    d: Expr
    count: Expr

    @property
    def shape(self) -> tuple[Expr, ...]:
        """That of the hidden state."""
        return (B, q, self.count, self.d)

    def opened(self, m: Maker, hidden: str) -> str:
        """Adds the streams of embeddings ``(B, q, d)``, all alike."""
        one = m.add("one_stream", Reshape((B, q, ONE, self.d)), hidden)
        return m.add("streams", Expand(self.shape), one)

    @abstractmethod
    def closed(self, m: Maker, streams: str) -> str:
        """Adds one hidden state of them, ``(B, q, d)``."""

    @abstractmethod
    def around(self, m: Maker, name: str, streams: str, block: Block, norm: Norm) -> str:
        """Adds a block that reads the streams, and the streams with what it made.

        ``norm`` is of what the block reads, where the streams are not normalised themselves.
        """


@dataclass(frozen=True)
class Hyper(Connections):
    """Blocks read a weighted sum of the streams, which a matrix mixes (arXiv 2512.24880).

    Attributes:
        rounds: of Sinkhorn's iterations.
        apart: streams are not mixed with one another, and the root mean square of all of them
            divides the products instead of the streams (Hunyuan 4).
        mean: what is read last is their mean, without gates (GLM 5.3).
    """

    rounds: Expr = Integer(0)
    apart: bool = False
    mean: bool = False

    def closed(self, m: Maker, streams: str) -> str:
        """Adds their sum, weighted by gates, or their mean: ``(B, q, d)``."""
        n = self.count
        if self.mean:
            return m.add("head_mean", Reduce("mean", (2,)), streams)
        made = self._products(m, "head", streams, n)
        made = m.add("head_scale", Map("mul"), made, m.vector("head_hc.scale", ONE))
        made = m.add("head_base", Map("add"), made, m.vector("head_hc.base", n))
        made = m.add("head_gate", Activation("sigmoid"), made)
        made = m.add("head_eps", Map("add_constant"), made)
        gates = m.add("head_gates", Reshape((B, q, n, ONE)), made)
        return self._collapsed(m, "head", streams, gates)

    def around(self, m: Maker, name: str, streams: str, block: Block, norm: Norm) -> str:
        """Adds a block that reads a sum of the streams, and the streams with what it made."""
        gates = StreamGates(self.count, self.rounds, self.apart)
        made = self._products(m, name, streams, gates.numbers)
        vectors = (
            m.vector(f"{name}_hc.base", gates.numbers),
            m.vector(f"{name}_hc.scale", gates.scales),
        )
        pre, post, *matrix = m.add_many(f"{name}_gates", gates, made, *vectors)
        x = self._collapsed(m, name, streams, pre)
        x = block.add(m, m.norm(f"{name}_norm", x, self.d, norm))
        x = m.add(f"{name}_one", Reshape((B, q, ONE, self.d)), x)
        x = m.add(f"{name}_written", Map("mul"), post, x)
        for mixing in matrix:
            turned = m.add(f"{name}_turn", Transpose((0, 1, 3, 2)), mixing)
            streams = m.add(f"{name}_mixed", MatMul(), turned, streams)
        return m.add(f"{name}_add", Add(), x, streams)

    def _products(self, m: Maker, name: str, streams: str, count: Expr) -> str:
        wide = self.count * self.d
        flat = m.add(f"{name}_flat", Reshape((B, q, wide)), streams)
        if not self.apart:
            flat = m.norm(f"{name}_flat_norm", flat, wide, Norm(weight=False))
        weight = m.vector(f"{name}_hc.weight", count, wide)
        made = m.add(f"{name}_numbers", Linear(), flat, weight)
        if not self.apart:
            return made
        square = m.add(f"{name}_square", Map("square"), flat)
        size = m.add(f"{name}_mean", Reduce("mean", (2,), keep=True), square)
        size = m.add(f"{name}_mean_eps", Map("add_constant"), size)
        size = m.add(f"{name}_size", Map("rsqrt"), size)
        return m.add(f"{name}_sized", Map("mul"), made, size)

    def _collapsed(self, m: Maker, name: str, streams: str, gates: str) -> str:
        x = m.add(f"{name}_weighed", Map("mul"), streams, gates)
        return m.add(f"{name}_read", Reduce("sum", (2,)), x)


@dataclass(frozen=True)
class HyperLayer:
    """A layer whose two blocks each stand between hyper-connections.

    Attributes:
        hyper: those connections.
        mixer, channel: the blocks.
        norm: of what they read.
        front: what tokens add to the streams before, or None.
    """

    hyper: Connections
    mixer: Block
    channel: Block
    norm: Norm = Norm()
    front: NGrams | None = None

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Shared operands of both blocks, each once; ids, where tokens add to the streams."""
        ids = () if self.front is None else (IDS,)
        found = (*ids, *self.mixer.operands(style), *self.channel.operands(style))
        return tuple(dict.fromkeys(found))

    def graph(self, style: Style) -> Graph:
        """Streams and shared operands in, streams out."""
        m = Maker("layer", style)
        streams = m.source(Tensor("hidden", self.hyper.shape, style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        if self.front is not None:
            streams = self.front.add(m, streams)
        streams = self.hyper.around(m, "attn", streams, self.mixer, self.norm)
        return m.build(self.hyper.around(m, "mlp", streams, self.channel, self.norm))
