"""Draft heads: small graphs that guess tokens ahead from a model's hidden states.

A head reads the embedding of the last token and hidden states of its target at the same
position, runs a layer with a cache of its own, and makes logits. DeepSeek-V3's module for
multi-token prediction (arXiv 2412.19437, section 2.2) and EAGLE (arXiv 2401.15077) project
both side by side from ``2d`` to ``d``; EAGLE-3 (arXiv 2503.01840) fuses three hidden states
of the target and lets its attention read both side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Add as Sum
from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program, autoregressive
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Attention, FeedForward, Maker, Norm, Style
from costgraph.models.blocks.stack import Repeatable
from costgraph.ops import Add, Concat, Embedding, Linear, Sample, SelectLast
from costgraph.symbols import B, q

ONE, RMS = Integer(1), Norm()
#: Names of the target's weights that a head reads: they are in memory once.
EMBEDDING, PROJECTION = "embed.weight", "lm_head.weight"
#: The region that fuses the target's hidden states. Only the first step of a round runs it:
#: later ones read the head's own hidden state.
FUSING = "fuse_states"


@dataclass(frozen=True)
class HeadLayer:
    """The layer of an EAGLE head: as in Llama, but for what the attention reads.

    Attributes:
        attention, channel: the blocks.
        wide: the attention reads embedding and hidden state side by side, each normalised
            (EAGLE-3); without it the hidden state as it is (EAGLE).
    """

    attention: Attention
    channel: FeedForward
    wide: bool = False
    norm: Norm = RMS

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table, and the embeddings where the attention reads them."""
        shared = self.attention.operands(style)
        if not self.wide:
            return shared
        return (Tensor("embeddings", (B, q, self.attention.d), style.acts), *shared)

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state and shared operands in, hidden state out."""
        d = self.attention.d
        m = Maker("layer", style)
        hidden = m.source(Tensor("hidden", (B, q, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        x = hidden
        if self.wide:
            token = m.norm("token_norm", "embeddings", d, self.norm)
            x = m.add("beside", Concat(), token, m.norm("state_norm", hidden, d, self.norm))
        x = m.add("attn_add", Add(), self.attention.add(m, x), hidden)
        fed = self.channel.add(m, m.norm("mlp_norm", x, d, self.norm))
        return m.build(m.add("mlp_add", Add(), fed, x))


@dataclass(frozen=True)
class Ahead:
    """A head that drafts one token a step, over the vocabulary of its target.

    Attributes:
        d: hidden size of the head.
        vocab: rows of the target's embedding table, which the head reads.
        layer: what it runs.
        width: hidden size of the target.
        tied: logits come from the embedding table.
        states: hidden states of the target that it reads, side by side.
        norms: embedding and hidden state are normalised before they are joined.
        bias: of the projection that joins or fuses.
        norm: in front of the logits, or None.
        wide: the layer takes the embeddings beside the hidden state.
        rows: tokens that the head can draft, with a projection of its own; None for the
            target's projection.
        count: modules of this kind that the target's file holds.
    """

    d: Expr
    vocab: Expr
    layer: Repeatable
    width: Expr
    tied: bool = False
    states: int = 1
    norms: bool = True
    bias: bool = False
    norm: Norm | None = RMS
    wide: bool = False
    rows: Expr | None = None
    count: int = 1

    @property
    def borrowed(self) -> tuple[str, ...]:
        """Weights of the target that the head reads."""
        return (EMBEDDING,) if self.tied or self.rows is not None else (EMBEDDING, PROJECTION)

    def graph(self, name: str, style: Style) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``."""
        m = Maker(name, style)
        ids = m.source(Tensor("ids", (B, q), INT64))
        table = m.weight(EMBEDDING, self.vocab, self.width)
        token = m.add("embed", Embedding(result=style.acts), ids, table)
        states = m.source(Tensor("target_states", (B, q, self.states * self.width), style.acts))
        given = {"embeddings": token}
        hidden = self._fused(m, states) if self.wide else self._joined(m, token, states)
        operands = [
            given[t.name] if t.name in given else m.source(t) for t in self.layer.operands(style)
        ]
        hidden = m.add("layer", Repeat(self.layer.graph(style), ONE), hidden, *operands)
        if self.norm is not None:
            hidden = m.norm("final_norm", hidden, self.d, self.norm)
        last = m.add("last_position", SelectLast(ONE if style.logits == "last" else q), hidden)
        if self.rows is not None:
            logits = m.linear("head", last, self.rows, self.d)
        elif self.tied:
            logits = m.add("lm_head", Linear(), last, table)
        else:
            logits = m.linear("lm_head", last, self.vocab, self.d)
        return m.build(m.add("sample", Sample(), logits))

    def _joined(self, m: Maker, token: str, states: str) -> str:
        if self.norms:
            token = m.norm("token_norm", token, self.width, RMS)
            states = m.norm("state_norm", states, self.states * self.width, RMS)
        both = m.add("beside", Concat(), token, states)
        return m.linear("join", both, self.d, (1 + self.states) * self.width, self.bias)

    def _fused(self, m: Maker, states: str) -> str:
        body = Maker(FUSING, m.style)
        wide = self.states * self.width
        x = body.source(Tensor("states", (B, q, wide), m.style.acts))
        made = body.build(body.linear("fuse", x, self.d, wide, self.bias))
        return m.add(FUSING, Repeat(made, ONE, 0, rounds="other"), states)

    def program(self, name: str, style: Style, forms: bool = False) -> Program:
        """The head as a program that drafts: it reads the prompt, too.

        ``forms``: latent attention takes its form by phase, as in the target.
        """
        later = self.graph(name, replace(style, mla="absorbed")) if forms else None
        made = autoregressive(name, self.graph(name, style), decode_graph=later)
        return replace(made, borrowed=self.borrowed)


def own_parameters(head: Program) -> Expr:
    """Parameters of a head, without those that it borrows of its target."""
    counted = (t.numel * n for t, n in head.graph.weights() if t.name not in head.borrowed)
    return Sum(*counted)
