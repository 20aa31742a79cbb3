"""dLLM-Cache: denoising steps that recompute a part of the sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import lcm
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.program import Phase, Program
from costgraph.ir.regions import Region
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import Add, Linear, SelectLast
from costgraph.ops.features import KeepFeatures, TakeRows, ValueCheck
from costgraph.passes.iterating.attention import cached, every
from costgraph.passes.iterating.steps import denoising_phase
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import N, S, T, q

#: Input of a step that checks values: the whole answer's rows.
RESPONSE = "response_hidden"


@dataclass(frozen=True)
class FeatureCache(Pass):
    """Features of the prompt and of the answer are kept and refreshed in periods.

    In between, the values of all answer positions are computed and the share of them that
    has changed most is updated. Kept are keys, values and what attention and feed-forward
    blocks made: ``4·d`` numbers per position and layer of a model without grouped heads.
    """

    name: ClassVar[str] = "feature-cache"
    title: ClassVar[str] = "recompute only a part of the sequence in most denoising steps"
    formula: ClassVar[str] = (
        "positions per step = S/prompt + N·(1/response + (1 - 1/response)·update)"
    )
    source: ClassVar[str] = "Liu et al., dLLM-Cache, arXiv 2506.06295"
    assumptions: ClassVar[tuple[str, ...]] = (
        "refreshes are counted by their rate: K a multiple of both periods, or the mean over many",
        "steps that do not refresh the prompt make logits of the answer's positions alone",
    )
    stage: ClassVar[Stage] = Stage.PHASES
    inherited: ClassVar[bool] = False

    prompt: Expr = option(
        "integer", Integer(100), "steps between refreshes of the prompt", minimum=1,
        symbolic=False,
    )  # fmt: skip
    response: Expr = option(
        "integer", Integer(8), "steps between refreshes of the whole answer", minimum=1,
        symbolic=False,
    )  # fmt: skip
    update: Expr = option(
        "probability", Integer(1) / 4, "share of the answer that every other step updates"
    )

    def run(self, program: Program, system: System) -> Outcome:
        phase = denoising_phase(program, self.name)
        periods = (int(self.prompt), int(self.response))
        if self.prompt == 1 and (self.response == 1 or self.update == 1):
            reason = "every step recomputes everything"
            return Outcome(program, (), (Miss(self.name, program.name, reason),))
        kept = keeping(cached(phase.graph))
        phases = tuple(self._phases(phase, kept, *periods))
        return Outcome(replace(program, phases=phases), tuple(p.name for p in phases))

    def _phases(self, phase: Phase, kept: Graph, prompt: int, response: int) -> Iterator[Phase]:
        """A phase for each kind of step that there is, by what it refreshes."""
        every_both = Integer(1) / lcm(prompt, response)
        shares = {
            (True, True): every_both,
            (False, True): Integer(1) / response - every_both,
            (True, False): Integer(1) / prompt - every_both,
        }
        shares[False, False] = 1 - sum(shares.values())
        if self.update == 1:  # every step refreshes the whole answer
            for asked in (True, False):
                shares[asked, True] += shares.pop((asked, False))
        names = {
            (True, True): "denoise",
            (False, True): "denoise-response",
            (True, False): "denoise-prompt",
            (False, False): "denoise-partial",
        }
        for (asked, answer), share in shares.items():
            if share == 0:
                continue
            rows = (S if asked else 0) + (N if answer else self.update * N)
            graph = kept
            if not (asked and answer):
                graph = rebuild(kept, _logits_of_answer)
            if not answer:
                graph = checking(graph, takes=not asked)
            yield replace(
                phase,
                name=names[asked, answer],
                graph=graph,
                bindings=((q, rows), (T, S + N)),
                weight=phase.weight * share,
            )


def _logits_of_answer(node: Node, operands: tuple[Tensor, ...]) -> Op:
    return SelectLast(N) if isinstance(node.op, SelectLast) else node.op


def keeping(graph: Graph) -> Graph:
    """The graph with what its blocks add to the residual stream kept in caches.

    Raises:
        PipelineError: the layers do not add what two blocks make, one after the other.
    """
    return every(graph, _keeping)


def _keeping(graph: Graph) -> Graph:
    if not any(t.role is Role.KV for t in graph.sources):
        return graph  # not a layer
    blocks = [n for n in graph.nodes if type(n.op) is Add and n.name in ("attn_add", "mlp_add")]
    if len(blocks) != 2 or any(graph.producer.get(n.inputs[0]) is None for n in blocks):
        raise PipelineError(
            f"{graph.name}: layers must add what attention makes, then what a feed-forward makes"
        )
    sources, nodes = list(graph.sources), []
    for node in graph.nodes:
        if node in blocks:
            name = node.name.removesuffix("_add")
            made = graph.tensors[node.inputs[0]]
            batch, _, width = made.shape
            cache = Tensor(f"{name}_features", (batch, T, width), made.dtype, Role.KV)
            keep = KeepFeatures()
            (spec,) = keep.infer((cache, made))
            kept = spec.named(f"{name}_keep")
            sources.append(cache)
            nodes.append(Node(kept.name, keep, (cache.name, made.name), (kept,)))
            node = replace(node, inputs=(kept.name, *node.inputs[1:]))
        nodes.append(node)
    return replace(graph, sources=tuple(sources), nodes=tuple(nodes))


def checking(graph: Graph, takes: bool) -> Graph:
    """The graph with a check of all answer positions' values in front of each layer's work.

    With ``takes`` the values of the rows that are worked on are picked from those of the
    check; else a step computes them for its rows, the prompt's, beside it.
    """
    return every(graph, partial(_checking, takes=takes))


def _checking(graph: Graph, takes: bool) -> Graph:
    if any(isinstance(n.op, Region) for n in graph.nodes):
        return _handed(graph)
    at = next((n for n in graph.nodes if n.name == "v_proj" and isinstance(n.op, Linear)), None)
    if at is None:
        return graph
    normed = graph.producer.get(at.inputs[0])
    cache = next((t for t in graph.sources if t.name == "v_cache"), None)
    if normed is None or cache is None:
        raise PipelineError(f"{graph.name}: values must come from a norm and go to a cache")
    hidden = graph.tensors[normed.inputs[0]]
    answer = Tensor(RESPONSE, (hidden.shape[0], N, *hidden.shape[2:]), hidden.dtype)
    known = {**graph.tensors, RESPONSE: answer}

    def made(name: str, op: Op, *inputs: str) -> Node:
        (spec,) = op.infer(tuple(known[i] for i in inputs))
        known[name] = spec.named(name)
        return Node(name, op, inputs, (known[name],))

    new = [
        made("check_norm", normed.op, RESPONSE, *normed.inputs[1:]),
        made("check_proj", at.op, "check_norm", *at.inputs[1:]),
        made("value_check", ValueCheck(), "check_proj", cache.name),
    ]
    inputs: dict[str, str] = {}
    if takes:
        new.append(made("v_take", TakeRows(q), "check_proj", "value_check"))
        inputs[at.output] = "v_take"
    nodes = list(new)
    for node in graph.nodes:
        if takes and node is at:
            continue
        nodes.append(replace(node, inputs=tuple(inputs.get(i, i) for i in node.inputs)))
    return replace(graph, sources=(*graph.sources, answer), nodes=tuple(nodes))


def _handed(graph: Graph) -> Graph:
    """The graph with the answer's rows handed to the regions that check them."""
    nodes, found = [], None
    for node in graph.nodes:
        if isinstance(node.op, Region):
            wanted = [t for t in node.op.graphs[0].inputs if t.name == RESPONSE]
            if wanted:
                found = wanted[0]
                node = replace(node, inputs=(*node.inputs, RESPONSE))
        nodes.append(node)
    sources = graph.sources if found is None else (*graph.sources, found)
    return replace(graph, sources=sources, nodes=tuple(nodes))
