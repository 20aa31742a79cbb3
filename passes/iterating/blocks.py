"""Denoising block by block, with and without what other blocks' positions have made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.formula.terms import Limit, Span, whole
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program
from costgraph.passes.iterating.attention import cached
from costgraph.passes.iterating.steps import denoising_phase, in_steps
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.symbols import K, N, S, T, q, symbol

ONE, ZERO = Integer(1), Integer(0)
#: Counts the blocks of an answer.
BLOCK = symbol("block")


@dataclass(frozen=True)
class Blocks(Pass):
    """The answer is written in blocks of ``size`` positions, from left to right.

    Without a cache every step still works on the whole sequence. With ``prefix`` it works on
    the block and what follows, with ``dual`` on the block alone; a step over everything
    opens each block. With ``causal`` a model that sees no later block works on the block
    and keeps what is before it; a finished block runs once more, to be kept.
    """

    name: ClassVar[str] = "blocks"
    title: ClassVar[str] = "denoise the answer block by block, with caches of the rest"
    formula: ClassVar[str] = (
        "latency = Σ over blocks of t(S + N) + (K·size/N - 1)·t(positions of a step, S + N)"
    )
    source: ClassVar[str] = (
        "semi-autoregressive sampling: Nie et al., LLaDA, arXiv 2502.09992; caches: Wu et al., "
        "Fast-dLLM, arXiv 2505.22618; causal blocks: Arriola et al., arXiv 2503.09573"
    )
    assumptions: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[Stage] = Stage.PHASES
    inherited: ClassVar[bool] = False

    size: Expr = option("integer", Integer(32), "positions of a block", minimum=1)
    cache: str = option(
        "word", "dual", "what is kept while a block is written: nothing, what is before it, all "
        "other positions, or what is before it in a model that sees no further",
        choices=("none", "prefix", "dual", "causal"),
    )  # fmt: skip
    tokens: Expr = option(
        "number", ZERO, "tokens that a step decides, on average, in place of K; 0: as K says",
        minimum=0,
    )  # fmt: skip

    def run(self, program: Program, system: System) -> Outcome:
        phase = denoising_phase(program, self.name)
        if self.tokens.is_number and 0 < self.tokens < 1:
            raise PipelineError(
                f"blocks: tokens: a step decides one token at least, not {self.tokens}"
            )
        made = program
        if self.cache != "none":
            phases = tuple(self._phases(phase, cached(phase.graph)))
            made = replace(program, phases=phases)
            blocks = N / self.size
            made = replace(
                made,
                limits=(
                    *made.limits,
                    whole(blocks, f"blocks: N must be a multiple of {self.size}"),
                    Limit(self.size, N, "a block is no longer than the answer"),
                    Limit(blocks, K, "every block takes a step at least"),
                ),
            ).assuming(
                "blocks take equally many steps"
                if self.cache != "causal"
                else "blocks take equally many steps; a finished one runs once more, to be kept"
            )
        if self.tokens != 0:
            made = in_steps(made, N / self.tokens, self.name)
            if self.tokens.free_symbols:
                least = Limit(ONE, self.tokens, "a step decides one token at least")
                made = replace(made, limits=(*made.limits, least))
        elif self.cache == "none":
            reason = "without a cache a step works on the whole sequence, in blocks or not"
            return Outcome(program, (), (Miss(self.name, program.name, reason),))
        return Outcome(made, tuple(p.name for p in made.phases))

    def _phases(self, phase: Phase, graph: Graph) -> Iterator[Phase]:
        """The phases of all blocks; those whose steps differ step over the blocks."""
        blocks, end = N / self.size, S + N
        per_block = phase.weight * self.size / N
        each = Span(BLOCK, ONE, blocks)
        if self.cache == "causal":
            seen = S + BLOCK * self.size
            yield replace(
                phase, name="prompt", graph=graph, bindings=((q, S), (T, S)), tokens=ZERO,
                weight=ONE,
            )  # fmt: skip
            bindings = ((q, self.size), (T, seen))
            yield replace(phase, graph=graph, bindings=bindings, span=each, weight=per_block)
            yield replace(
                phase, name="keep", graph=graph, bindings=bindings, span=each, weight=ONE,
                tokens=ZERO,
            )  # fmt: skip
            return
        yield replace(phase, graph=graph, bindings=((q, end), (T, end)), weight=blocks)
        rest = replace(phase, name="denoise-block", graph=graph)
        if self.cache == "dual":
            yield replace(rest, bindings=((q, self.size), (T, end)), weight=phase.weight - blocks)
            return
        left = N - (BLOCK - 1) * self.size
        yield replace(rest, bindings=((q, left), (T, end)), span=each, weight=per_block - 1)
