"""Autoregressive flows of images: blocks that are inverted patch by patch.

A flow block maps a sequence of ``L`` patches to one of the same shape, each patch
scaled and shifted by what a causal transformer makes of those before it. Its inverse,
which draws a sample, needs every patch before the next: ``L − 1`` steps with caches, for
each of the blocks in turn (TarFlow, Zhai et al., arXiv 2412.06329). ``B`` is images; an
image emits no tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, Symbol

from costgraph.errors import InputError
from costgraph.formula.terms import Limit, Span
from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program, Resident
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Attention, FeedForward, Layer, Maker, Norm, Segment, Style
from costgraph.models.blocks.stack import run
from costgraph.ops import Add, Embedding, Multiply, Split
from costgraph.ops.maps import Map
from costgraph.symbols import B, T, q

ONE, ZERO = Integer(1), Integer(0)
#: Sentences that every count of a flow rests on.
ASSUMPTIONS = (
    "blocks of the flow run one after the other; the cache of one is gone when the next begins",
    "B counts the images of one pass: guidance doubles it",
)


@dataclass(frozen=True)
class Flow:
    """A flow of ``blocks`` alike blocks.

    Attributes:
        blocks, layers: flow blocks, and transformer layers in each.
        d, heads, head_dim, ffn: of the layers.
        patches: length of the sequence, ``L``.
        channels: numbers of a patch.
        classes: rows of the class table of each block, or 0.
        scaled: patches are scaled as well as shifted.
    """

    blocks: int
    layers: Expr
    d: Expr
    heads: Expr
    head_dim: Expr
    ffn: Expr
    patches: int
    channels: Expr
    classes: int = 0
    scaled: bool = True

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Contexts are no longer than the sequence."""
        return (Limit(T, Integer(self.patches), "an image has no patches beyond"),)

    def symbolic(self) -> tuple[Flow, dict[Symbol, Expr]]:
        """Refused: dimensions of flows stay numbers."""
        raise InputError("autoregressive flows keep no symbolic dimensions")

    def graph(self, name: str, style: Style) -> Graph:
        """One inverse step of one block over ``B``, ``q`` and ``T``: patches in and out."""
        m, d = Maker(name, style), self.d
        given = m.source(Tensor("patches", (B, q, self.channels), style.acts))
        x = m.linear("proj_in", given, d, self.channels, True)
        places = m.source(Tensor("position_ids", (q,), INT64))
        table = m.weight("positions.weight", Integer(self.patches), d)
        at = m.add("position_embed", Embedding(result=style.acts), places, table)
        x = m.add("position_add", Add(), x, at)
        if self.classes:
            labels = m.source(Tensor("labels", (B, ONE), INT64))
            kinds = m.weight("classes.weight", Integer(self.classes), d)
            # One vector an image, added to all of its patches.
            told = m.add("class_embed", Embedding(result=style.acts), labels, kinds)
            x = m.add("class_add", Map("add"), x, told)
        x = run(m, (Segment("layers", self._layer(), self.layers),), x)
        width = self.channels * (2 if self.scaled else 1)
        made = m.linear("proj_out", x, width, d, True)
        if not self.scaled:
            return m.build(m.add("shift", Add(), given, made))
        parts = ((self.channels,), (self.channels,))
        scale, shift = m.add_many("affine_split", Split(parts), made)
        factor = m.add("affine_exp", Map("exp"), scale)
        scaled = m.add("affine_scale", Multiply(), given, factor)
        return m.build(m.add("affine_shift", Add(), scaled, shift))

    def _layer(self) -> Layer:
        attention = Attention(
            d=self.d,
            heads=self.heads,
            kv_heads=self.heads,
            head_dim=self.head_dim,
            qkv_bias=True,
            out_bias=True,
            fused_qkv=True,
        )
        feed = FeedForward(self.d, self.ffn, "gelu", gated=False, bias=True)
        return Layer(self.d, attention, feed, Norm("layer", bias=True))

    def program(self, name: str, style: Style) -> Program:
        """The program of one phase, ``sequential``: all patches but the first, block by block."""
        graph = self.graph(name, style)
        others: tuple[Resident, ...] = ()
        if self.blocks > 1:
            others = (Resident(self._others(name, graph, style), part=True),)
        last = Integer(self.patches - 1)
        phase = Phase(
            "sequential",
            graph,
            ((q, ONE),),
            Span(T, ONE, last),
            ZERO,
            Integer(self.blocks),
            others,
        )
        return Program(name, (phase,), ASSUMPTIONS, self.limits)

    def _others(self, name: str, block: Graph, style: Style) -> Graph:
        """The blocks that wait for their turn."""
        m = Maker(f"{name} other blocks", style)
        given = [m.source(t) for t in block.inputs]
        region = Repeat(block, Integer(self.blocks - 1), rounds="other")
        return m.build(m.add("other_blocks", region, *given))
