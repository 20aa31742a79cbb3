"""DeepSeek-V4's attention: a window, and rows that blocks of earlier positions became."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, ceiling

from costgraph.formula.least import least
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import (
    AttentionScores,
    AttentionValues,
    HeadLinear,
    KVAppend,
    Rope,
    Softmax,
    Split,
)
from costgraph.ops.compress import GatedPool
from costgraph.ops.index import Choose, IndexScores
from costgraph.ops.pattern import (
    Dense,
    Pattern,
    Summaries,
    Unfinished,
    Window,
    WindowAndRows,
    counted,
)
from costgraph.ops.views import Beside, Reshape
from costgraph.symbols import B, T, q

ONE = Integer(1)


@dataclass(frozen=True)
class Index:
    """Which rows of blocks a query sees: ``heads`` of ``width`` score them, the ``most`` best."""

    heads: Expr
    width: Expr
    most: Expr


@dataclass(frozen=True)
class PooledAttention:
    """One head of keys, which are the values as well, behind latent queries.

    Queries pass a norm without weights. Keys are the last positions, and a row for every
    ``rate`` of them that is over (:class:`~costgraph.ops.compress.GatedPool`). With an ``index``
    rows overlap, and a query sees the best of them. What is mixed is rotated back and passes
    products in groups, then one of all.

    Attributes:
        d: hidden size.
        heads, head_dim: query heads and their size.
        rank: width of latent queries.
        rotary: rotated width per head.
        window: last positions that a query sees.
        groups, low: groups of the first output product, and the width that each makes.
        rate: positions of a row, or None without rows.
        index: of rows, or None.
    """

    d: Expr
    heads: Expr
    head_dim: Expr
    rank: Expr
    rotary: Expr
    window: Expr
    groups: Expr
    low: Expr
    rate: Expr | None = None
    index: Index | None = None

    @property
    def table(self) -> str:
        """Layers with rows rotate by another base."""
        return "rope_table" if self.rate is None else "pooled_rope_table"

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table."""
        return (Tensor(self.table, (q, self.rotary), style.acts),)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        h, dh = self.heads, self.head_dim
        low = m.norm("q_a_norm", m.linear("q_a_proj", x, self.rank, self.d), self.rank, Norm())
        query = m.linear("q_b_proj", low, h * dh, self.rank, split=(h, dh))
        query = m.norm("q_norm", query, dh, Norm(weight=False))
        query = m.add("q_rope", Rope(), query, self.table)
        key = m.norm("kv_norm", m.linear("kv_proj", x, dh, self.d), dh, Norm())
        key = m.add("kv_row", Split(((ONE, dh),)), key)
        key = m.add("kv_rope", Rope(), key, self.table)
        keeps = Window(self.window)
        keys = m.add("kv_append", KVAppend(keeps), m.cache("kv_cache", ONE, dh, keeps), key)
        pattern: Pattern = keeps
        chosen: tuple[str, ...] = ()
        if self.rate is not None:
            rows = self._rows(m, "pool", x, dh)
            keys = m.add("keys_beside", Beside(1), keys, rows)
            whole = m.style.mask == "compute"
            most = None if self.index is None or whole else self.index.most
            if self.index is not None:
                best = self._chosen(m, x, low, self.index)
                chosen = () if most is None else (best,)
            pattern = WindowAndRows(keeps, Summaries(self.rate), most)
        pattern = counted(m.style.mask, pattern)
        scores = m.add("qk_matmul", AttentionScores(pattern), query, keys, *chosen)
        shares = m.add("softmax", Softmax(pattern), scores, m.vector("sinks.weight", h))
        mixed = m.add("sv_matmul", AttentionValues(pattern), shares, keys, *chosen)
        mixed = m.add("out_rope", Rope(), mixed, self.table)
        wide = h * dh / self.groups
        mixed = m.add("out_groups", Reshape((B, q, self.groups, wide)), mixed)
        stack = m.weight("o_a_proj.weight", self.groups, self.low, wide)
        mixed = m.add("o_a_proj", HeadLinear(), mixed, stack)
        return m.linear("o_b_proj", mixed, self.d, self.groups * self.low, contract=2)

    def _rows(self, m: Maker, name: str, x: str, width: Expr) -> str:
        """Adds rows of blocks: projections, what is not in a block yet, the rows."""
        assert self.rate is not None
        parts = 1 if self.index is None else 2
        of, wide = Summaries(self.rate), parts * width
        rest = Unfinished(of)
        made = []
        for part in ("kv", "gate"):
            row = m.linear(f"{name}_{part}_proj", x, wide, self.d, split=(ONE, wide))
            waiting = m.cache(f"{name}_{part}_open", ONE, wide, rest)
            made.append(m.add(f"{name}_{part}_append", KVAppend(rest), waiting, row))
        shape = (B, of.rows(T - q), ONE, width)
        cache = m.source(Tensor(f"{name}_cache", shape, m.style.kv, Role.KV))
        before = [
            m.state(f"{name}_{part}_before", B, self.rate, width, dtype=m.style.kv)
            for part in ("kv", "gate")[: 2 * parts - 2]
        ]
        weights = (
            m.vector(f"{name}_places.weight", self.rate, wide),
            m.vector(f"{name}_norm.weight", width),
        )
        op = GatedPool(of, self.rotary, parts)
        return m.add_many(name, op, cache, *before, *made, *weights)[0]

    def _chosen(self, m: Maker, x: str, low: str, index: Index) -> str:
        """Adds the index: it scores rows of its own, made like the others."""
        assert self.rate is not None
        rows = self._rows(m, "index_pool", x, index.width)
        query = m.linear(
            "index_q_proj", low, index.heads * index.width, self.rank,
            split=(index.heads, index.width),
        )  # fmt: skip
        query = m.add("index_q_rope", Rope(), query, self.table)
        weights = m.linear("index_weights_proj", x, index.heads, self.d)
        of = Summaries(self.rate)
        pattern: Pattern = Dense(of) if m.style.mask == "compute" else of
        scores = m.add("index_scores", IndexScores(pattern), query, rows, weights)
        # ⌊Min(T, k·m)/m⌋, in a form that sums.
        found = ceiling((least(T, index.most * self.rate) + 1) / self.rate) - 1
        return m.add("index_choose", Choose(index.most, pattern, found), scores)
