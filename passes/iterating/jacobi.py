"""Jacobi decoding of autoregressive flows: whole sequences, iterated until they stand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Add, Expr, Integer

from costgraph.errors import PipelineError
from costgraph.formula.terms import Limit
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Phase, Program
from costgraph.ops.maps import Map, Reduce
from costgraph.passes.iterating.attention import uncached
from costgraph.rewriting.pipeline import Miss, Option, Outcome, Pass, Stage, number, option
from costgraph.symbols import T, q

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class Jacobi(Pass):
    """Blocks of a flow are inverted by iterations over all patches at once.

    The first ``sequential`` blocks, which converge late, stay patch by patch; with
    ``sequential=0`` none does (UJD). An iteration costs what a pass over the sequence
    costs; how many there are is measured.
    """

    name: ClassVar[str] = "jacobi"
    title: ClassVar[str] = "invert flow blocks by iterations over the whole sequence"
    formula: ClassVar[str] = (
        "latency = sequential·Σ_T t(1, T) + Σ_k N_k·t(L, L); a block gains while "
        "N_k < Σ_T t(1, T) / t(L, L)"
    )
    source: ClassVar[str] = "Zhang et al., SeJD, arXiv 2505.24791; Song et al., arXiv 2002.03629"
    assumptions: ClassVar[tuple[str, ...]] = (
        "iterations of a block are a measured mean; no more than patches are ever needed",
    )
    stage: ClassVar[Stage] = Stage.PHASES
    inherited: ClassVar[bool] = False

    iterations: Expr = option(
        "number", Integer(5), "iterations of each block, on average", minimum=1, under=("each=",)
    )
    each: str = option(
        "word", "", "iterations of every block that iterates, in order, instead: n6.6|6.0|5.2"
    )
    sequential: Expr = option(
        "integer", ONE, "blocks in front that stay patch by patch", minimum=0, symbolic=False
    )

    def run(self, program: Program, system: System) -> Outcome:
        phase = flow_phase(program)
        assert phase.span is not None
        blocks, length = phase.weight, phase.span.upper + 1
        if self.sequential > blocks:
            raise PipelineError(f"jacobi: sequential: the flow has only {blocks} blocks")
        rest = blocks - self.sequential
        if rest == 0:
            return Outcome(program, (), (Miss(self.name, program.name, "no block iterates"),))
        iterating = replace(
            phase,
            name="jacobi",
            graph=checked(uncached(phase.graph)),
            bindings=((q, length), (T, length)),
            span=None,
            weight=self._total(rest),
        )
        most = iterating.weight / rest
        if most.is_number and most > length:
            raise PipelineError(
                f"jacobi: iterations: {length} patches stand after {length} of them"
            )
        bound = Limit(most, length, "iterations of a block are at most its patches")
        limits = program.limits if most.is_number else (*program.limits, bound)
        front = (replace(phase, weight=self.sequential),) if self.sequential != 0 else ()
        made = replace(program, phases=(*front, iterating), limits=limits)
        return Outcome(made, ("jacobi",))

    def _total(self, rest: Expr) -> Expr:
        """Iterations over all blocks that iterate."""
        if not self.each:
            return self.iterations * rest
        spec = Option("number", "")
        parts = self.each.removeprefix("n").split("|")
        if len(parts) != rest:
            raise PipelineError(f"jacobi: each: {len(parts)} numbers for {rest} blocks")
        return Add(*(number("jacobi: each", spec, p) for p in parts))


def flow_phase(program: Program) -> Phase:
    """The phase that inverts the blocks of a flow, patch by patch.

    Raises:
        PipelineError: the program is no autoregressive flow.
    """
    found = program.phases
    if len(found) != 1 or program.emits or not found[0].walks_contexts:
        raise PipelineError(f"jacobi: {program.name} is no autoregressive flow")
    return found[0]


def checked(graph: Graph) -> Graph:
    """The graph with the test of convergence: how far the largest element has moved."""
    before, after = graph.inputs[0].name, graph.outputs[0]
    nodes = list(graph.nodes)
    tensors = dict(graph.tensors)

    def add(name: str, op: Map | Reduce, *inputs: str) -> str:
        (spec,) = op.infer(tuple(tensors[i] for i in inputs))
        tensors[name] = spec.named(name)
        nodes.append(Node(name, op, inputs, (tensors[name],)))
        return name

    moved = add("moved", Map("sub"), after, before)
    size = add("moved_size", Map("abs"), moved)
    most = add("moved_most", Reduce("max", (0, 1, 2)), size)
    return replace(graph, nodes=tuple(nodes), outputs=(*graph.outputs, most))
