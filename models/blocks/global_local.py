"""ETC's layers: a long text that sees what is near, and few positions that see all."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.sparse import as_counted
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Add, AttentionScores, AttentionValues, Linear, Softmax
from costgraph.ops.bias import ScoreBias
from costgraph.ops.pattern import FULL, Pattern, Sided
from costgraph.ops.relative import RelativeScores
from costgraph.ops.views import Beside, Slice
from costgraph.symbols import B, q

#: Which projections of queries, keys and values both inputs share: all; those of keys and
#: values of what one input attends; none.
SHARED = ("all", "keys", "none")
#: Both inputs, in the order in which they lie in the hidden state.
SIDES = ("global", "long")


def apart(m: Maker, name: str, x: str, wide: Expr) -> tuple[str, str]:
    """The positions that see all, which are the first ones, and the others."""
    first = m.add(f"{name}_global", Slice(1, Integer(0), wide), x)
    return first, m.add(f"{name}_long", Slice(1, wide, m.shape(x)[1] - wide), x)


def normed_apart(m: Maker, name: str, x: str, wide: Expr, norm: Norm) -> str:
    """Adds a norm of its own for each of both inputs."""
    first, others = apart(m, name, x, wide)
    width = m.shape(x)[2]
    made = (m.norm(f"{name}_{n}_norm", y, width, norm) for n, y in (("g", first), ("l", others)))
    return m.add(f"{name}_both", Beside(1), *made)


@dataclass(frozen=True)
class GlobalLocalLayer:
    """Attention from both inputs to both, each in one softmax, and one feed-forward block.

    Scores get the product of a query with a row of a table for each kind of pair (distances
    up to a bound, and kinds of pairs across inputs), and a number of that row (arXiv
    1803.02155, 1901.02860).

    Attributes:
        at: heads, with biases.
        feed, norm: feed-forward block of both inputs, norm behind blocks.
        wide: positions that see all.
        reach: how far others see to both sides.
        kinds: rows of the tables.
        shared: one of :data:`SHARED`; ``one_out``: both results pass one projection.
    """

    at: Heads
    feed: FeedForward
    norm: Norm
    wide: Expr
    reach: Expr
    kinds: Expr
    shared: str = "all"
    one_out: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state in and out, those that see all in front."""
        m = Maker("layer", style)
        d = self.at.d
        x = m.source(Tensor("hidden", (B, q, d), style.acts))
        both = apart(m, "hidden", x, self.wide)
        near = as_counted(style, Sided(self.reach, self.wide))
        made = [
            self._attended(m, side, both, p) for side, p in zip(SIDES, (FULL, near), strict=True)
        ]
        mixed = m.add("mixed", Beside(1), *made)
        x = normed_apart(m, "attn", m.add("attn_add", Add(), mixed, x), self.wide, self.norm)
        x = m.add("mlp_add", Add(), self.feed.add(m, x), x)
        return m.build(m.norm("mlp_norm", x, d, self.norm))

    def _attended(self, m: Maker, side: str, both: tuple[str, str], pattern: Pattern) -> str:
        """Adds what one input makes of both."""
        query = self._projected(m, "q", side, side, both)
        keys, values = (
            m.add(
                f"{side}_{n}", Beside(1), *(self._projected(m, n, side, to, both) for to in SIDES)
            )
            for n in ("k", "v")
        )
        heads, dh = self.at.heads, self.at.head_dim
        scores = m.add(f"{side}_qk_matmul", AttentionScores(pattern), query, keys)
        table = m.vector(f"{side}_kinds.weight", self.kinds, heads, dh)
        bias = m.vector(f"{side}_kinds.bias", self.kinds, heads)
        op = RelativeScores(m.shape(keys)[1], pattern, whole=True)
        term = m.add(f"{side}_kind_matmul", op, query, table, bias)
        scores = m.add(f"{side}_kind_add", ScoreBias(pattern), scores, term)
        found = m.add(f"{side}_softmax", Softmax(pattern), scores)
        mixed = m.add(f"{side}_sv_matmul", AttentionValues(pattern), found, values)
        weight = "o_proj" if self.one_out else f"{side}_o_proj"
        inputs = self._weights(m, weight, self.at.d, self.at.width)
        return m.add(f"{side}_out", Linear(True, 2), mixed, *inputs)

    def _projected(self, m: Maker, n: str, side: str, to: str, both: tuple[str, str]) -> str:
        """Adds a projection of one input as another sees it: once, where both see it so."""
        names = {
            "all": (f"{n}_proj", f"{to}_{n}_proj"),
            "keys": (f"{side}_{n}_proj", f"{side}_{to}_{n}_proj"),
            "none": (f"{side}_{to}_{n}_proj",) * 2,
        }
        weight, name = names[self.shared]
        if m.has(name):
            return name
        split = (self.at.heads, self.at.head_dim)
        inputs = self._weights(m, weight, self.at.width, self.at.d)
        return m.add(name, Linear(True, split=split), both[SIDES.index(to)], *inputs)

    def _weights(self, m: Maker, name: str, oc: Expr, ic: Expr) -> tuple[str, str]:
        return m.weight(f"{name}.weight", oc, ic), m.vector(f"{name}.bias", oc)
