"""Retrieval: the nearest passages of a store are put in front of the prompt (RAG)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.dtypes import FP16, FP32
from costgraph.ir.graph import Builder, Graph
from costgraph.ir.program import Phase, Program, Resident
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.index import Nearest
from costgraph.passes.context.seeing import with_longer_prompt
from costgraph.rewriting.pipeline import Outcome, Pass, Stage, option
from costgraph.symbols import B, T, q

ONE = Integer(1)
FORMATS = {"fp16": FP16, "fp32": FP32}


@dataclass(frozen=True)
class Retrieve(Pass):
    """A question is looked up in a store, and the prompt grows by what is found.

    The index holds a vector of ``width`` for each of ``documents`` passages, in the memory of
    the device; all are compared (``share=1``), or a share of them, as an inverted file does.
    The prompt of ``S`` tokens grows by ``passages`` times ``length``; contexts ``T`` count them.
    """

    name: ClassVar[str] = "retrieve"
    title: ClassVar[str] = "look passages up in a store and put them in front of the prompt"
    formula: ClassVar[str] = (
        "2·share·documents·width FLOP per request; a prompt of S + passages·length tokens"
    )
    source: ClassVar[str] = "Lewis et al., Retrieval-Augmented Generation, arXiv 2005.11401"
    assumptions: ClassVar[tuple[str, ...]] = (
        "the vector of the question is there, and the text of passages comes with no delay: what "
        "makes and fetches them is not counted",
    )
    stage: ClassVar[Stage] = Stage.CONTEXT

    documents: Expr = option("integer", Integer(1_000_000), "passages of the store", minimum=1)
    width: Expr = option("integer", Integer(768), "width of a passage's vector", minimum=1)
    passages: Expr = option("integer", Integer(5), "passages that are put in front", minimum=1)
    length: Expr = option("integer", Integer(100), "tokens of a passage", minimum=1)
    share: Expr = option(
        "number", ONE, "share of the index that a question is compared with", minimum=0, maximum=1
    )
    format: str = option("word", "fp16", "format of the index", choices=tuple(FORMATS))

    def run(self, program: Program, system: System) -> Outcome:
        if self.share == 0:
            raise PipelineError("retrieve: share: an index that is not looked at finds nothing")
        if any(p.name == self.name for p in program.phases):
            raise PipelineError("retrieve: the prompt holds what was retrieved already")
        found = self.passages * self.length
        made, prompt = with_longer_prompt(self.name, program, lambda length: found)
        graph = self._graph(program.name)
        rest = (
            *(replace(r, part=True) for r in prompt.resident),
            Resident(prompt.graph, part=True),
        )
        first = Phase(self.name, graph, ((q, ONE), (T, ONE)), tokens=Integer(0), resident=rest)
        index = Resident(graph, part=True)
        phases = (replace(p, resident=(*p.resident, index)) for p in made.phases)
        return Outcome(replace(made, phases=(first, *phases)), ("retrieve",))

    def _graph(self, name: str) -> Graph:
        m, kind = Builder(f"{name} retrieval"), FORMATS[self.format]
        query = m.source(Tensor("question", (B, ONE, ONE, self.width), kind))
        rows = (ONE, self.documents, ONE, self.width)
        index = m.source(Tensor("passage_index", rows, kind, Role.WEIGHT))
        return m.build(m.add("retrieve", Nearest(self.passages, share=self.share), query, index))
