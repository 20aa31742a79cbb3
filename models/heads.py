"""Configurations of draft heads: told from models, and read against their target.

Files of heads name a model family (``"model_type": "llama"``) whose graph they are not:
read as a plain model of one layer, everything about them would be wrong. They are refused
as models of their own, and read here for a target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.ahead import EMBEDDING, PROJECTION, Ahead, HeadLayer
from costgraph.models.blocks import Attention, FeedForward, Style
from costgraph.models.fields import Fields
from costgraph.ops import Linear
from costgraph.ops.fused import operations

#: Kinds of heads that are read.
EAGLE, EAGLE3 = "eagle", "eagle3"
#: Rows of the vocabulary that published EAGLE-3 heads draft from.
ROWS = 32_000
#: Kinds of heads that are known and not read, by a key that only their files have.
OTHERS: Mapping[str, str] = {
    "medusa_num_heads": "Medusa heads: draft=heads",
    "speculators_model_type": "a head in the format of speculators",
    "speculators_config": "a head in the format of speculators",
    "dflash_config": "a DFlash head",
}


def kind_of_head(config: Mapping[str, Any]) -> str | None:
    """What kind of draft head a configuration is of; None for a model."""
    for key, what in OTHERS.items():
        if config.get(key) is not None:
            return what
    listed = config.get("architectures")
    names = [n for n in listed if isinstance(n, str)] if isinstance(listed, list) else []
    lower = [n.lower() for n in names]
    if any("eagle3" in n for n in lower) or config.get("draft_vocab_size") is not None:
        return EAGLE3
    if any("eagle" in n for n in lower):
        return EAGLE
    for name in names:
        if name.endswith(("NextN", "MTP", "MTPModel")):
            return "a module for multi-token prediction: draft=mtp of its model"
    if config.get("model_type") == "mlp_speculator":
        return "an MLP speculator"
    return None


def refuse_heads(name: str, config: Mapping[str, Any]) -> None:
    """Refuse to read a draft head as a model.

    Raises:
        ModelError: it is one; says how it is used.
    """
    kind = kind_of_head(config)
    if kind in (EAGLE, EAGLE3):
        raise ModelError(
            f"{name}: a draft head ({kind.upper()}), no model of its own: name it as the draft "
            "of its target, speculative{draft=…}"
        )
    if kind is not None:
        raise ModelError(f"{name}: {kind}, no model of its own")


@dataclass(frozen=True)
class Target:
    """What a head needs to know of the model that it drafts for.

    Attributes:
        name: of the model.
        embedding: its table of embeddings.
        projection: its weight that makes logits; the table itself where they are tied.
        style: how it is counted and stored.
    """

    name: str
    embedding: Tensor
    projection: Tensor
    style: Style

    @property
    def tied(self) -> bool:
        """True where logits come from the table of embeddings."""
        return self.projection == self.embedding


def target_of(name: str, graph: Graph) -> Target:
    """What a head needs to know of the model with this step graph.

    Raises:
        ModelError: it has no embedding table or projection of the usual names.
    """
    found = {t.name: t for t in graph.sources if t.role is Role.WEIGHT}
    table = found.get(EMBEDDING)
    if table is None:
        raise ModelError(f"{name} has no table of embeddings that a head could read")
    projection = found.get(PROJECTION, table)
    acts = next((n.outputs[0].dtype for n in graph.nodes if n.op.kind == "embedding"), table.dtype)
    caches = (t for _, given in operations(graph) for t in given if t.role is Role.KV)
    kv = next((t.dtype for t in caches), acts)
    masks = (getattr(op, "mask", None) for op, _ in operations(graph))
    mask = next((m for m in masks if m in ("skip", "compute")), "skip")
    assert isinstance(mask, str)
    return Target(name, table, projection, Style(table.dtype, acts, kv, mask))


def head_of(config: Mapping[str, Any], name: str, kind: str, target: Target) -> Program:
    """The draft head of a configuration, for its target.

    EAGLE (arXiv 2401.15077): one or more layers as in Llama, without the first norm, behind
    a projection of ``2d`` to ``d``; logits by the target's projection, without a norm.
    EAGLE-3 (arXiv 2503.01840): see :mod:`costgraph.models.ahead`.

    Raises:
        ModelError: a key is missing or wrong, or the head is for another model.
    """
    # Families import this package's heads to refuse them.
    from costgraph.models.families.llama import FAMILIES

    fields = Fields(name, config)
    if fields.size("num_hidden_layers", default=1) != 1:
        raise ModelError(f"{name}: heads of one layer are read, not of several")
    if fields.values.get("model_type", "llama") != "llama":
        raise ModelError(
            f"{name}: a head whose layer is {clip(fields.values['model_type'])}: only "
            "layers as in Llama are read"
        )
    model: Any = FAMILIES["llama"](fields).model
    layer = model.layer()
    width, vocab = target.embedding.shape[1], target.embedding.shape[0]
    theirs = fields.size("target_hidden_size", default=int(model.d))
    for what, mine, its in (("hidden size", theirs, width), ("vocabulary", model.vocab, vocab)):
        if its.is_Integer and int(its) != int(mine):
            raise ModelError(
                f"{name}: a head for a {what} of {int(mine):,}; {target.name} has {int(its):,}"
            )
    rows = Integer(fields.size("draft_vocab_size", default=int(model.vocab)))
    bias = fields.flag("bias", True)
    return _head(name, kind, layer.mixer, layer.channel, target, rows, bias)


def usual_head(kind: str, target: Target, graph: Graph) -> Program:
    """The head that is published for targets of plain layers: as wide as they are.

    Raises:
        ModelError: the model's last layer has no dimensions of that kind.
    """
    attention, channel = _dimensions(target.name, kind, graph, target.embedding.shape[1])
    vocab = target.embedding.shape[0]
    rows = Integer(min(ROWS, int(vocab))) if vocab.is_Integer else Integer(ROWS)
    return _head(f"{target.name}'s {kind} head", kind, attention, channel, target, rows, True)


def _head(
    name: str,
    kind: str,
    attention: Attention,
    channel: FeedForward,
    target: Target,
    rows: Expr,
    bias: bool,
) -> Program:
    wide = kind == EAGLE3
    d, (vocab, width) = attention.d, target.embedding.shape
    if wide:
        attention = replace(attention, reads=2 * d)
    head = Ahead(
        d=d,
        vocab=vocab,
        layer=HeadLayer(attention, channel, wide),
        width=width,
        tied=target.tied,
        states=3 if wide else 1,
        norms=False,
        bias=bias and not wide,
        norm=HeadLayer.norm if wide else None,
        wide=wide,
        rows=rows if wide else None,
    )
    return head.program(name, target.style)


def _dimensions(name: str, kind: str, graph: Graph, d: Expr) -> tuple[Attention, FeedForward]:
    """The blocks of a layer as in Llama with the dimensions of the model's last layer."""
    scores: tuple[Tensor, ...] = ()
    down: Tensor | None = None
    plain = True
    for op, operands in operations(graph):
        if op.kind == "qk-matmul":
            scores = tuple(operands)
        elif isinstance(op, Linear) and op.contract == 1:
            weight = operands[1]
            down = weight if weight.shape[0] == d and weight.name != PROJECTION else down
        plain = (
            plain and op.kind != "expert-linear" and all(t.role is not Role.STATE for t in operands)
        )
    if not plain or not scores or down is None:
        raise ModelError(
            f"{name}: heads of models whose layers are not plain ones have dimensions of their "
            f"own: name the head's config.json, draft={kind}:PATH"
        )
    query, keys = scores[:2]
    heads, dh = query.shape[2:]
    attention = Attention(d, heads, keys.shape[2], dh, rotary=dh)
    return attention, FeedForward(d, down.shape[1])
