"""Multi-head latent attention: keys and values made from one cached vector per position."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import gated
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import (
    AttentionScores,
    AttentionValues,
    HeadLinear,
    KVAppend,
    QuantLinear,
    Rope,
    Scale,
    Softmax,
    Split,
    SplitScores,
)
from costgraph.ops.pattern import Pattern, counted, sliding
from costgraph.symbols import q

ONE = Integer(1)
TABLE = "rope_table"

#: Names of tensors.
Names = tuple[str, ...]
#: The weight that makes keys of latent vectors, in every form.
KEYS_UP = "k_up.weight"

#: Forms of latent attention: how keys and values come from the latent vectors.
#: All give the same result from the same weights.
FORMS = ("absorbed", "naive", "expanded")


def latent(graph: Graph) -> bool:
    """Whether a graph holds latent attention, in any form."""
    return any(t.name == KEYS_UP for inner in graph.walk() for t in inner.sources)


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    A position caches a latent vector of ``kv_rank`` and a rotary key of
    ``rope_dim`` that all heads share. Three forms:

    * ``absorbed``: the projections that would make keys and values are applied to
      queries and results instead. Scores run over ``kv_rank + rope_dim``, values
      over ``kv_rank``, and the latent vectors are read once for all heads.
    * ``naive``: each step makes keys and values of all ``T`` positions from the
      latent vectors, then attends them over ``nope_dim + rope_dim`` and ``v_dim``.
    * ``expanded``: keys and values are made once and cached for every head.

    Absorbing saves traffic where few positions are processed and costs
    ``(2·kv_rank + rope_dim) / (nope_dim + rope_dim + v_dim)`` times the
    attention work; in a prefill without a cached prefix ``naive`` is cheaper.

    Attributes:
        d, heads: hidden size and heads.
        kv_rank, rope_dim: widths of the latent vector and the rotary key; 0 for none.
        nope_dim, v_dim: content width of keys, and width of values, per head.
        q_rank: width of the queries' latent vector, or None for a full projection.
        bias: of the projections to latent vectors and of the output.
        norm: of the latent vectors.
        rotary: False leaves the widths as they are and rotates nothing.
        scaled: queries and the normalised latent vectors are multiplied by constants.
        query_scale: queries are multiplied by a number per position.
        gate: the result of each head passes the sigmoid of a projection: ``head`` has one
            gate a head, ``each`` one an element, empty none.
        sinks: the softmax has one learned logit per head more.
        key_norm: normalisation of the rotary key, or None.
        low_scaled: both latent vectors, queries' too, are multiplied by constants.
        window: positions that each one sees, itself included, or None for all.
        table: name of the rotary table; another one for another width.
    """

    d: Expr
    heads: Expr
    kv_rank: Expr
    rope_dim: Expr
    nope_dim: Expr
    v_dim: Expr
    q_rank: Expr | None = None
    bias: bool = False
    norm: Norm = Norm()
    rotary: bool = True
    scaled: bool = False
    query_scale: bool = False
    gate: str = ""
    sinks: bool = False
    key_norm: Norm | None = None
    low_scaled: bool = False
    window: Expr | None = None
    table: str = TABLE

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Tensors that every layer shares: the rotary table."""
        if not self.rotary or self.rope_dim == 0:
            return ()
        return (Tensor(self.table, (q, self.rope_dim), style.acts),)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        content, rotary, index = self._queries(m, x)
        latent = m.linear("kv_a_proj", x, self.kv_rank + self.rope_dim, self.d, self.bias)
        keys: list[str] = []
        if self.rope_dim != 0:
            parts = ((self.kv_rank,), (ONE, self.rope_dim))
            latent, *keys = m.add_many("kv_split", Split(parts), latent)
        latent = m.norm("kv_norm", latent, self.kv_rank, self.norm)
        if self.scaled or self.low_scaled:
            latent = m.add("kv_scale", Scale(), latent)
        if self.key_norm is not None:
            keys = [m.norm("k_rope_norm", key, self.rope_dim, self.key_norm) for key in keys]
        if self.rotary:
            rotary = tuple(m.add("q_rope", Rope(), part, self.table) for part in rotary)
            keys = [m.add("k_rope", Rope(), key, self.table) for key in keys]
        turned = tuple(self._appended(m, "rope", key) for key in keys)
        mixed = getattr(self, f"_{m.style.mla}")(m, content, rotary, latent, turned, index)
        mixed = self.gated(m, x, mixed)
        return m.linear("o_proj", mixed, self.d, self.heads * self.v_dim, self.bias, contract=2)

    def _queries(self, m: Maker, x: str) -> tuple[str, Names, Names]:
        """Content and rotary parts of the queries, ``(B, q, H, …)``, and the rows they see."""
        h, width = self.heads, self.nope_dim + self.rope_dim
        split, index = (h, width), Names()
        if self.q_rank is None:
            index = self.chosen(m, x, x)
            packed = m.linear("q_proj", x, h * width, self.d, split=split)
        else:
            low = m.linear("q_a_proj", x, self.q_rank, self.d, self.bias)
            normed = m.norm("q_norm", low, self.q_rank, self.norm)
            if self.low_scaled:
                normed = m.add("q_low_scale", Scale(), normed)
            index = self.chosen(m, x, normed)
            packed = self.widened(m, low, normed)
        packed = self.tempered(m, packed)
        if self.rope_dim == 0:
            return packed, (), index
        content, rotary = m.add_many("q_split", Split(((self.nope_dim,), (self.rope_dim,))), packed)
        return content, (rotary,), index

    def tempered(self, m: Maker, packed: str) -> str:
        """Adds what multiplies queries ``(B, q, H, nope_dim + rope_dim)``, where something does."""
        return m.add("q_scale", Scale(), packed) if self.scaled or self.query_scale else packed

    def widened(self, m: Maker, low: str, normed: str) -> str:
        """Adds queries ``(B, q, H, nope_dim + rope_dim)`` of the latent ones, which are normed."""
        width = self.nope_dim + self.rope_dim
        return m.linear(
            "q_b_proj", normed, self.heads * width, m.shape(normed)[-1], split=(self.heads, width)
        )

    def gated(self, m: Maker, x: str, mixed: str) -> str:
        """Adds the gates of what the heads made, ``(B, q, H, v_dim)``, where there are some."""
        if not self.gate:
            return mixed
        return gated(m, x, mixed, self.d, self.heads, self.v_dim, self.gate)

    @property
    def keeps(self) -> Pattern:
        """The positions that caches keep: those of the window, or all."""
        return sliding(self.window)

    def sees(self, style: Style) -> Pattern:
        """The positions that each one sees: all up to itself, or those of the window."""
        return counted(style.mask, self.keeps)

    def chosen(self, m: Maker, x: str, low: str) -> Names:
        """Adds what chooses the rows to attend, from ``x`` and latent queries; its result."""
        return ()

    def _attend(self, m: Maker, queries: Names, keys: Names, values: str, index: Names) -> str:
        pattern = self.sees(m.style)
        rows = index if pattern.indexed else ()
        product = SplitScores if len(keys) > 1 else AttentionScores
        scores = m.add("qk_matmul", product(pattern), *queries, *keys, *rows)
        sinks = (m.vector("sinks.weight", self.heads),) if self.sinks else ()
        probabilities = m.add("softmax", Softmax(pattern), scores, *sinks)
        return m.add("sv_matmul", AttentionValues(pattern), probabilities, values, *rows)

    def _latents(self, m: Maker, latent: str) -> str:
        """The cache of latent vectors, extended: ``(B, T, 1, kv_rank)``."""
        row = m.add("latent_row", Split(((ONE, self.kv_rank),)), latent)
        return self._appended(m, "latent", row)

    def _appended(self, m: Maker, name: str, row: str) -> str:
        """The cache ``name`` with the new rows ``(B, q, heads, width)`` behind."""
        heads, width = m.shape(row)[2:]
        cache = m.cache(f"{name}_cache", heads, width, self.keeps)
        return m.add(f"{name}_append", KVAppend(self.keeps), cache, row)

    def _absorbed(
        self, m: Maker, content: str, rotary: Names, latent: str, keys: Names, index: Names
    ) -> str:
        h, latents = self.heads, self._latents(m, latent)
        w_k = m.weight(KEYS_UP, h, self.kv_rank, self.nope_dim)
        w_v = m.weight("v_up.weight", h, self.v_dim, self.kv_rank)
        content = m.add("q_absorb", HeadLinear(), content, w_k)
        mixed = self._attend(m, (content, *rotary), (latents, *keys), latents, index)
        return m.add("v_absorb", HeadLinear(), mixed, w_v)

    def _naive(
        self, m: Maker, content: str, rotary: Names, latent: str, keys: Names, index: Names
    ) -> str:
        made, values = self._expand(m, self._latents(m, latent), 2)
        return self._attend(m, (content, *rotary), (made, *keys), values, index)

    def _expanded(
        self, m: Maker, content: str, rotary: Names, latent: str, keys: Names, index: Names
    ) -> str:
        made, values = self._expand(m, latent, 1)
        made, values = self._appended(m, "k", made), self._appended(m, "v", values)
        return self._attend(m, (content, *rotary), (made, *keys), values, index)

    def _expand(self, m: Maker, latent: str, contract: int) -> tuple[str, str]:
        """Keys and values of every head from latent vectors."""
        made = []
        for name, width in (("k", self.nope_dim), ("v", self.v_dim)):
            weight = m.weight(f"{name}_up.weight", self.heads * width, self.kv_rank)
            # A cache stored narrow is converted; what is made of it is not narrow.
            op = QuantLinear(False, contract, (self.heads, width), result=m.style.acts)
            made.append(m.add(f"{name}_up", op, latent, weight))
        return made[0], made[1]
