"""Requests of a batch that begin alike: one copy of what they share, read once or by each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, ceiling

from costgraph.errors import PipelineError
from costgraph.formula.terms import Limit
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.program import Program
from costgraph.ir.tensor import Tensor
from costgraph.ops import AttentionScores, AttentionValues, KVAppend
from costgraph.ops.compress import Compress
from costgraph.ops.flash import FlashAttention
from costgraph.ops.paged import PagedKVAppend, Paging
from costgraph.passes.caching.prompts import (
    appends,
    as_found,
    behind,
    of_text,
    prompt_of,
    refuse_away,
    shown,
    whole_blocks,
)
from costgraph.passes.context.seeing import is_whole
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import B, T, q

ONE, ZERO = Integer(1), Integer(0)
ALL = "batch"


@dataclass(frozen=True)
class SharePrefix(Pass):
    """``requests`` of a batch share their first ``tokens``: in memory once, computed once.

    ``read=once``: attention reads them once for all of these requests (cascade attention,
    Hydragen); ``read=each``: once for each, as plain paged attention does. With
    ``prompt=cached`` an earlier request has computed them. Blocks are those of ``page-kv``:
    whole ones alone are shared.
    """

    name: ClassVar[str] = "share-prefix"
    title: ClassVar[str] = "requests of a batch share their first tokens: kept and read once"
    formula: ClassVar[str] = (
        "rows kept = B·T - (B - ceil(B/requests))·P, P = floor(tokens/b)·b; rows read are those "
        "(once) or B·T (each); prompt = t(ceil(B/requests), q = T = P) + t(B, q = S - P, T = S)"
    )
    source: ClassVar[str] = (
        "Juravsky et al., Hydragen, arXiv 2402.05099; Ye et al., Cascade Inference, FlashInfer "
        "2024; memory alone: Kwon et al., arXiv 2309.06180"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "share-prefix: putting attention over the prefix and over the rest together is not counted",
    )
    stage: ClassVar[Stage] = Stage.PREFIXES
    once: ClassVar[bool] = True

    tokens: Expr = option("integer", Integer(256), "first tokens that are the same", minimum=0)
    requests: Expr | str = option(
        "integer", ALL, "requests that share them, or all of the batch", minimum=1, choices=(ALL,)
    )
    read: str = option(
        "word", "once", "attention reads them once for all that share them, or once for each",
        choices=("once", "each"),
    )  # fmt: skip
    prompt: str = option(
        "word", "computed", "they are computed with this batch, or are cached from before",
        choices=("computed", "cached"),
    )  # fmt: skip

    def run(self, program: Program, system: System) -> Outcome:
        _, prompt = prompt_of(program, self.name)
        length, pictures = prompt.query, shown(prompt)
        refuse_away(program, self.name)
        prefix = whole_blocks(self.tokens, _block(program))
        if prefix == 0 or self.requests == 1:
            reason = "no whole block of tokens is shared by two requests"
            return Outcome(program, (), (Miss(self.name, prompt.name, reason),))
        sharers = B if isinstance(self.requests, str) else self.requests
        hits: dict[str, None] = {}
        misses: dict[str, Miss] = {}
        made = program.rewritten(lambda g: self._shared(g, prefix, sharers, hits, misses))
        place = program.phases.index(prompt)
        phases = list(made.phases)
        phases[place] = behind(phases[place], length - prefix)
        if self.prompt == "computed":
            own = {**prompt.substitution, q: prefix, T: prefix}
            own[B] = ceiling(own.get(B, B) / sharers.xreplace({B: own.get(B, B)}))
            first = replace(prompt, name="prefix", bindings=tuple(own.items()), tokens=ZERO)
            phases.insert(place, first if pictures == 0 else of_text(first))
        limits = [Limit(prefix, length - 1, "behind the shared tokens a prompt has one of its own")]
        said = as_found(self.name, program)
        if pictures != 0:
            why = "images stand behind the shared tokens"
            limits.append(Limit(pictures, length - prefix, why))
            said = (*said, f"share-prefix: {why}: each request has its own")
        done = replace(made, phases=tuple(phases), limits=(*program.limits, *limits))
        return Outcome(done.assuming(*said), (prompt.name, *hits), tuple(misses.values()))

    def _shared(
        self, graph: Graph, prefix: Expr, sharers: Expr, hits: dict[str, None],
        misses: dict[str, Miss],
    ) -> Graph:  # fmt: skip
        """The graph with caches of the context that hold the prefix once."""
        caches: set[str] = set()

        def paging(old: Paging | None) -> Paging:
            plain = Paging(ONE, table=False) if old is None else old
            if plain.sharers != 1:
                raise PipelineError("share-prefix: page-kv shares a prefix already: give it here")
            once = self.read == "once"
            return replace(plain, prefix=prefix, sharers=sharers, within=True, once=once)

        def shared(node: Node, operands: tuple[Tensor, ...]) -> Op:
            op = node.op
            if isinstance(op, Compress):
                reason = "rows that it makes of others are kept and read for each request"
                misses[node.name] = Miss(self.name, node.name, reason)
                return op
            if isinstance(op, KVAppend):
                if not is_whole(op.keeps):
                    misses[node.name] = Miss(self.name, node.name, f"its cache keeps {op.keeps}")
                    return op
                hits[node.name] = None
                caches.update(t.name for t in node.outputs)
                old = op.paging if isinstance(op, PagedKVAppend) else None
                return PagedKVAppend(op.keeps, paging(old))
            if not isinstance(op, (AttentionScores, AttentionValues, FlashAttention)):
                return op
            if caches.isdisjoint(t.name for t in operands):
                return op
            if not is_whole(op.pattern):
                misses[node.name] = Miss(
                    self.name, node.name, f"it sees {op.pattern}: what it reads is not shared"
                )
                return op
            hits[node.name] = None
            return replace(op, paging=paging(op.paging))

        return rebuild(graph, shared)


def _block(program: Program) -> Expr:
    """Tokens of a block of the caches."""
    paged = (op.paging.block for op in appends(program) if isinstance(op, PagedKVAppend))
    return next(paged, ONE)
