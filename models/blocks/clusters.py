"""A vocabulary in clusters, frequent tokens first, each with an embedding width of its own."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, Symbol

from costgraph.errors import InputError
from costgraph.formula.terms import Limit
from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.stack import Segment, run
from costgraph.models.blocks.style import Maker, Style
from costgraph.ops import Embedding, Linear, Sample, Scale, SelectLast
from costgraph.ops.maps import Map, SoftmaxOver
from costgraph.ops.views import Beside, Slice, Transpose
from costgraph.symbols import B, q

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class Clusters:
    """Adaptive embeddings and an adaptive softmax (Baevski and Auli, arXiv 1809.10853).

    All logits are made: those of the first cluster with one for each other cluster, and those
    of the others, each a log-softmax of its own.

    Attributes:
        d: hidden size.
        widths: of the embeddings of each cluster; ``sizes``: its tokens.
        projected: embeddings are projected to the hidden size, each cluster's by its own
            matrix; ``alike``: one matrix projects all.
        shared: for each cluster, whether its projection to logits is that of its embeddings.
        tied: logits use the embedding tables.
    """

    d: Expr
    widths: tuple[Expr, ...]
    sizes: tuple[Expr, ...]
    shared: tuple[bool, ...]
    projected: bool = True
    alike: bool = False
    tied: bool = True

    def embed(self, m: Maker) -> tuple[str, list[str], list[str]]:
        """Adds the embeddings of tokens of the first cluster: (hidden state, tables, matrices)."""
        ids = m.source(Tensor("ids", (B, q), INT64))
        each = list(enumerate(zip(self.sizes, self.widths, strict=True)))
        tables = [m.weight(f"embed_{i}.weight", size, width) for i, (size, width) in each]
        hidden = m.add("embed", Embedding(result=m.style.acts), ids, tables[0])
        if not self.projected:
            return m.add("embed_scale", Scale(), hidden), tables, []
        made = self.widths[:1] if self.alike else self.widths
        matrices = [m.weight(f"embed_proj_{i}.weight", self.d, w) for i, w in enumerate(made)]
        hidden = m.add("embed_proj", Linear(), hidden, matrices[0])
        if self.alike:
            matrices *= len(self.sizes)
        return m.add("embed_scale", Scale(), hidden), tables, matrices

    def close(self, m: Maker, hidden: str, tables: list[str], matrices: list[str]) -> str:
        """Adds the logits of all clusters; returns the sampled tokens."""
        count = q if m.style.logits == "all" else ONE
        hidden = m.add("last_position", SelectLast(count), hidden)
        first = self._logits(m, hidden, 0, tables, matrices)
        others = len(self.sizes) - 1
        if not others:
            return m.add("sample", Sample(), first)
        inner = hidden if not self.projected else "head_0_proj"
        which = m.linear("clusters", inner, Integer(others), self.widths[0], True)
        head = m.add("head", Beside(2), first, which)
        head = m.add("head_softmax", SoftmaxOver(2, log=True), head)
        found = [m.add("head_tokens", Slice(2, ZERO, self.sizes[0]), head)]
        for i in range(1, others + 1):
            tail = self._logits(m, hidden, i, tables, matrices)
            tail = m.add(f"tail_{i}_softmax", SoftmaxOver(2, log=True), tail)
            share = m.add(f"cluster_{i}", Slice(2, self.sizes[0] + i - 1), head)
            found.append(m.add(f"tail_{i}", Map("add"), tail, share))
        return m.add("sample", Sample(), m.add("logits", Beside(2), *found))

    def _logits(
        self, m: Maker, hidden: str, index: int, tables: list[str], matrices: list[str]
    ) -> str:
        """Adds the logits of one cluster."""
        size, width, name = self.sizes[index], self.widths[index], f"head_{index}"
        if self.projected:
            matrix = matrices[index]
            if not self.shared[index]:
                matrix = m.weight(f"{name}_proj.weight", self.d, width)
            turned = m.add(f"{name}_turn", Transpose((1, 0)), matrix)
            hidden = m.add(f"{name}_proj", Linear(), hidden, turned)
        table = tables[index] if self.tied else m.weight(f"{name}.weight", size, width)
        return m.add(name, Linear(bias=True), hidden, table, m.vector(f"{name}.bias", size))


@dataclass(frozen=True)
class ClusteredStack:
    """A decoder-only model whose vocabulary is in clusters."""

    ends: Clusters
    segments: tuple[Segment, ...]

    @property
    def limits(self) -> tuple[Limit, ...]:
        """None: positions are distances."""
        return ()

    def graph(self, name: str, style: Style) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``."""
        m = Maker(name, style)
        hidden, tables, matrices = self.ends.embed(m)
        hidden = run(m, self.segments, hidden)
        return m.build(self.ends.close(m, hidden, tables, matrices))

    def symbolic(self) -> tuple[ClusteredStack, dict[Symbol, Expr]]:
        """Refused: there are no common names for the sizes of clusters.

        Raises:
            InputError: always.
        """
        raise InputError("a vocabulary in clusters keeps no symbolic dimensions")
