"""Unstructured and 2:4 pruning: weights stored without their zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.machine import Engine
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Program
from costgraph.ir.regions import Region
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.fused import Fused
from costgraph.ops.linear import Linear
from costgraph.passes.precision.layers import Keep, parse_keep
from costgraph.passes.sparsity.layers import by_layer, depth_of
from costgraph.passes.sparsity.listed import entries, symbols_in
from costgraph.passes.sparsity.storage import HALF, STORAGE, sparse_rates, stored
from costgraph.rewriting.pipeline import Miss, Option, Outcome, Pass, Stage, limits_of, option

ZERO = Integer(0)
DEFAULT = "default"
_SHARE = Option("probability", "")


@dataclass(frozen=True)
class Prune(Pass):
    """Stores matrices of products without their zeros.

    Traffic and memory shrink with what is stored. What is computed depends on who
    multiplies: ``dense`` kernels load what is stored, spread it out on chip and multiply
    everything (Flash-LLM); units for 2:4 multiply it as it is where the machine states
    their rate; kernels that ``skip`` zeros multiply what is stored, on vector units.
    """

    name: ClassVar[str] = "prune"
    title: ClassVar[str] = "store weights without their zeros"
    formula: ClassVar[str] = (
        "bits/element: csr (1-z)·(b + 32) + 32·(oc + 1)/(oc·ic), tiled-csl (1-z)·(b + 16), "
        "bitmap (1-z)·b + 1, 2:4 b/2 + 1; unpacking 2·(1-z)·ic·oc FLOP"
    )
    source: ClassVar[str] = (
        "Flash-LLM, arXiv 2309.10285 (tiled-csl; kernels 1.4, 1.7 and 2.1 times cuBLAS at 70, 80 "
        "and 90 %, where bytes alone allow 1.67, 2.5 and 5.0); 2:4, arXiv 2104.08378; OWL, "
        "arXiv 2310.05175; SparseGPT, arXiv 2301.00774; Wanda, arXiv 2306.11695"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "pruning: zeros lie evenly over each matrix; dense kernels unpack what is stored as "
        "they load it, 2 FLOP per stored element on the vector engine",
        "pruning: no timings of sparse kernels are fitted: calibrated times take dense kernels' "
        "efficiency",
    )
    stage: ClassVar[Stage] = Stage.SPARSITY

    sparsity: Expr = option(
        "probability",
        HALF,
        "share of the weights that are zero; with layers: of those outside of them",
    )
    storage: str = option("word", "tiled-csl", "how the others are stored", choices=tuple(STORAGE))
    compute: str = option(
        "word", "auto", "dense: everything is multiplied; skip: what is stored, on vector units; "
        "auto: csr skips, 2:4 on sparse units where the machine has them, others dense",
        choices=("auto", "dense", "skip"),
    )  # fmt: skip
    index_bits: Expr | str = option(
        "number", DEFAULT, "bits that locate a stored element", choices=(DEFAULT,), minimum=0
    )
    layers: str = option("text", "", "share of zeros of each layer (OWL): 0.5|0.6*3|…")
    keep: str = option(
        "word",
        "lm_head|embed|positions|router",
        "what stays dense: parts of names, A|B, each optionally NAME:3 or NAME:0-3 for layers; "
        "'none' for nothing",
    )
    first: Expr = option("integer", ZERO, "first layers that stay dense", minimum=0, symbolic=False)
    last: Expr = option("integer", ZERO, "last layers that stay dense", minimum=0, symbolic=False)

    @property
    def symbols(self) -> Mapping[str, str]:
        shares = entries(self.layers, _SHARE, "prune: layers")
        return {**super().symbols, **symbols_in(shares, "layers")}

    def run(self, program: Program, system: System) -> Outcome:
        if self.storage == "2:4" and (self.sparsity != HALF or self.layers):
            raise PipelineError("prune: 2:4 stores two of each four: its sparsity is 1/2")
        if self.storage == "2:4" and self.index_bits != DEFAULT:
            raise PipelineError("prune: 2:4 locates a stored element by 2 bits")
        log = _Log()
        numbered = entries(self.layers, _SHARE, "prune: layers")
        keep = parse_keep(self.keep)
        apart = numbered or self.first or self.last or any(k.layers for k in keep)

        def rewritten(graph: Graph) -> Graph:
            outer = _Plan(self, system, self.sparsity, _names(keep, None))
            if not apart:
                return _pruned(graph, outer, log)
            keys = self._keys(depth_of(graph, self.name), numbered, keep)
            cut = by_layer(
                graph, self.name, keys,
                lambda body, key, _: _pruned(body, _Plan(self, system, *key), log)
                if key[0] is not None else body,
            )  # fmt: skip
            inside = len(log.hits)
            made = _pruned(cut, outer, log, inside=False)
            if numbered and self.sparsity != HALF and len(log.hits) == inside:
                why = "sparsity: layers says the share of zeros of all that is pruned"
                log.miss(self.name, program.name, why)
            return made

        made = program.rewritten(rewritten)
        limits = (x for z in numbered for x in limits_of(self.name, "layers", _SHARE, z))
        made = replace(made, limits=(*made.limits, *limits))
        if not log.hits and not log.misses:
            log.miss(self.name, program.name, "no matrix of a linear product")
        return Outcome(made, tuple(dict.fromkeys(log.hits)), tuple(dict.fromkeys(log.misses)))

    def _keys(
        self, depth: int, numbered: Sequence[Expr], keep: Sequence[Keep]
    ) -> list[tuple[Expr | None, tuple[str, ...]]]:
        """Per layer its share of zeros (None: all of it stays dense) and names that stay."""
        if numbered and len(numbered) != depth:
            raise PipelineError(
                f"prune: {len(numbered)} shares are given for {depth} layers: give one for each"
            )
        first, last = int(self.first), int(self.last)
        if first + last > depth:
            raise PipelineError(f"prune: first and last name {first + last} of {depth} layers")
        past = [k.layers[1] for k in keep if k.layers and k.layers[1] >= depth]
        if past:
            raise PipelineError(f"prune: keep: layer {past[0]} is past the last one, {depth - 1}")
        shares = numbered or [self.sparsity] * depth
        return [
            (shares[n] if first <= n < depth - last else None, _names(keep, n))
            for n in range(depth)
        ]


def _names(keep: Sequence[Keep], layer: int | None) -> tuple[str, ...]:
    """Names that stay dense in a layer, or outside of any."""
    at = None if layer is None else (Integer(layer), Integer(1))
    return tuple(k.name for k in keep if k.holds(k.name, at))


@dataclass
class _Log:
    hits: list[str] = field(default_factory=list)
    misses: list[Miss] = field(default_factory=list)

    def miss(self, rule: str, where: str, why: str) -> None:
        self.misses.append(Miss(rule, where, why))


@dataclass(frozen=True)
class _Plan:
    """What to do in a graph: a share of zeros, and names that stay dense."""

    made_by: Prune
    system: System
    sparsity: Expr
    keep: tuple[str, ...]

    @property
    def rates(self) -> tuple[tuple[str, Expr], ...]:
        by = self.made_by
        fits = by.storage == "2:4" and by.compute == "auto"
        return sparse_rates(self.system.device) if fits else ()

    @property
    def skips(self) -> bool:
        by = self.made_by
        return by.compute == "skip" or (by.compute == "auto" and by.storage == "csr")


def _pruned(graph: Graph, plan: _Plan, log: _Log, inside: bool = True) -> Graph:
    """The graph, and unless told otherwise its regions, with sparse matrices."""
    sources = tuple(_source(graph, t, plan, log) for t in graph.sources)
    tensors = {t.name: t for t in sources}
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node.op, Region) and inside:
            bodies = [_pruned(g, plan, log) for g in node.op.graphs]
            node = replace(node, op=node.op.with_graphs(bodies))
        elif isinstance(node.op, Fused):
            operands = tuple(tensors.get(i) or graph.tensors[i] for i in node.inputs)
            node = replace(node, op=replace(node.op, body=replace(node.op.body, sources=operands)))
        _check(node, graph, tensors, plan, log)
        nodes.append(node)
    return replace(graph, sources=sources, nodes=tuple(nodes))


def _check(node: Node, graph: Graph, tensors: dict[str, Tensor], plan: _Plan, log: _Log) -> None:
    """Says where no sparse units take a 2:4 matrix: it is stored so and multiplied dense."""
    by = plan.made_by
    if by.storage != "2:4" or by.compute != "auto" or not isinstance(node.op, Linear):
        return
    operands = tuple(tensors.get(i) or graph.tensors[i] for i in node.inputs)
    if operands[1].dtype.sparse is None:
        return
    work = node.op.work(operands, node.outputs)
    types = [dtype for engine, dtype in work if engine is Engine.TENSOR]
    lacking = [t for t in types if operands[1].dtype.sparse.rate(t) is None]
    if lacking:
        why = f"{plan.system.device.name} states no rate for 2:4 matrices in {lacking[0]}"
        log.miss(by.name, node.name, f"{why}: stored 2:4, multiplied dense")


def _source(graph: Graph, tensor: Tensor, plan: _Plan, log: _Log) -> Tensor:
    if tensor.role is not Role.WEIGHT or len(tensor.shape) < 2:
        return tensor
    by, users = plan.made_by, _users(graph, tensor.name)
    if any(kept in name for kept in plan.keep for name in (tensor.name, *(n.name for n in users))):
        log.miss(by.name, tensor.name, "in the keep list")
        return tensor
    if not users or not all(isinstance(n.op, Linear) and n.inputs[1] == tensor.name for n in users):
        log.miss(by.name, tensor.name, "no matrix of a linear product")
        return tensor
    if tensor.dtype.sparse is not None:
        log.miss(by.name, tensor.name, f"already stored as {tensor.dtype}")
        return tensor
    if tensor.dtype.coded != 1:
        why = f"stored as {tensor.dtype}, a code for {tensor.dtype.coded} weights"
        log.miss(by.name, tensor.name, f"{why}: zeros cannot be left out one by one")
        return tensor
    if by.storage == "2:4" and (tensor.shape[-1] % 4).is_zero is False:
        log.miss(by.name, tensor.name, f"rows of {tensor.shape[-1]} are no groups of four")
        return tensor
    index = by.index_bits if isinstance(by.index_bits, Expr) else STORAGE[by.storage]
    how = stored(by.storage, plan.sparsity, index, tensor.shape, plan.rates, plan.skips)
    made = replace(tensor, dtype=replace(tensor.dtype, sparse=how))
    size, before = made.dtype.bits_per_element, tensor.dtype.bits_per_element
    if size.is_number and before.is_number and size >= before:
        log.miss(
            by.name, tensor.name,
            f"{float(size):.4g} bits per element as {made.dtype}, {float(before):.4g} dense: "
            "storing zeros takes less; counted as asked",
        )  # fmt: skip
    log.hits.append(tensor.name)
    return made


def _users(graph: Graph, name: str) -> tuple[Node, ...]:
    """The operations that use a tensor; of a fused group, those inside that do."""
    found: list[Node] = []
    for node in graph.consumers[name]:
        body = node.op.body if isinstance(node.op, Fused) else None
        found.extend(_users(body, name) if body is not None else (node,))
    return tuple(found)
