"""Slots of a memory that segments read, and write when they are over (Memformer)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Phase, Program, Resident
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import CrossCache, Heads
from costgraph.models.blocks.stack import Segment, run
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Add, AttentionScores, KVAppend, LayerNorm, RMSNorm, SelectLast
from costgraph.ops.arrays import Join
from costgraph.ops.pattern import FULL, Chunks, Dense, Pattern, Slots
from costgraph.ops.views import Reshape
from costgraph.passes.context.adding import Added, projected_from, renamed
from costgraph.passes.context.memory_tokens import in_segments, whole_segments
from costgraph.passes.context.seeing import Seen, changed, keeping, prompt_and_answer, told
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import B, S, T, q

ZERO, ONE = Integer(0), Integer(1)
#: What steps keep of a segment for the memory, and the memory itself.
STATES, MEMORY = "segment_states", "slots"


@dataclass(frozen=True)
class MemorySlots(Pass):
    """A text is read in segments, which see themselves and a memory of ``slots`` rows.

    Behind its self-attention each layer attends all slots, whose keys and values it has made
    once. When a segment is over, every slot attends itself and the last hidden states of the
    segment, and becomes what it found, moved by a learned row and normalised; then all layers
    make keys and values of it anew.
    """

    name: ClassVar[str] = "memory-slots"
    title: ClassVar[str] = "read in segments, with slots of memory that are read and written"
    formula: ClassVar[str] = (
        "a token sees its segment so far, and slots rows besides; for each segment "
        "slots·(segment + 1) pairs that write, and keys and values of slots rows in every layer; "
        "cache = (segment + slots)·L rows + segment + slots hidden states"
    )
    source: ClassVar[str] = (
        "Wu et al., Memformer, arXiv 2010.06891 (memory reading and writing, biased memory "
        "normalisation); put into a decoder"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "what slots do not hold is lost: a model has to be trained so, and no quality is counted",
        "a prompt is whole segments, the last of which is written in front of the first token; "
        "segments of an answer end once in so many of its tokens",
        "slots are read by heads like the model's own, behind a norm like that in front of them; "
        "they are written by one such attention for all layers",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT
    once: ClassVar[bool] = True

    segment: Expr = option("integer", Integer(512), "tokens of a segment", minimum=1)
    slots: Expr = option("integer", Integer(128), "rows of memory", minimum=1)

    def run(self, program: Program, system: System) -> Outcome:
        prompt_and_answer(self.name, program)
        near, seen = changed(program, self.name, self._reading)
        if seen.misses or not seen.hits:
            return told(self.name, program, program, Seen(misses=seen.misses))
        prompt, answer = (p.rewritten(self._kept) for p in near.phases)
        writing = self._writing(answer.graph)
        weights = Resident(writing, part=True)
        slots = Resident(self._memory(writing), caches=True, part=True)

        def beside(phase: Phase) -> Phase:
            return replace(phase, resident=(*phase.resident, weights, slots))

        rest, last = map(beside, in_segments(prompt, self.segment, self.segment))
        write = replace(
            answer, name="write", graph=writing, bindings=((q, ONE), (T, ONE)), tokens=ZERO,
            weight=1 / self.segment, reach=self.segment,
            resident=(*answer.resident, Resident(answer.graph, part=True)),
        )  # fmt: skip
        phases = (
            rest,
            replace(write, name="slots", span=None, weight=S / self.segment),
            last,
            # Positions begin anew with each segment: limits are on its own.
            beside(replace(answer, reach=self.segment)),
            write,
        )
        made = replace(
            program,
            phases=phases,
            limits=(*program.limits, whole_segments(self.segment)),
            unserved="segments pass one after another, and write slots of memory between them",
        )
        return told(self.name, program, made, seen)

    def _reading(self, graph: Graph) -> Graph | str:
        """A layer over segments that attends the slots behind its self-attention."""
        (node, *others) = [n for n in graph.nodes if isinstance(n.op, AttentionScores)]
        hidden = graph.inputs[0]
        total = next((n for n in graph.nodes if isinstance(n.op, Add) and hidden.name in n.inputs),
                     None)  # fmt: skip
        if others or len(node.inputs) != 2 or len(hidden.shape) != 3 or total is None:
            return "where its attention is added to what goes through the layers is not found"
        near = keeping(graph, Chunks(self.segment))
        g = Added(near, hidden)
        (_, _, heads, width), kept = (near.tensors[i].shape for i in node.inputs)
        at = Heads(hidden.shape[-1], heads, width, kv_heads=kept[2])
        shape = (B, self.slots, at.keys, width)
        keys, values = (
            g.source(Tensor(f"{MEMORY}_{part}_cache", shape, g.style.kv, Role.KV)) for part in "kv"
        )
        query = at.project(g, "q", self._normed(near, g, node, total.output), f"{MEMORY}_")
        mixed = attended(g, query, keys, values, _counted(graph, FULL), prefix=f"{MEMORY}_")
        read = g.add(f"{MEMORY}_add", Add(), at.out(g, mixed, f"{MEMORY}_"), total.output)
        place = 1 + next(i for i, n in enumerate(near.nodes) if n.name == total.name)
        after = (renamed(n, total.output, read) for n in near.nodes[place:])
        outputs = tuple(read if o == total.output else o for o in near.outputs)
        return replace(
            near,
            sources=(*near.sources, *g.sources),
            nodes=(*near.nodes[:place], *g.nodes, *after),
            outputs=outputs,
        )

    @staticmethod
    def _normed(graph: Graph, g: Added, scores: Node, x: str) -> str:
        """``x`` behind a norm as that in front of the layer's attention, if there is one."""
        found = projected_from(graph, graph.producer.get(scores.inputs[0]))
        norm = None if found is None else graph.producer.get(found.name)
        if norm is None or not isinstance(norm.op, (RMSNorm, LayerNorm)):
            return x
        weights = (graph.tensors[i] for i in norm.inputs[1:])
        named = [
            g.source(replace(t, name=f"{MEMORY}_norm.{i}")) for i, t in enumerate(weights, start=1)
        ]
        return g.add(f"{MEMORY}_norm", norm.op, x, *named)

    def _kept(self, graph: Graph) -> Graph:
        """A step that keeps the last hidden states of its segment for the memory."""
        last = next((n for n in graph.nodes if isinstance(n.op, SelectLast)), None)
        if last is None:
            raise PipelineError(f"{self.name}: where {graph.name} ends its layers is not known")
        hidden, keeps = graph.tensors[last.inputs[0]], Chunks(self.segment)
        d, kind = hidden.shape[-1], hidden.dtype
        cache = Tensor(STATES, (B, keeps.seen(q, T) - q, ONE, d), kind, Role.KV)
        m = Maker(graph.name, Style(acts=kind, kv=kind))
        x = m.add(f"{STATES}_rows", Reshape((B, q, ONE, d)), m.source(hidden))
        kept = m.add(f"{STATES}_append", KVAppend(keeps), m.source(cache), x)
        body, place = m.build(kept), graph.nodes.index(last)
        return rebuild(
            replace(
                graph,
                sources=(*graph.sources, cache),
                nodes=(*graph.nodes[:place], *body.nodes, *graph.nodes[place:]),
                outputs=(*graph.outputs, kept),
            )
        )

    def _writing(self, step: Graph) -> Graph:
        """What becomes of the slots behind a segment."""
        states = step.tensors[STATES]
        d, count = states.shape[-1], self.slots
        layers = tuple(_readers(step))
        body, _ = layers[0]
        query, keys = next(
            (body.tensors[i] for i in n.inputs)
            for n in body.nodes
            if n.name == f"{MEMORY}_qk_matmul"
        )
        weight = next(t for t in body.sources if t.name == f"{MEMORY}_q_proj.weight")
        style = Style(weights=weight.dtype, acts=states.dtype, kv=keys.dtype)
        m = Maker(f"{step.name} slots", style)
        old = m.state(MEMORY, B, count, d, dtype=states.dtype)
        rows = m.source(replace(states, shape=(B, self.segment, ONE, d)))
        rows = m.add("states", Reshape((B, self.segment, d)), rows)
        at = Heads(d, query.shape[2], query.shape[3], kv_heads=keys.shape[2])
        both = m.add("slots_and_states", Join(1), old, rows)
        found = attended(
            m, at.project(m, "q", old, "write_"), at.project(m, "k", both, "write_"),
            at.project(m, "v", both, "write_"), _counted(body, Slots(count)), prefix="write_",
        )  # fmt: skip
        x = at.out(m, found, "write_")
        x = m.add("write_bias", Add(), x, m.vector("slots_bias", count, d))
        x = m.norm("write_norm", x, d, Norm(weight=False))
        for index, (inner, times) in enumerate(layers, start=1):
            made = inner.tensors[f"{MEMORY}_k_cache"]
            cross = replace(at, kv_heads=made.shape[2], head_dim=made.shape[3])
            name = "read" if len(layers) == 1 else f"read_{index}"
            x = run(m, (Segment(name, CrossCache(cross, d, count), times),), x)
        return m.build(x)

    @staticmethod
    def _memory(writing: Graph) -> Graph:
        """The slots as they lie in memory between segments."""
        slots = next(t for t in writing.sources if t.name == MEMORY)
        return Graph(f"{writing.name} at rest", (slots,), (), ())


def _counted(layer: Graph, pattern: Pattern) -> Pattern:
    """A pattern, every pair computed where the layer's own are."""
    own = (n.op.pattern for n in layer.nodes if isinstance(n.op, AttentionScores))
    return Dense(pattern) if any(isinstance(p, Dense) for p in own) else pattern


def _readers(graph: Graph, times: Expr = ONE) -> Iterator[tuple[Graph, Expr]]:
    """Layers that read the slots, and how many of each there are."""
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            body, many = node.op.body, times * node.op.count
            if any(t.name == f"{MEMORY}_k_cache" for t in body.sources):
                yield body, many
            yield from _readers(body, many)
