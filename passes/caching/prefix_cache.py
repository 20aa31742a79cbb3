"""Prompts of which a part is in a cache of earlier requests (prefix caching)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

from sympy import Expr, Integer, Rational

from costgraph.errors import PipelineError
from costgraph.formula.terms import Limit
from costgraph.hardware.systems import System
from costgraph.ir.program import Phase, Program
from costgraph.passes.caching.prompts import (
    MEMORY,
    as_found,
    behind,
    hitting,
    is_tower,
    level_of,
    of_some,
    of_the_mean,
    overlap_option,
    prompt_of,
    refuse_away,
    refuse_pruned,
    reloaded,
    showing,
    shown,
    told,
    whole_blocks,
)
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.symbols import S

ONE = Integer(1)
BY_CHANCE = (
    "prefix-cache: prompts find their part each on its own: work and traffic are the means over "
    "all that can come, the time is that of these means, at most the mean time, and memory is that "
    "of the mean: without hits a batch needs what it needs without the pass"
)
#: ``tokens`` where ``share`` says how many are found.
SHARE = "share"
#: Where images are, of what is found.
NEW, FOUND = "new", "found"
IMAGES: Mapping[str, str] = MappingProxyType(
    {
        NEW: "images stand behind what is found: all of them are encoded (images=found: none is)",
        FOUND: "images are among what is found: none is encoded",
    }
)
#: Where some prompts find nothing.
MISSED = "images are among what is found: those of prompts that find nothing are encoded"


@dataclass(frozen=True)
class PrefixCache(Pass):
    """A part of each prompt was read before: its rows are attended and not computed.

    ``share`` is how much of the prompt is found (the hit rate in tokens), ``tokens`` how many
    instead; of both only whole blocks count. ``chance`` is how many prompts find it at all,
    each on its own. Rows are in memory, or come over the link from where they are kept.
    """

    name: ClassVar[str] = "prefix-cache"
    title: ClassVar[str] = "a part of each prompt is in a cache, here or elsewhere"
    formula: ClassVar[str] = (
        "prompt: q = S - chance·cached, T = S, cached = floor(share·S/block)·block, pairs the mean "
        "of those of hits and misses; from elsewhere a "
        "layer is Max(compute, its cached rows / BW_link)"
    )
    source: ClassVar[str] = (
        "Kwon et al., PagedAttention, arXiv 2309.06180 (blocks); Zheng et al., SGLang, arXiv "
        "2312.07104 (prefixes of earlier requests); Gao et al., CachedAttention, arXiv 2403.19708 "
        "(caches in host memory and on disk)"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "prefix-cache: the same part of every prompt is found, or nothing (chance); where parts "
        "differ, the mean time is another, since attention grows with the square",
    )
    stage: ClassVar[Stage] = Stage.PREFIXES
    once: ClassVar[bool] = True

    share: Expr = option(
        "probability", Rational(1, 2), "how much of a prompt is found", under=("tokens=share",)
    )
    tokens: Expr | str = option(
        "integer", SHARE, "tokens that are found, instead of a share", minimum=0, choices=(SHARE,)
    )
    chance: Expr = option("probability", ONE, "share of the prompts that find it")
    block: Expr = option(
        "integer",
        ONE,
        "tokens of a block: whole ones are found; 1: a share is not rounded",
        minimum=1,
    )
    images: str = option(
        "word", NEW, "whether images of the prompt stand behind what is found or in it",
        choices=(NEW, FOUND),
    )  # fmt: skip
    kept: str = option(
        "word", MEMORY, "where the cache lies: memory, host, disk, or a level of the device by name"
    )
    overlap: bool = overlap_option("kept!=memory")

    def run(self, program: Program, system: System) -> Outcome:
        front, prompt = prompt_of(program, self.name)
        refuse_away(program, self.name)
        length, pictures = prompt.query, shown(prompt)
        if pictures == 0 and self.images != NEW:
            raise PipelineError(f"{self.name}: images: the prompt of {program.name} holds none")
        found = self.share * length if isinstance(self.tokens, str) else self.tokens
        cached = whole_blocks(found, self.block)
        if cached == 0 or self.chance == 0:
            return Outcome(program, (), (Miss(self.name, prompt.name, "nothing is found"),))
        made = behind(prompt, length - self.chance * cached)
        if self.chance != 1:
            if length != S:
                raise PipelineError(
                    f"{self.name}: chance: of prompts of {length} tokens, those that miss are not "
                    "counted apart; leave chance out"
                )
            made = replace(made, graph=hitting(self.name, made.graph, self.chance, cached))
        level = level_of(self.name, self.kept, system)
        said = as_found(self.name, program)
        if self.chance != 1:
            said = (*said, BY_CHANCE)
            if bent := of_the_mean(made.graph):
                said = (*said, f"{self.name}: of the mean tokens by chance: {', '.join(bent)}")
        if level:
            graph = reloaded(made.graph, level, self.overlap, self.name)
            made, said = replace(made, graph=graph), (*said, *told(self.overlap))
        why = "the last token of a prompt is computed: it makes the logits"
        limits = [Limit(cached, length - 1, why)]
        missed = ONE - self.chance
        towers: tuple[Phase, ...] = ()
        if pictures != 0:
            limits.append(self._room(pictures, cached, length))
            images = IMAGES[self.images] if self.images == NEW or missed == 0 else MISSED
            said = (*said, f"prefix-cache: {images}")
        if self.images == FOUND:
            refuse_pruned(program, self.name, "how many of those found are there is not counted")
            made, towers = showing(made, missed), tuple(p for p in front if is_tower(p))
        changed = {p.name: of_some(p, missed) for p in towers} | {prompt.name: made}
        left = () if missed != 0 else tuple(p.name for p in towers)
        phases = tuple(changed.get(p.name, p) for p in program.phases if p.name not in left)
        done = replace(program, phases=phases, limits=(*program.limits, *limits))
        return Outcome(done.assuming(*said), (prompt.name,))

    def _room(self, pictures: Expr, cached: Expr, length: Expr) -> Limit:
        """That images stand where they are said to stand."""
        if self.images == FOUND:
            return Limit(pictures, cached, "images are among the tokens that are found")
        return Limit(pictures, length - cached, "images stand behind the tokens that are found")
