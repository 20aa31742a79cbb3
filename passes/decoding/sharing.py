"""What a draft shares with its target, and where the target's weights lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from costgraph.errors import PipelineError, clip, nearest
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Phase, Program, Resident
from costgraph.ir.regions import Region
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.ahead import EMBEDDING, PROJECTION
from costgraph.ops.fused import Fused
from costgraph.passes.decoding.target import stepping

ENCODER, VOCABULARY = "encoder", "vocabulary"
#: What can be shared, as the option says it.
SHARED = (ENCODER, VOCABULARY)
ENCODE = "encode"
#: The region of an encoder's phase that makes what the decoder's cross-attention reads.
CROSS = "cross"


def sharing(draft: Program, target: Program, text: str) -> Program:
    """The draft with parts that are the target's own: ``encoder``, ``vocabulary``, or both.

    A shared encoder (distil-whisper, arXiv 2311.00430) runs once, for the target; the draft
    makes keys and values of its own from what it made. A shared vocabulary is the table of
    embeddings and the projection to logits.

    Raises:
        PipelineError: the draft's part is not like the target's.
    """
    for word in text.split("|"):
        if word == ENCODER:
            draft = _shared_encoder(draft, target)
        elif word == VOCABULARY:
            draft = _shared_vocabulary(draft, target)
        else:
            raise PipelineError(f"share: {clip(word)} is no part{nearest(word, SHARED)}")
    return draft


def _shared_encoder(draft: Program, target: Program) -> Program:
    theirs, mine = (
        next((p for p in program.phases if p.name == ENCODE), None) for program in (target, draft)
    )
    if theirs is None or mine is None:
        raise PipelineError("share=encoder: draft and target do not both decode behind an encoder")
    made, wanted = _states(theirs.graph), _states(mine.graph)
    if made.shape != wanted.shape:
        raise PipelineError(
            f"share=encoder: {draft.name} attends states of {wanted.shape[-1]}, {target.name}'s "
            f"encoder makes {made.shape[-1]}"
        )
    node = mine.graph.node(CROSS)
    given = replace(wanted, role=Role.ACTIVATION)
    others = (mine.graph.tensors[i] for i in node.inputs[1:])
    graph = Graph(f"{draft.name} cross", (given, *others), (node,), mine.graph.outputs)

    def kept(phase: Phase) -> Phase:
        resident = tuple(
            replace(r, graph=graph) if r.graph == mine.graph else r for r in phase.resident
        )
        own = graph if phase is mine else phase.graph
        return replace(phase, graph=own, resident=resident)

    return replace(draft, phases=tuple(map(kept, draft.phases))).assuming(
        "the draft attends what the target's encoder makes"
    )


def _states(graph: Graph) -> Tensor:
    """What the encoder hands on."""
    return graph.tensors[graph.node(CROSS).inputs[0]]


def _shared_vocabulary(draft: Program, target: Program) -> Program:
    theirs, mine = (_tables(stepping(p).graph) for p in (target, draft))
    names = tuple(n for n, t in mine.items() if theirs.get(n) == t)
    if len(names) < len(mine) or not names:
        shown = ", ".join(str(t) for t in mine.values()) or "none"
        raise PipelineError(
            f"share=vocabulary: {draft.name}'s tables ({shown}) are not like those of {target.name}"
            f" ({', '.join(map(str, theirs.values())) or 'none'})"
        )
    return replace(draft, borrowed=names)


def _tables(graph: Graph) -> dict[str, Tensor]:
    return {t.name: t for t in graph.sources if t.name in (EMBEDDING, PROJECTION)}


def less(residents: Iterable[Resident], names: tuple[str, ...]) -> tuple[Resident, ...]:
    """What is in memory, without weights that something else holds already."""
    if not names:
        return tuple(residents)
    return tuple(replace(r, shared=(*r.shared, *names)) for r in residents)


def still_shared(draft: Program, target: Phase) -> tuple[str, ...]:
    """The weights that a draft borrows and that passes left alike in both."""
    theirs, mine = _tables(target.graph), _tables(stepping(draft).graph)
    return tuple(n for n in draft.borrowed if n in mine and theirs.get(n) == mine[n])


def held_by(graph: Graph, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the names that are weights of the graph."""
    own = {t.name for t, _ in graph.weights()}
    return tuple(n for n in names if n in own)


def weights_at(graph: Graph, level: str) -> Graph:
    """The graph with its weights in a farther level of memory: each run reads them over the link.

    Tables of which only some rows are looked up stay.

    Raises:
        PipelineError: weights are kept in farther levels already.
    """
    if any(t.spread is not None for t, _ in graph.weights()):
        raise PipelineError("target-at: offload says where the weights are: give one of the two")

    def placed(inner: Graph) -> Graph:
        looked_up = {n.inputs[1] for n in inner.nodes if n.op.kind == "embedding"}
        sources = tuple(
            replace(t, level=level) if t.role is Role.WEIGHT and t.name not in looked_up else t
            for t in inner.sources
        )
        return replace(inner, sources=sources, nodes=tuple(map(opened, inner.nodes)))

    def opened(node: Node) -> Node:
        op = node.op
        if isinstance(op, Region):
            return replace(node, op=op.with_graphs([placed(g) for g in op.graphs]))
        if isinstance(op, Fused):
            return replace(node, op=replace(op, body=placed(op.body)))
        return node

    return placed(graph)
