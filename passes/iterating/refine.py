"""Answers that are written as a whole and refined: non-autoregressive decoding, mask-predict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.graph import Builder, Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.program import Phase, Program
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import Linear, Sample, SelectLast
from costgraph.ops.attending import repatterned
from costgraph.ops.maps import Reduce
from costgraph.ops.pattern import FULL
from costgraph.passes.decoding.target import is_windowed, keeps_state, stepping
from costgraph.passes.forking.branches import times
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import N, S, T, q

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class Refine(Pass):
    """All ``N`` positions are decoded at once, ``iterations`` times over.

    The decoder sees its whole answer in both directions. Behind an encoder it starts from
    nothing; a decoder that reads its prompt itself keeps the prompt's keys and values.
    """

    name: ClassVar[str] = "refine"
    title: ClassVar[str] = "decode the whole answer at once, and refine it in iterations"
    formula: ClassVar[str] = "latency = t_encode + iterations·t_decode(candidates·B, q = N)"
    source: ClassVar[str] = (
        "Gu et al., arXiv 1711.02281 (one iteration); Ghazvininejad et al., mask-predict, arXiv "
        "1904.09324"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "the model was trained to decode whole answers: its layers are those of the "
        "autoregressive one, without the causal mask",
    )
    stage: ClassVar[Stage] = Stage.PHASES
    inherited: ClassVar[bool] = False

    iterations: Expr = option(
        "number", Integer(4), "times that the whole answer is decoded", minimum=1
    )
    candidates: Expr = option(
        "integer", ONE, "lengths that are tried at the same time, of which one is kept", minimum=1
    )
    lengths: Expr = option(
        "integer", ZERO, "classes of a length predictor behind the encoder; 0: none", minimum=0,
        maximum=10**6,
    )  # fmt: skip

    def run(self, program: Program, system: System) -> Outcome:
        try:
            step = stepping(program)
        except PipelineError as error:
            raise PipelineError(f"refine: {error}") from None
        if keeps_state(step.graph) or is_windowed(step.graph):
            raise PipelineError("refine: a recurrent state or a window does not see a whole answer")
        front = [p for p in program.phases if p is not step]
        behind_encoder = any(p.name == "encode" for p in front)
        if behind_encoder:
            front = [p for p in front if p.query != 1]  # the start token
            context = N
        else:
            if self.lengths != 0:
                raise PipelineError("refine: lengths: there is no encoder to predict them from")
            context = S + N
        refining = replace(
            step,
            name="refine",
            graph=rebuild(step.graph, _whole),
            bindings=((q, N), (T, context)),
            span=None,
            weight=self.iterations,
            tokens=N / self.iterations,
        )
        phases = (
            *(replace(p, tokens=ZERO) for p in front),
            times(refining, self.candidates),
        )
        made = replace(program, phases=phases)
        if self.lengths != 0:
            made = self._predicting(made, front)
        return Outcome(made, ("refine",))

    def _predicting(self, program: Program, front: list[Phase]) -> Program:
        """The program with a length predictor behind its encoder."""
        encoder = next(p.graph for p in front if p.name == "encode")
        wider = predicting(encoder, self.lengths)
        return program.rewritten(lambda g: wider if g is encoder else g)


def _whole(node: Node, operands: tuple[Tensor, ...]) -> Op:
    op = node.op
    if isinstance(op, SelectLast):
        return SelectLast(q)
    return repatterned(op, lambda pattern: FULL if pattern.causal else pattern)


def predicting(graph: Graph, classes: Expr) -> Graph:
    """An encoder with a classifier of lengths on the mean of its result."""
    b = Builder("length")
    hidden = graph.tensors[graph.outputs[0]]
    d = hidden.shape[-1]
    mean = b.add("length_mean", Reduce("mean", (1,)), b.source(hidden))
    weight = Tensor("length_proj.weight", (classes, d), hidden.dtype, Role.WEIGHT)
    logits = b.add("length_proj", Linear(), mean, b.source(weight))
    b.add("length_sample", Sample(), logits)
    extra = b.build("length_sample")
    return replace(
        graph,
        sources=(*graph.sources, weight),
        nodes=(*graph.nodes, *extra.nodes),
        outputs=(*graph.outputs, "length_sample"),
    )
