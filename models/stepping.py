"""Forecasters that draw one step of a series after the other: Time Series Transformer."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Add as Sum
from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Segment, Style
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.encoder import EncoderDecoder
from costgraph.ops import Add, Embedding, SelectLast
from costgraph.ops.arrays import Join
from costgraph.ops.views import Expand
from costgraph.symbols import B, q

ONE = Integer(1)


@dataclass(frozen=True)
class StepFront:
    """What is known of each step, as a row: earlier values and features, and learned categories.

    Attributes:
        d: width of the layers.
        given: numbers of a step that are given.
        rows: of the table of positions, which is a parameter that is not trained.
        kinds: categories of the whole series: how many there are, and the width of their rows.
    """

    d: Expr
    given: Expr
    rows: Expr
    kinds: tuple[tuple[Expr, Expr], ...] = ()

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the front over ``q`` steps: (hidden state, no table)."""
        parts = [m.source(Tensor("steps", (B, q, self.given), m.style.acts))]
        for index, (count, width) in enumerate(self.kinds, start=1):
            ids = m.source(Tensor(f"kind{index}_ids", (B, ONE), INT64))
            table = m.weight(f"kind{index}.weight", count, width)
            found = m.add(f"kind{index}_embed", Embedding(result=m.style.acts), ids, table)
            parts.append(m.add(f"kind{index}_rows", Expand((B, q, width)), found))
        x = m.add("features", Join(2), *parts) if self.kinds else parts[0]
        wide = Sum(self.given, *(width for _, width in self.kinds))
        x = m.linear("value_proj", x, self.d, wide)
        places = m.source(Tensor("position_ids", (q,), INT64))
        table = m.weight("positions.weight", self.rows, self.d)
        placed = m.add("position_embed", Embedding(result=m.style.acts), places, table)
        x = m.add("position_add", Add(), x, placed)
        return m.norm("embed_norm", x, self.d, LAYER_NORM), ""


@dataclass(frozen=True)
class Stepper(EncoderDecoder):
    """An encoder over the steps of a series, and a decoder that makes the next ones.

    ``answers`` are widths of the products, with bias, that make the parameters of the next
    step's distribution; without any, hidden states are what it makes.
    """

    answers: tuple[Expr, ...] = ()

    def graph(self, name: str, style: Style) -> Graph:
        """The decoder's step graph over ``B``, ``q``, ``T`` and ``S``."""
        m = Maker(name, style)
        assert self.front is not None
        x, _ = self.front.add(m)
        x = run(m, (Segment("decoder", self.layer, self.layers),), x)
        if not self.answers:
            return m.build(x)
        x = m.add("last_position", SelectLast(ONE if style.logits == "last" else q), x)
        made = enumerate(self.answers, start=1)
        return m.build(*(m.linear(f"answer{n}", x, out, self.ends.d, True) for n, out in made))
