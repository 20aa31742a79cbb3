"""Encoders' attention to some pairs: bands, means of blocks, blocks at random, global tokens."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, floor

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import AttentionScores, AttentionValues, Linear, Softmax
from costgraph.ops.arrays import Join, Scatter
from costgraph.ops.bias import PairBias
from costgraph.ops.pattern import FULL, Band, Dense, Pattern, Pooled
from costgraph.ops.pool import AdaptivePool
from costgraph.ops.views import Slice, Transpose
from costgraph.symbols import q


def as_counted(style: Style, pattern: Pattern) -> Pattern:
    """The pattern; of every pair that its blocks hold where masked pairs are computed."""
    return Dense(pattern) if style.mask == "compute" else pattern


@dataclass(frozen=True)
class Sparse:
    """Self-attention in both directions to what a pattern says."""

    at: Heads
    pattern: Pattern

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Rotary table and position bias."""
        return self.at.shared(style, q)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` to ``(B, q, d)``."""
        query, key, value = self.at.all(m, x)
        pattern = as_counted(m.style, self.pattern)
        return self.at.out(m, attended(m, query, key, value, pattern, self.at.bias(m, q)))


@dataclass(frozen=True)
class Means:
    """LongT5's attention: what is near, and means of all blocks if ``block`` is given.

    A block that the sequence does not fill has no mean: its positions go to the one before.
    Means pass a norm and the projections of keys and values.

    Attributes:
        at: the heads.
        reach: the greatest distance of what is near.
        block: positions that a mean is made of, or None.
    """

    at: Heads
    reach: Expr
    block: Expr | None = None

    @property
    def pattern(self) -> Pattern:
        """What a position sees."""
        if self.block is None:
            return Band(self.reach, block=self.reach + 1)
        return Pooled(self.reach, self.block)

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Position biases within a block of queries and its keys, and to means."""
        heads, near = self.at.heads, self.reach + 1
        found = (Tensor("position_bias", (heads, near, 3 * near), style.acts),)
        if self.block is None:
            return found
        count = floor(q / self.block)
        return (*found, Tensor("side_bias", (heads, q, count), style.acts))

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` to ``(B, q, d)``."""
        query, key, value = self.at.all(m, x)
        pattern = as_counted(m.style, self.pattern)
        biases = tuple(t.name for t in self.operands(m.style))
        if self.block is not None:
            means = self._means(m, x, self.block)
            key, value = (self._joined(m, n, t, means) for n, t in (("k", key), ("v", value)))
        scores = m.add("qk_matmul", AttentionScores(pattern), query, key)
        scores = m.add("bias_add", PairBias(pattern), scores, *biases)
        shares = m.add("softmax", Softmax(pattern), scores)
        return self.at.out(m, m.add("sv_matmul", AttentionValues(pattern), shares, value))

    def _means(self, m: Maker, x: str, block: Expr) -> str:
        turned = m.add("means_turn", Transpose((0, 2, 1)), x)
        pooled = m.add("means", AdaptivePool((floor(q / block),)), turned)
        pooled = m.add("means_back", Transpose((0, 2, 1)), pooled)
        return m.norm("means_norm", pooled, self.at.d, Norm())

    def _joined(self, m: Maker, name: str, own: str, means: str) -> str:
        op = Linear(split=(self.at.heads, self.at.head_dim))
        side = m.add(f"{name}_side_proj", op, means, f"{name}_proj.weight")
        return m.add(f"{name}_join", Join(1), own, side)


@dataclass(frozen=True)
class Global:
    """Longformer's attention: what is near, and tokens that see all and are seen by all.

    Those have projections of their own, which rest in memory where there are none of them.

    Attributes:
        at: the heads.
        reach: the greatest distance of what is near.
        wide: tokens that see all, the first ones.
    """

    at: Heads
    reach: Expr
    wide: Expr = Integer(0)

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return self.at.shared(style, q)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` to ``(B, q, d)``."""
        query, key, value = self.at.all(m, x)
        near = Band(self.reach, self.wide, asked=False, block=self.reach)
        mixed = attended(m, query, key, value, as_counted(m.style, near))
        if self.wide == 0:
            for name in ("q", "k", "v"):
                m.weight(f"global_{name}_proj.weight", self.at.width, self.at.d)
                m.vector(f"global_{name}_proj.bias", self.at.width)
            return self.at.out(m, mixed)
        first = m.add("global_tokens", Slice(1, Integer(0), self.wide), x)
        rows = {"q": first, "k": x, "v": x}
        query, key, value = (self.at.project(m, name, rows[name], "global_") for name in rows)
        wide = attended(m, query, key, value, FULL, prefix="global_")
        return self.at.out(m, m.add("global_put", Scatter(in_place=True), mixed, wide))
