"""Beam search: several hypotheses go on together, the likeliest survive each step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.program import Phase, Program
from costgraph.ir.regions import Region
from costgraph.ir.tensor import Role
from costgraph.ops.reorder import Reorder
from costgraph.passes.forking.branches import (
    COPIED,
    SAID,
    Stretch,
    forked,
    prefix_option,
    steps_of,
    whole_span,
)
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.symbols import T, q


@dataclass(frozen=True)
class Beam(Pass):
    """Every request decodes ``width`` hypotheses and keeps the best one."""

    name: ClassVar[str] = "beam"
    title: ClassVar[str] = "decode several hypotheses of one answer together and keep the best"
    formula: ClassVar[str] = "tpot = t_decode(width·B) + reordering of the caches"
    source: ClassVar[str] = "Graves, arXiv 1211.3711; Kwon et al., arXiv 2309.06180 (shared blocks)"
    assumptions: ClassVar[tuple[str, ...]] = (
        "choosing among the scores of all hypotheses is free, as choosing a token is",
    )
    stage: ClassVar[Stage] = Stage.FORKING
    inherited: ClassVar[bool] = False

    width: Expr = option("integer", Integer(4), "hypotheses per sequence", minimum=1)
    prefix: str = prefix_option()
    reorder: str = option(
        "word", "copy", "survivors copy the rows of the hypothesis that they extend, every step, "
        "or point to its blocks",
        choices=("copy", "pointer"),
    )  # fmt: skip

    def run(self, program: Program, system: System) -> Outcome:
        steps = steps_of(program, self.name)
        if self.width == 1:
            return Outcome(program, (), (Miss(self.name, program.name, "one beam is no search"),))
        span = whole_span(steps)
        before = span.lower - 1
        stretch = Stretch(self.width, span.lower, span.upper, before, before)

        def new(phase: Phase) -> Phase:
            made = forked(phase, stretch, self.prefix, answers=False)
            if self.reorder == "pointer":
                return made
            rows = None if self.prefix == COPIED else T - q - before
            return replace(made, graph=reordered(made.graph, rows))

        phases = tuple(new(p) if p in steps else p for p in program.phases)
        made = replace(program, phases=phases).assuming(SAID[self.prefix])
        if self.reorder == "copy":
            what = "" if self.prefix == COPIED else " behind the shared prefix"
            made = made.assuming(
                f"every step copies all cached rows{what} to the beams that go on from them"
            )
        return Outcome(made, tuple(p.name for p in steps))


def reordered(graph: Graph, rows: Expr | None) -> Graph:
    """The graph with a copy of every cache that a step extends, in front of what extends it.

    ``rows`` of a cache are copied per sequence, or all; states that a step takes over as a
    whole are copied whole.
    """
    nodes: list[Node] = []
    changed: dict[str, str] = {}
    grown = {t.name for t in graph.sources if t.role in (Role.KV, Role.STATE)}
    for node in graph.nodes:
        op = node.op
        if isinstance(op, Region):
            inner = op.with_graphs([reordered(g, rows) for g in op.graphs])
            nodes.append(replace(node, op=inner))
            continue
        if any(t.role in (Role.KV, Role.STATE) for t in node.outputs):
            for name in node.inputs:
                if name in grown and name not in changed:
                    cache = graph.tensors[name]
                    copy = Reorder(rows if cache.role is Role.KV else None)
                    (spec,) = copy.infer((cache,))
                    made = spec.named(f"{name}_reordered")
                    origin = Origin(made_by="beam")
                    nodes.append(Node(f"{name}_reorder", copy, (name,), (made,), origin, node.unit))
                    changed[name] = made.name
        inputs = tuple(changed.get(i, i) for i in node.inputs)
        nodes.append(replace(node, inputs=inputs))
    return replace(graph, nodes=tuple(nodes))
