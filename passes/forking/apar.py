"""Generation trees: paragraphs and list items that are written at the same time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from costgraph.hardware.systems import System
from costgraph.ir.program import Program
from costgraph.passes.forking.branches import SAID, prefix_option, steps_of
from costgraph.passes.forking.growing import branching, whole_pieces
from costgraph.passes.forking.profile import read_tree
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option


@dataclass(frozen=True)
class Apar(Pass):
    """The answer is a tree of text whose branches are decoded together.

    Lengths are shares of the ``N`` tokens of the answer. A branch takes a step whenever
    all do; the rows of branches that have ended leave the cache.
    """

    name: ClassVar[str] = "apar"
    title: ClassVar[str] = "write independent parts of the answer at the same time, as a tree"
    formula: ClassVar[str] = (
        "latency = t_prefill + Σ over depths of t_decode(live branches): as many steps as the "
        "longest path has tokens"
    )
    source: ClassVar[str] = "Liu et al., APAR, arXiv 2401.06761"
    assumptions: ClassVar[tuple[str, ...]] = (
        "the answer has the lengths that the tree states; caches of branches that ended are freed",
    )
    stage: ClassVar[Stage] = Stage.FORKING
    inherited: ClassVar[bool] = False

    tree: str = option(
        "text", "1", "tokens of each piece and what goes on from its end, as shares of N: "
        "'100(200,300(50,50))'",
    )  # fmt: skip
    prefix: str = prefix_option()

    def run(self, program: Program, system: System) -> Outcome:
        tree = read_tree(self.tree).shares
        steps = steps_of(program, self.name)
        if not tree.children:
            return Outcome(program, (), (Miss(self.name, "tree", "the tree has one branch"),))
        made = branching(steps, tree, self.prefix)
        phases = (*(p for p in program.phases if p not in steps), *made)
        limits = (*program.limits, *whole_pieces(tree, self.name))
        result = replace(program, phases=phases, limits=limits)
        return Outcome(result.assuming(SAID[self.prefix]), tuple(p.name for p in made))
