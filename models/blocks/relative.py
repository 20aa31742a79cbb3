"""Attention whose scores have a term for distances, and a memory of states (Transformer-XL)."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Role, Tensor
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.style import Maker, Style
from costgraph.ops import Add, AttentionScores, AttentionValues, KVAppend, Linear, Softmax
from costgraph.ops.bias import ScoreBias
from costgraph.ops.pattern import CAUSAL, FULL, Pattern, Window, counted
from costgraph.ops.relative import RelativeScores
from costgraph.ops.views import Reshape
from costgraph.symbols import B, T, q

ONE = Integer(1)
#: Segments that a pair of positions can be in: the same one, or two.
KINDS = Integer(2)


def distances(count: Expr, d: Expr, style: Style, name: str = "distances") -> Tensor:
    """The table of ``count`` distances that layers share: ``(count, d)``."""
    return Tensor(name, (count, d), style.acts)


def apart(
    m: Maker, query: str, keys: Expr, table: str, pattern: Pattern, kinds: bool = False
) -> tuple[str, tuple[str, ...]]:
    """Adds a term for distances: (queries of the products with keys, what is put on scores).

    Scores are ``(q + u)·k + (q + v)·r``, where ``r`` is the row of a table of distances that
    all layers share, behind a projection that each has of its own (arXiv 1901.02860).

    Args:
        m: the builder.
        query: queries ``(B, q, H, dh)``.
        keys: how many keys a query has.
        table: the table ``(n, d)``; its projection is made anew in each step.
        pattern: what each position sees.
        kinds: a third term says whether both positions are of one segment.
    """
    heads, dh = m.shape(query)[2:]
    width = m.shape(table)[-1]
    content = m.add("q_content", Add(), query, m.vector("content_bias.weight", heads, dh))
    far = m.add("q_distance", Add(), query, m.vector("distance_bias.weight", heads, dh))
    rows = m.linear("r_proj", table, heads * dh, width, split=(heads, dh))
    # Code that shifts products to their pairs multiplies queries with all distances.
    whole = not pattern.causal and m.style.mask == "compute"
    found = [m.add("distance_matmul", RelativeScores(keys, pattern, whole), far, rows)]
    if kinds:
        kind = m.add("q_kind", Add(), query, m.vector("kind_bias.weight", heads, dh))
        table = m.vector("kinds.weight", KINDS, heads, dh)
        found.append(m.add("kind_matmul", RelativeScores(keys, pattern, whole=True), kind, table))
    return content, tuple(found)


def attended_apart(
    m: Maker,
    query: str,
    key: str,
    value: str,
    table: str,
    pattern: Pattern = FULL,
    kinds: bool = False,
) -> str:
    """Adds scores with a term for distances, softmax and weighted values."""
    content, biases = apart(m, query, m.shape(key)[1], table, pattern, kinds)
    scores = m.add("qk_matmul", AttentionScores(pattern), content, key)
    scores = m.add("distance_add", ScoreBias(pattern), scores, *biases)
    shares = m.add("softmax", Softmax(pattern), scores)
    return m.add("sv_matmul", AttentionValues(pattern), shares, value)


@dataclass(frozen=True)
class Apart:
    """Self-attention in both directions with a term for distances, as many before as behind.

    Weights that tell segments apart rest in memory: a text is one segment (XLNet).

    Attributes:
        at: the heads.
        memory: positions in front whose states are kept, all of them there.
    """

    at: Heads
    memory: Expr = Integer(0)

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The table of distances, from ``q`` and those of the memory to ``-q``."""
        return (distances(2 * q + self.memory, self.at.d, style),)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` to ``(B, q, d)``."""
        heads, dh = self.at.heads, self.at.head_dim
        m.vector("kind_bias.weight", heads, dh)
        m.vector("kinds.weight", KINDS, heads, dh)
        if self.memory == 0:
            return self.at.out(m, attended_apart(m, *self.at.all(m, x), "distances"))
        shape = (B, self.memory, ONE, self.at.d)
        cache = m.source(Tensor("state_cache", shape, m.style.kv, Role.KV))
        query = self.at.project(m, "q", x)
        key, value = projected(m, self.at, x, cache, Window(self.memory))
        return self.at.out(m, attended_apart(m, query, key, value, "distances"))


def projected(m: Maker, at: Heads, x: str, cache: str, keeps: Pattern) -> tuple[str, str]:
    """Adds keys and values of all states: those in a cache, and the new ones ``x (B, q, d)``."""
    new = m.add("states", Reshape((B, q, ONE, at.d)), x)
    states = m.add("state_append", KVAppend(keeps), cache, new)
    width = at.heads * at.head_dim
    op = Linear(contract=2, split=(at.heads, at.head_dim))
    key, value = (
        m.add(f"{n}_proj", op, states, m.weight(f"{n}_proj.weight", width, at.d)) for n in "kv"
    )
    return key, value


@dataclass(frozen=True)
class Remembering:
    """Attention to what was kept of earlier positions: their states, of the layer's input.

    Keys and values are projected from all states in sight anew in each step, as the published
    code does (Transformer-XL): the cache is ``d`` wide, and less is kept than both would be.
    """

    at: Heads
    pattern: Pattern = CAUSAL

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The table of distances, one for each position in sight."""
        return (distances(self.pattern.seen(q, T), self.at.d, style),)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` to ``(B, q, d)``."""
        cache = m.cache("state_cache", ONE, self.at.d, self.pattern)
        query = self.at.project(m, "q", x)
        key, value = projected(m, self.at, x, cache, self.pattern)
        pattern = counted(m.style.mask, self.pattern)
        mixed = attended_apart(m, query, key, value, "distances", pattern)
        return self.at.out(m, mixed)
