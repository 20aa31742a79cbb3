"""Paged caches (PagedAttention)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.program import Program
from costgraph.ir.tensor import Tensor
from costgraph.ops import AttentionScores, AttentionValues, KVAppend
from costgraph.ops.flash import FlashAttention
from costgraph.ops.paged import PagedKVAppend, Paging
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import rebuild


@dataclass(frozen=True)
class PageKV(Pass):
    """Caches are set aside block by block instead of in one piece.

    A contiguous reservation of ``m`` tokens per sequence is the same with
    ``block=m``. With ``block=1,table=false`` nothing changes.
    """

    name: ClassVar[str] = "page-kv"
    title: ClassVar[str] = "set caches aside in blocks of tokens, found through a table"
    formula: ClassVar[str] = (
        "allocated = ceil(T/b)·b tokens per sequence (expected: T + (b-1)/2); "
        "table traffic 4·ceil(T/b) byte per sequence and attention"
    )
    source: ClassVar[str] = (
        "Kwon et al., arXiv 2309.06180; kernel factors of 1.20 to 1.26 are measured there"
    )
    assumptions: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[Stage] = Stage.CACHES

    block: Expr = option("number", Integer(16), "tokens per block", minimum=1)
    waste: str = option(
        "word", "exact", "whole blocks, or the mean over lengths", choices=("exact", "expected")
    )
    table: bool = option("flag", True, "attention reads the block table")
    kernel: Expr = option("number", Integer(1), "factor on cache reads of attention", minimum=1)
    prefix: Expr = option("number", Integer(0), "tokens of a shared prefix", minimum=0)
    sharers: Expr = option("number", Integer(1), "sequences that share it", minimum=1)

    def run(self, program: Program, system: System) -> Outcome:
        paging = Paging(
            self.block, self.waste == "exact", self.table, self.kernel, self.prefix, self.sharers
        )
        hits: list[str] = []

        def rewritten(graph: Graph) -> Graph:
            caches: set[str] = set()

            def paged(node: Node, operands: tuple[Tensor, ...]) -> Op:
                op = node.op
                if isinstance(op, PagedKVAppend):
                    raise PipelineError("page-kv: the caches are paged already")
                if isinstance(op, KVAppend):
                    hits.append(node.name)
                    caches.update(t.name for t in node.outputs)
                    return PagedKVAppend(op.keeps, paging)
                if not isinstance(op, (AttentionScores, AttentionValues, FlashAttention)):
                    return op
                # Attention without a cache, or over one that is written whole, has no table.
                if caches.isdisjoint(t.name for t in operands):
                    return op
                hits.append(node.name)
                return replace(op, paging=paging)

            return rebuild(graph, paged)

        made = program.rewritten(rewritten)
        if not hits:
            miss = Miss(self.name, program.name, "no cache grows by the step: nothing to page")
            return Outcome(program, (), (miss,))
        if self.sharers != 1:
            made = made.assuming(
                "a shared prefix saves memory; its prefill and its reads are still counted "
                "for every sequence"
            )
        if self.waste == "expected":
            made = made.assuming("sequences end anywhere in their last block with equal chance")
        return Outcome(made, tuple(dict.fromkeys(hits)))
