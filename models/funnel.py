"""Funnel: an encoder whose later blocks work on half as many positions each.

Dai et al., Funnel-Transformer, arXiv 2006.03236. Behind the last block each of its positions is
repeated to the length of the text, and what the first block made is added; a few layers
follow. Classes that label a whole text end at the last block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer, Symbol, ceiling, floor

from costgraph.errors import InputError
from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program, single_pass
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Norm, Style
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.relative import attended_apart, distances
from costgraph.models.encoder import TextFront
from costgraph.models.encoder_heads import Head
from costgraph.ops import Add
from costgraph.ops.arrays import Copy
from costgraph.ops.pool import AdaptivePool
from costgraph.ops.views import Transpose
from costgraph.symbols import B, S, q

ZERO, ONE = Integer(0), Integer(1)


@dataclass(frozen=True)
class FunnelLayer:
    """A layer with a term for distances and one for kinds of segments, norms behind both blocks.

    Attributes:
        at, feed, norm: heads, feed-forward block, norm.
        length: positions.
        keys: positions that are attended where these are more: the layer takes both.
    """

    at: Heads
    feed: FeedForward
    norm: Norm
    length: Expr = q
    keys: Expr | None = None

    def table(self, style: Style, name: str = "distances") -> Tensor:
        """The table of distances: as many before as behind, in steps of the block."""
        count = 2 * self.length if self.keys is None else 2 * self.length + self.keys
        return distances(count, self.at.d, style, name)

    def graph(self, style: Style) -> Graph:
        """The layer: hidden states (and those to attend), distances in, hidden state out."""
        m = Maker("layer", style)
        at, d = self.at, self.at.d
        x = seen = m.source(Tensor("hidden", (B, self.length, d), style.acts))
        if self.keys is not None:
            seen = m.source(Tensor("attended", (B, self.keys, d), style.acts))
        table = m.source(self.table(style))
        split = (at.heads, at.head_dim)
        query = m.linear("q_proj", x, at.width, d, split=split)
        key, value = (m.linear(f"{n}_proj", seen, at.width, d, True, split) for n in ("k", "v"))
        mixed = attended_apart(m, query, key, value, table, kinds=True)
        x = m.add("attn_add", Add(), at.out(m, mixed), x)
        x = m.norm("attn_norm", x, d, self.norm)
        x = m.add("mlp_add", Add(), self.feed.add(m, x), x)
        return m.build(m.norm("mlp_norm", x, d, self.norm))


@dataclass(frozen=True)
class Discriminator:
    """A product, an activation and one number for each position: was this token replaced?"""

    d: Expr
    activation: str

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head."""
        x = m.linear("discriminator", hidden, self.d, self.d, True)
        x = m.activation("discriminator_act", x, self.activation)
        return m.linear("replaced", x, ONE, self.d, True)


@dataclass(frozen=True)
class Funnel:
    """The whole model.

    Attributes:
        front: makes the first hidden state.
        layer: of the first block; all others are like it.
        blocks: layers of each block; ``again``: how often each of them runs in a row.
        behind: layers at full length behind the last block; None: the model ends there.
        head: what follows, or None.
        apart: the first position is pooled with nothing; ``dropped``: the last one is left
            out then, so that halves stay even.
        queries_only: the first layer of a block attends all positions in front of it.
        function: ``average`` or ``max``.
    """

    front: TextFront
    layer: FunnelLayer
    blocks: tuple[int, ...]
    again: tuple[int, ...]
    behind: Expr | None
    head: Head | None = None
    apart: bool = True
    dropped: bool = True
    queries_only: bool = True
    function: str = "average"

    def length(self, block: int) -> Expr:
        """Positions of a block: about ``q/2^block``."""
        if not block:
            return q
        part = Integer(2**block)
        if self.apart and not self.dropped:
            return floor((q + part - 2) / part) + 1
        return ceiling(q / part)

    @property
    def shortest(self) -> int:
        """The shortest text that every block halves."""
        least = 3 if self.apart else 2
        length = 1
        for _ in self.blocks[1:]:
            # The last of two lengths that come to ``length``, less one: the first.
            before = 2 * length - (2 if self.apart and not self.dropped else 1)
            length = max(before, least)
        return length

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Texts are long enough to be halved as often as there are blocks."""
        if len(self.blocks) == 1:
            return ()
        return (Limit(Integer(self.shortest), S, "shorter texts are not halved as often"),)

    def graph(self, name: str, style: Style) -> Graph:
        """The graph over ``B`` and ``q``."""
        m = Maker(name, style)
        hidden, words = self.front.add(m)
        tables = [
            m.source(self.at(i).table(style, f"distances_{i}")) for i in range(len(self.blocks))
        ]
        first = ""
        for i, table in enumerate(tables):
            hidden = self._block(m, i, hidden, table)
            first = first or hidden
        if self.behind is not None:
            whole = (B, q, self.layer.at.d)
            if len(self.blocks) > 1:
                hidden = m.add("repeated", Copy(whole), hidden)
            hidden = m.add("first_add", Add(), hidden, first)
            behind = Repeat(self.layer.graph(style), self.behind)
            hidden = m.add("behind", behind, hidden, tables[0])
        return m.build(hidden if self.head is None else self.head.add(m, hidden, words))

    def at(self, block: int) -> FunnelLayer:
        """A layer of a block."""
        return replace(self.layer, length=self.length(block))

    def _block(self, m: Maker, block: int, hidden: str, table: str) -> str:
        layers, again, name = self.blocks[block], self.again[block], f"block_{block}"
        layer = self.at(block)
        if block:
            whole, hidden = hidden, self._pooled(m, block, hidden)
            if self.queries_only:
                first = replace(layer, keys=self.length(block - 1))
                own = m.source(first.table(m.style, f"pooling_{block}"))
                op = Repeat(first.graph(m.style), ONE, carried=0)
                hidden = m.add(f"{name}_first", op, hidden, whole, own)
                if again > 1:
                    # The same weights once more, which are in memory for the first time.
                    more = Repeat(
                        layer.graph(m.style), Integer(again - 1), shared_weights=ZERO,
                        rounds="other",
                    )  # fmt: skip
                    hidden = m.add(f"{name}_first_again", more, hidden, table)
                layers -= 1
        if not layers:
            return hidden
        return m.add(name, self._run(m.style, layer, layers, again), hidden, table)

    def _run(self, style: Style, layer: FunnelLayer, layers: int, again: int) -> Repeat:
        """Layers in a row, each several times over."""
        body = layer.graph(style)
        if again > 1:
            inner = Maker("layer", style)
            names = [inner.source(t) for t in body.inputs]
            once = Repeat(body, Integer(again), shared_instances=ONE, rounds="other")
            body = inner.build(inner.add("again", once, *names))
        return Repeat(body, Integer(layers))

    def _pooled(self, m: Maker, block: int, hidden: str) -> str:
        x = m.add(f"pool_{block}_turn", Transpose((0, 2, 1)), hidden)
        op = AdaptivePool((self.length(block),), self.function)
        x = m.add(f"pool_{block}", op, x)
        return m.add(f"pool_{block}_back", Transpose((0, 2, 1)), x)

    def symbolic(self) -> tuple[Funnel, dict[Symbol, Expr]]:
        """Refused: blocks differ.

        Raises:
            InputError: always.
        """
        raise InputError("blocks of a funnel differ: their dimensions stay numbers")

    def program(self, name: str, style: Style) -> Program:
        """The program of one phase, ``forward``."""
        return single_pass(name, self.graph(name, style), limits=self.limits)
