"""Sliding windows with sinks (StreamingLLM, LM-Infinite)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Program
from costgraph.ops import KVAppend, Rope
from costgraph.ops.pattern import Window
from costgraph.ops.rotary import Turn
from costgraph.passes.context.seeing import changed, keeping, told
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option


@dataclass(frozen=True)
class SlidingWindow(Pass):
    """Every layer keeps its first ``sinks`` and its last ``size`` positions.

    Positions are counted inside the cache: keys are cached as they are projected, and all
    that a step finds are rotated anew in it. ``rotate=false`` leaves keys rotated once, as
    models that were trained with a window do.
    """

    name: ClassVar[str] = "window"
    title: ClassVar[str] = "keep the last tokens and a few first ones, and see no others"
    formula: ClassVar[str] = "keys = Min(T, size + sinks); cache = the same, per sequence"
    source: ClassVar[str] = (
        "Xiao et al., StreamingLLM, arXiv 2309.17453; Han et al., LM-Infinite, arXiv 2308.16137"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "positions beyond the window are lost: what the model answers changes, and no quality "
        "is counted",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT

    size: Expr = option("integer", Integer(2048), "last tokens that stay", minimum=1)
    sinks: Expr = option("integer", Integer(4), "first tokens that stay", minimum=0)
    rotate: bool = option("flag", True, "all keys of the cache are rotated in every step")

    def run(self, program: Program, system: System) -> Outcome:
        pattern = Window(self.size, self.sinks)

        def change(graph: Graph) -> Graph:
            made = keeping(graph, pattern)
            return turned(made) if self.rotate else made

        return told(self.name, program, *changed(program, self.name, change))


def turned(graph: Graph) -> Graph:
    """The layer with keys that are cached as projected, and rotated after they are read."""
    renamed: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = replace(node, inputs=tuple(renamed.get(i, i) for i in node.inputs))
        rope = graph.producer.get(node.inputs[1]) if isinstance(node.op, KVAppend) else None
        if rope is None or not isinstance(rope.op, Rope):
            nodes.append(node)
            continue
        x, table = rope.inputs
        nodes = [n for n in nodes if n.name != rope.name]
        nodes.append(replace(node, inputs=(node.inputs[0], x)))
        turn = Turn(graph.tensors[table].shape[1], graph.tensors[x].dtype, rope.op.told)
        name = f"{node.name}_rope"
        (kept,) = node.outputs
        (spec,) = turn.infer((kept,))
        nodes.append(Node(name, turn, (kept.name,), (spec.named(name),)))
        renamed[kept.name] = name
    return replace(graph, nodes=tuple(nodes))
