"""Segments with what was kept of those before (Transformer-XL, Segatron)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.hardware.systems import System
from costgraph.ir.program import Program
from costgraph.ops.pattern import Segments
from costgraph.passes.context.seeing import changed, keeping, told
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option


@dataclass(frozen=True)
class Recur(Pass):
    """A position sees its own segment up to itself, and whole segments in front of it.

    What was computed of those is kept and not computed again: the states of a layer, as the
    keys and values that they become. With ``memory=0`` segments do not see each other.
    """

    name: ClassVar[str] = "recur"
    title: ClassVar[str] = "read in segments, with whole ones in front as a memory"
    formula: ClassVar[str] = (
        "position p sees p - segment·max(ceil(p/segment) - 1 - memory, 0); cache = "
        "Min(T, segment·(memory + 1)) rows"
    )
    source: ClassVar[str] = (
        "Dai et al., Transformer-XL, arXiv 1901.02860; Bai et al., Segatron, arXiv 2004.14996"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "what leaves the memory is lost: what the model answers changes, and no quality is counted",
        "positions are those that the model has; a term of its own for distances (Transformer-XL) "
        "is not added",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT

    segment: Expr = option("integer", Integer(512), "positions of a segment", minimum=1)
    memory: Expr = option("integer", Integer(1), "segments in front that are seen", minimum=0)

    def run(self, program: Program, system: System) -> Outcome:
        pattern = Segments(self.segment, self.memory)
        made = changed(program, self.name, lambda graph: keeping(graph, pattern))
        return told(self.name, program, *made)
