"""Image tokens that leave behind an early layer (FastV)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, Rational, Symbol, floor

from costgraph.errors import InputError, PipelineError
from costgraph.formula.terms import Limit
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.ops import AttentionScores
from costgraph.ops.image import InsertRows
from costgraph.ops.index import KeepRows, RankRows
from costgraph.passes.precision.layers import cut
from costgraph.rewriting.binding import at
from costgraph.rewriting.layers import Range
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import G, S, T, q


@dataclass(frozen=True)
class PruneTokens(Pass):
    """Behind the first ``layer`` layers a ``share`` of the image tokens leaves the prompt.

    Those leave that the last token looks at least in the layer before, in the mean over heads;
    its scores of image tokens are computed once more, as tiled attention writes none. Further
    layers compute, attend and cache what stays.
    """

    name: ClassVar[str] = "prune-tokens"
    title: ClassVar[str] = "a share of the image tokens leaves behind an early layer"
    formula: ClassVar[str] = (
        "R = floor(share·G); layers from the given one on: q = S - R, T = S - R in the prompt, "
        "T - R later; caches hold layer·T + (L - layer)·(T - R) rows"
    )
    source: ClassVar[str] = "Chen et al., FastV, arXiv 2403.06764"
    assumptions: ClassVar[tuple[str, ...]] = (
        "prune-tokens: what leaves is lost to the answer, and no quality is counted",
    )
    stage: ClassVar[Stage] = Stage.LEAVING
    inherited: ClassVar[bool] = False
    once: ClassVar[bool] = True

    # With the number 0 nothing is ranked.
    share: Expr = option("probability", Rational(1, 2), "of image tokens that leave", zero=False)
    layer: Expr = option(
        "integer", Integer(2), "layers that still see all of them", minimum=1, symbolic=False
    )

    def run(self, program: Program, system: System) -> Outcome:
        prompts = [p for p in program.phases if any(map(_inserts, p.graph.nodes))]
        if len(prompts) != 1 or not program.decoding:
            raise PipelineError(
                f"prune-tokens: {program.name} has no prompt in which image tokens stand among "
                "others"
            )
        gone = floor(self.share * G)
        if gone == 0:
            return Outcome(program, (), (Miss(self.name, program.name, "no token leaves"),))
        whole, steps = prompts[0].graph, {id(p.graph) for p in program.decoding}
        hits: dict[str, None] = {}

        def new(graph: Graph) -> Graph:
            if graph is whole:
                return self._prompt(graph, gone, hits)
            return self._step(graph, gone) if id(graph) in steps else graph

        made = program.rewritten(new)
        limit = Limit(gone, S - 1, "a token that stays makes the logits")
        return Outcome(replace(made, limits=(*made.limits, limit)), tuple(hits))

    def _parts(self, graph: Graph) -> tuple[Graph, dict[str, Range]]:
        """The graph with its layers cut, and the parts behind the cut."""
        try:
            made, ranges = cut(graph, self.name, (), first=self.layer)
        except InputError as error:
            raise PipelineError(f"prune-tokens: {error}") from None
        later = {name: r for name, r in ranges.items() if (r.start - self.layer).is_nonnegative}
        if not later:
            raise PipelineError(f"prune-tokens: {graph.name} has no layer behind the first ones")
        return made, later

    def _step(self, graph: Graph, gone: Expr) -> Graph:
        made, later = self._parts(graph)
        nodes = (_shorter(n, gone, T, S) if n.name in later else n for n in made.nodes)
        return rebuild(replace(made, nodes=tuple(nodes)))

    def _prompt(self, graph: Graph, gone: Expr, hits: dict[str, None]) -> Graph:
        made, later = self._parts(graph)
        nodes: list[Node] = []
        short: dict[str, str] = {}  # what has a row for every position, and what stays of it

        def kept(tensor: Tensor, body: Graph) -> str:
            axis = next((i for i, n in enumerate(tensor.shape) if n == q), None)
            if tensor.name in short or axis is None:
                return short.get(tensor.name, tensor.name)
            op = KeepRows(axis, gone) if short else _ranked(body, gone)
            name, (spec,) = f"{tensor.name}_kept", op.infer((tensor,))
            origin = Origin((), self.name)
            nodes.append(Node(name, op, (tensor.name,), (spec.named(name),), origin))
            short[tensor.name] = name
            return name

        for node in made.nodes:
            if node.name in later and isinstance(node.op, Repeat):
                hits[node.name] = None
                body = node.op.body
                inputs = tuple(kept(t, body) for t in made.operands(node))
                node = replace(_shorter(node, gone, q, T, S), inputs=inputs)
                short.update((t.name, t.name) for t in node.outputs)
            elif short and _inserts(node):
                raise PipelineError(
                    "prune-tokens: rows of images are added behind that layer: give a later one"
                )
            nodes.append(node)
        return rebuild(replace(made, nodes=tuple(nodes)))


def _shorter(node: Node, gone: Expr, *sizes: Symbol) -> Node:
    """Layers in which ``sizes`` are smaller by what is gone."""
    assert isinstance(node.op, Repeat)
    body = at(node.op.body, {size: size - gone for size in sizes})
    return replace(node, op=replace(node.op, body=body))


def _inserts(node: Node) -> bool:
    return isinstance(node.op, InsertRows)


def _ranked(body: Graph, gone: Expr) -> RankRows:
    """What ranks the tokens in front of a layer: the scores of one like it."""
    found = ((g, n) for g in body.walk() for n in g.nodes if isinstance(n.op, AttentionScores))
    first = next(found, None)
    if first is None:
        raise PipelineError("prune-tokens: the layers do not attend")
    graph, node = first
    query, keys = (graph.tensors[i] for i in node.inputs[:2])
    row = keys.shape[2] * keys.shape[3]
    return RankRows(1, gone, query.shape[2], row, query.shape[3], G)
