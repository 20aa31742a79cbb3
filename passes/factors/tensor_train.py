"""Tables of look-ups as chains of small cores (TensorGPT)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, Mul, factorint

from costgraph.errors import InputError, clip
from costgraph.formula.least import least
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.program import Program
from costgraph.ir.regions import Region
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.tensor_train import TrainEmbedding
from costgraph.ops.tokens import Embedding
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option

ONE = Integer(1)
PRIMES = "primes"
_SHAPE = re.compile(r"\d{1,6}(?:\|\d{1,6}){1,31}\Z")


@dataclass(frozen=True)
class TensorTrain(Pass):
    """Stores each row of an embedding table as a chain of cores, multiplied out per token.

    A row of ``d = n_1·…·n_M`` numbers is a product of cores ``(r_{i−1}, n_i, r_i)`` with
    ``r_0 = r_M = 1``; no rank is larger than what is on either side of it.
    """

    name: ClassVar[str] = "tensor-train"
    title: ClassVar[str] = "store rows of embedding tables as chains of small cores"
    formula: ClassVar[str] = (
        "parameters V·Σ r_(i-1)·n_i·r_i instead of V·d; per look-up Σ 2·(n_1…n_i)·r_(i-1)·r_i FLOP"
    )
    source: ClassVar[str] = "TensorGPT, arXiv 2307.00526; Oseledets, SIAM J. Sci. Comput. 33 (2011)"
    stage: ClassVar[Stage] = Stage.TABLES
    inherited: ClassVar[bool] = False

    rank: Expr = option("integer", Integer(1), "numbers between two cores, at most", minimum=1)
    shape: str = option(
        "text", PRIMES, "sizes of the cores, 8|8|64, whose product is the width; 'primes': its "
        "prime factors",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.shape != PRIMES and not (isinstance(self.shape, str) and _SHAPE.match(self.shape)):
            raise InputError(f"shape: {clip(self.shape)} is not sizes such as 8|8|64, or primes")

    def run(self, program: Program, system: System) -> Outcome:
        hits: dict[str, None] = {}
        misses: dict[Miss, None] = {}
        whole: dict[str, dict[str, None]] = {}
        for phase in program.phases:
            for graph in (phase.graph, *(r.graph for r in phase.resident)):
                for inner in graph.walk():
                    for node in inner.nodes:
                        for name in node.inputs:
                            if not isinstance(node.op, Embedding):
                                whole.setdefault(name, {})[node.name] = None

        def one(graph: Graph) -> Graph:
            tables: dict[str, Tensor] = {}
            nodes = []
            for node in graph.nodes:
                if isinstance(node.op, Region):
                    node = replace(node, op=node.op.with_graphs([one(g) for g in node.op.graphs]))
                elif type(node.op) is Embedding:
                    made = self._replaced(graph, node, tuple(whole.get(node.inputs[1], ())))
                    if isinstance(made, str):
                        misses[Miss(self.name, node.name, made)] = None
                    else:
                        hits[node.name] = None
                        old, (node, table) = graph.tensors[node.inputs[1]], made
                        if (table.shape[1] > old.shape[1]) == True:  # noqa: E712
                            why = f"cores of {table.shape[1]} numbers store more than rows of "
                            misses[Miss(self.name, node.name, f"{why}{old.shape[1]}")] = None
                        tables[table.name] = table
                nodes.append(node)
            sources = tuple(tables.get(t.name, t) for t in graph.sources)
            return replace(graph, sources=sources, nodes=tuple(nodes))

        made = program.rewritten(one)
        return Outcome(made if hits else program, tuple(hits), tuple(misses))

    def _replaced(
        self, graph: Graph, node: Node, whole: tuple[str, ...]
    ) -> tuple[Node, Tensor] | str:
        table = graph.tensors[node.inputs[1]]
        if table.role is not Role.WEIGHT or table not in graph.sources:
            return "its table is computed"
        if whole:
            return f"{table.name} is needed whole by {', '.join(whole)}"
        width = table.shape[1]
        if not width.is_Integer:
            return f"a width of {width} has no known factors"
        sizes = self._sizes(int(width))
        if isinstance(sizes, str):
            return sizes
        if len(sizes) < 2:
            return f"a width of {width} is one core: nothing to chain"
        assert isinstance(node.op, Embedding)
        result = node.op.result or table.dtype
        op = TrainEmbedding(result, sizes, ranks(sizes, self.rank))
        made = replace(table, shape=(table.shape[0], op.stored))
        return replace(node, op=op, origin=Origin((node.name,), self.name)), made

    def _sizes(self, width: int) -> tuple[Expr, ...] | str:
        if self.shape == PRIMES:
            return tuple(Integer(p) for p, times in factorint(width).items() for _ in range(times))
        sizes = tuple(Integer(n) for n in self.shape.split("|"))
        if Mul(*sizes) != width:
            return f"{self.shape} multiplies to {Mul(*sizes)}, the width is {width}"
        return sizes


def ranks(sizes: tuple[Expr, ...], most: Expr) -> tuple[Expr, ...]:
    """``r_0 … r_M``: one at the ends, between them ``most`` or what either side can have."""
    inner = (least(most, Mul(*sizes[:i]), Mul(*sizes[i:])) for i in range(1, len(sizes)))
    return (ONE, *inner, ONE)
