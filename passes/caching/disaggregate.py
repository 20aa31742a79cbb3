"""Prompts on one machine, decode steps on another: caches cross a link between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.counting.footprint import kept
from costgraph.errors import PipelineError, clip, nearest
from costgraph.hardware.systems import NETWORK, System
from costgraph.ir.graph import Builder, Graph
from costgraph.ir.program import Program, Resident
from costgraph.ir.tensor import Tensor
from costgraph.ops.transfer import HandOver
from costgraph.passes.caching.prompts import in_layers, lie_in_layers
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option

ZERO = Integer(0)
APART = "prompts and decode steps are on different machines"
#: What layer by layer rests on.
STREAMED = (
    "disaggregate: a layer and the cache that leaves meanwhile begin and end together: that of the "
    "last layer is hidden as well"
)


@dataclass(frozen=True)
class Disaggregate(Pass):
    """A prompt's caches, and states, go to another machine of the same kind, which decodes.

    Without ``overlap`` they go in one piece behind the prompt, else a layer's while the next one
    computes. Time to the first token contains what waits for the transfer: the second token does.
    """

    name: ClassVar[str] = "disaggregate"
    title: ClassVar[str] = "prompts on one machine, decode steps on another"
    formula: ClassVar[str] = (
        "transfer = alpha + caches(S) / BW_link behind the prompt; with overlap a layer is "
        "Max(compute, alpha + its cache / BW_link)"
    )
    source: ClassVar[str] = (
        "Zhong et al., DistServe, arXiv 2401.09670; Patel et al., Splitwise, arXiv 2311.18677 "
        "(layer by layer)"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "disaggregate: what is set aside for a cache is sent, blocks whole; each machine has "
        "as many devices as the model runs on, and only those of one are counted",
    )
    stage: ClassVar[Stage] = Stage.HANDOVER
    once: ClassVar[bool] = True

    link: str = option("word", NETWORK, "the link that the caches cross, as the device names it")
    overlap: bool = option("flag", True, "a layer's cache leaves while the next layer computes")

    def run(self, program: Program, system: System) -> Outcome:
        known = system.device.links
        if self.link not in known:
            raise PipelineError(
                f"disaggregate: link: {system.name} states no link {clip(self.link)}"
                f"{nearest(self.link, known)}"
                + (f" (several nodes have one: 2x{system.name})" if self.link == NETWORK else "")
            )
        prompt = next((p for p in program.phases if p.tokens != 0 and p.span is None), None)
        if prompt is None or not program.decoding:
            raise PipelineError(f"disaggregate: {program.name} has no prompt and decode steps")
        if kept(prompt.graph, _size) == 0:
            reason = "nothing is kept of a prompt"
            return Outcome(program, (), (Miss(self.name, prompt.name, reason),))
        if self.overlap:
            if not lie_in_layers(prompt.graph):
                raise PipelineError(
                    f"{self.name}: {prompt.graph.name} has caches outside of layers, or that "
                    "layers share: give overlap=false"
                )
            graph = in_layers(prompt.graph, self._beside, True, self.name)
            sent = replace(prompt, graph=graph)
            phases = tuple(sent if p is prompt else p for p in program.phases)
            said = STREAMED
        else:
            graph = self._alone(prompt.graph)
            held = (*prompt.resident, Resident(prompt.graph, caches=True))
            moving = replace(prompt, name="transfer", graph=graph, tokens=ZERO, resident=held)
            at = program.phases.index(prompt) + 1
            phases = (*program.phases[:at], moving, *program.phases[at:])
            said = "disaggregate: caches leave when the prompt is done; the second token waits"
        made = replace(program, phases=phases, unserved=APART)
        return Outcome(made.assuming(said), (prompt.name,))

    def _beside(self, body: Graph) -> HandOver | None:
        size = kept(body, _size)
        return HandOver(self.link, size) if size != 0 else None

    def _alone(self, graph: Graph) -> Graph:
        """A graph that sends the caches of another."""
        b = Builder(f"caches of {graph.name}")
        b.add("hand_over", HandOver(self.link, kept(graph, _size)))
        return b.build("hand_over")


def _size(tensor: Tensor) -> Expr:
    return tensor.kept
