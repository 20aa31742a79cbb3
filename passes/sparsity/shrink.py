"""Structured pruning: fewer heads, narrower blocks, a narrower stream, fewer layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError, clip
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.ir.regions import Region, Repeat
from costgraph.passes.sparsity.kept import kept, kept_heads
from costgraph.passes.sparsity.layers import by_layer, depth_of
from costgraph.passes.sparsity.listed import entries, symbols_in
from costgraph.passes.sparsity.widths import BlockedError, Sizes, found, residual, resized
from costgraph.rewriting.pipeline import Miss, Option, Outcome, Pass, Stage, limits_of, option

ZERO, ONE = Integer(0), Integer(1)
ALL = "all"
_AMOUNT = Option("number", "")
#: Options that list sizes.
_LISTED = ("heads", "kv_heads", "ffn", "hidden")
#: A symbol is a share, never a count.
_SYMBOL = Option("number", "", maximum=1)
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?\Z")
#: Ranges of layers that a sentence names.
_NAMED = 4
#: Changes that one sentence names.
_TOLD = 8


@dataclass(frozen=True)
class Amounts:
    """What a layer keeps: shares up to one, counts above; None: all of it."""

    heads: Expr | None = None
    kv_heads: Expr | None = None
    ffn: Expr | None = None


@dataclass(frozen=True)
class Shrink(Pass):
    """Makes a smaller model: shapes change, operations stay.

    Query heads go in whole groups with the head of keys and values that they share, and
    caches shrink with those. The width of a feed-forward block goes from all its matrices
    at once, that of experts from every expert. A layer that goes is passed by on the
    residual stream.
    """

    name: ClassVar[str] = "shrink"
    title: ClassVar[str] = "keep a part of heads, widths and layers (structured pruning)"
    formula: ClassVar[str] = (
        "H·dh -> g·H·dh, I -> m·I, d -> h·d, L -> the layers that stay; "
        "parameters: sum over layers of g·(2·d² + 2·d·dk) + m·3·d·I"
    )
    source: ClassVar[str] = (
        "LLM-Pruner, arXiv 2305.11627 (LLaMA-7B of 5.47 of 6.74 billion parameters: 69.32 to "
        "58.55 s, its README); Sheared-LLaMA, arXiv 2310.06694; Compresso, arXiv 2310.05015; "
        "MatFormer, arXiv 2310.07707 (ffn=1/2|1/8|…)"
    )
    stage: ClassVar[Stage] = Stage.SHAPES
    inherited: ClassVar[bool] = False

    heads: str = option("text", "", "query heads that stay: a share up to 1, or a count; per "
                        "layer 1|0.5*3|…")  # fmt: skip
    kv_heads: str = option(
        "text", "", "heads of keys and values that stay, where not as many as heads say"
    )
    ffn: str = option("text", "", "feed-forward width that stays, of experts each one's; per "
                      "layer 1|1/2*3|…")  # fmt: skip
    hidden: str = option("text", "", "width of the residual stream that stays")
    depth: Expr | str = option(
        "integer", ALL, "layers that stay: the first ones", choices=(ALL,), minimum=1,
        symbolic=False,
    )  # fmt: skip
    drop: str = option("text", "", "numbers of layers that go: 21-28|30")
    multiple: Expr = option(
        "integer", ONE, "feed-forward and stream are rounded to its multiples", minimum=1,
        symbolic=False,
    )  # fmt: skip
    first: Expr = option(
        "integer", ZERO, "first layers that keep their widths", minimum=0,
        symbolic=False,
    )  # fmt: skip
    last: Expr = option(
        "integer", ZERO, "last layers that keep their widths", minimum=0,
        symbolic=False,
    )  # fmt: skip

    @property
    def symbols(self) -> Mapping[str, str]:
        found = dict(super().symbols)
        for name in _LISTED:
            written = name.replace("_", "-")
            found |= symbols_in(_amounts(getattr(self, name), name), written)
        return found

    def run(self, program: Program, system: System) -> Outcome:
        log = _Log(self.name)
        amounts = {n: _amounts(getattr(self, n), n) for n in _LISTED}
        if len(amounts["hidden"]) > 1:
            raise PipelineError("shrink: hidden is one width: layers hand it on to one another")
        if amounts["kv_heads"] and not amounts["heads"]:
            raise PipelineError("shrink: kv-heads needs heads: state both")
        if not any(amounts.values()) and self.depth == ALL and not self.drop:
            miss = Miss(self.name, program.name, "nothing to shrink: state a size")
            return Outcome(program, (), (miss,))
        if amounts["hidden"]:
            program = self._narrowed(program, amounts["hidden"][0], log)
        made = program.rewritten(lambda graph: self._graph(graph, amounts, log))
        limits = (
            x
            for name, given in amounts.items()
            for amount in given
            for x in limits_of(self.name, name.replace("_", "-"), _SYMBOL, amount)
        )
        made = replace(made, limits=(*made.limits, *limits))
        if log.hits:
            made = made.assuming(log.told)
        return Outcome(made, tuple(dict.fromkeys(log.hits)), tuple(dict.fromkeys(log.misses)))

    def _graph(self, graph: Graph, amounts: dict[str, tuple[Expr, ...]], log: _Log) -> Graph:
        if not any(_is_layers(n.op) for g in graph.walk() for n in g.nodes):
            log.miss(graph.name, "there are no repeated layers")
            return graph
        per = {n: amounts[n] for n in ("heads", "kv_heads", "ffn")}
        apart = any(len(v) > 1 for v in per.values()) or self.first or self.last
        if not (apart or self.drop or self.depth != ALL):
            one = Amounts(*(v[0] if v else None for v in per.values()))
            return _everywhere(graph, one, self.multiple, log) if one != Amounts() else graph
        keys = self._keys(depth_of(graph, self.name), per)
        log.layers(keys)
        return by_layer(
            graph, self.name, keys, lambda b, k, n: _shrunk(b, k, self.multiple, n, log)
        )

    def _keys(self, depth: int, per: dict[str, tuple[Expr, ...]]) -> list[Amounts | None]:
        """What each layer keeps; None for those that go."""
        gone = _numbers(self.drop, depth)
        if isinstance(self.depth, Expr):
            if gone:
                raise PipelineError("shrink: depth and drop both say which layers go: give one")
            if self.depth > depth:
                raise PipelineError(f"shrink: depth = {self.depth} of {depth} layers")
            gone = frozenset(range(int(self.depth), depth))
        if len(gone) == depth:
            raise PipelineError(f"shrink: all {depth} layers would go")
        for name, given in per.items():
            if len(given) not in (0, 1, depth):
                option_name = name.replace("_", "-")
                raise PipelineError(
                    f"shrink: {option_name} has {len(given)} entries for {depth} layers: give one "
                    "for all or one for each"
                )
        first, last = int(self.first), int(self.last)
        if first + last > depth:
            raise PipelineError(f"shrink: first and last name {first + last} of {depth} layers")

        def of(layer: int) -> Amounts:
            if not first <= layer < depth - last:
                return Amounts()
            picked = (v[layer] if len(v) > 1 else v[0] if v else None for v in per.values())
            return Amounts(*picked)

        return [None if n in gone else of(n) for n in range(depth)]

    def _narrowed(self, program: Program, amount: Expr, log: _Log) -> Program:
        """The program with another residual stream, in all its graphs or in none."""
        told: list[str] = []

        def narrowed(graph: Graph) -> Graph:
            widths = residual(graph)
            if len(widths) != 1:
                shown = ", ".join(map(str, widths)) or "none"
                raise BlockedError(f"layers of {graph.name} hand on several widths ({shown})")
            new = kept(widths[0], amount, self.multiple, "hidden")
            told.append(f"hidden {widths[0]} -> {new}")
            return resized(graph, Sizes(hidden={widths[0]: new}), layer=False)

        try:
            made = program.rewritten(narrowed)
        except BlockedError as error:
            log.miss(program.name, f"hidden: {error}")
            return program
        log.hits.extend(told)
        return made


@dataclass
class _Log:
    rule: str
    hits: list[str] = field(default_factory=list)
    misses: list[Miss] = field(default_factory=list)

    @property
    def told(self) -> str:
        """What changed, in one sentence."""
        whole = list(dict.fromkeys(self.hits))
        more = f"; and {len(whole) - _TOLD} sizes more" if len(whole) > _TOLD else ""
        return f"shrink: {'; '.join(whole[:_TOLD])}{more}"

    def hit(self, what: str) -> None:
        self.hits.append(what)

    def miss(self, where: str, why: str) -> None:
        self.misses.append(Miss(self.rule, where, why))

    def layers(self, keys: Sequence[Amounts | None]) -> None:
        """Notes which layers go."""
        numbers = [n for n, key in enumerate(keys) if key is None]
        if not numbers:
            return
        runs = [
            [n for _, n in run] for _, run in groupby(enumerate(numbers), lambda p: p[1] - p[0])
        ]
        shown = ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs[:_NAMED])
        more = "" if len(runs) <= _NAMED else " …"
        self.hit(f"{len(keys) - len(numbers)} of {len(keys)} layers (without {shown}{more})")


def _is_layers(op: object) -> bool:
    return isinstance(op, Repeat) and op.rounds != "other"


def _amounts(text: str, name: str) -> tuple[Expr, ...]:
    return entries(text, _AMOUNT, f"shrink: {name.replace('_', '-')}")


def _numbers(text: str, depth: int) -> frozenset[int]:
    """The layers that a list of numbers and ranges names.

    Raises:
        PipelineError: it is malformed, or names layers that are not there.
    """
    found: set[int] = set()
    for part in text.split("|") if text else ():
        match = _RANGE.match(part.strip())
        if match is None:
            raise PipelineError(f"shrink: drop: {clip(part)} is neither a layer nor a range 3-7")
        start, end = int(match[1]), int(match[2] or match[1])
        if start > end or end >= depth:
            raise PipelineError(
                f"shrink: drop: {clip(part)} is no range of layers 0 to {depth - 1}"
            )
        found |= set(range(start, end + 1))
    return frozenset(found)


def _everywhere(graph: Graph, amounts: Amounts, multiple: Expr, log: _Log) -> Graph:
    """The graph with all its layers, however they are arranged, shrunk alike."""
    nodes = []
    for node in graph.nodes:
        op = node.op
        if isinstance(op, Region) and (not isinstance(op, Repeat) or _is_layers(op)):
            inner = [
                _everywhere(g, amounts, multiple, log)
                if any(isinstance(n.op, Repeat) for n in g.nodes)
                else _shrunk(g, amounts, multiple, node.name, log)
                for g in op.graphs
            ]
            node = replace(node, op=op.with_graphs(inner))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def shrunk(body: Graph, amounts: Amounts) -> Graph:
    """A layer with what it keeps, as :class:`Shrink` makes it."""
    return _shrunk(body, amounts, ONE, body.name, _Log(""))


def _shrunk(body: Graph, amounts: Amounts, multiple: Expr, name: str, log: _Log) -> Graph:
    """One layer with what it keeps; each kind of size by itself, so that one may miss."""
    made, hits, misses = _cut(body, amounts, multiple, name, log.rule)
    log.hits.extend(hits)
    log.misses.extend(misses)
    return made


# Searches try thousands of models of few kinds of layers: alike ones are one graph, whose
# costs are counted once.
@lru_cache(maxsize=4096)
def _cut(
    body: Graph, amounts: Amounts, multiple: Expr, name: str, rule: str
) -> tuple[Graph, tuple[str, ...], tuple[Miss, ...]]:
    log = _Log(rule)
    made = _resized(body, amounts, multiple, name, log)
    return made, tuple(log.hits), tuple(log.misses)


def _resized(body: Graph, amounts: Amounts, multiple: Expr, name: str, log: _Log) -> Graph:
    there = found(body)
    if amounts.heads is not None:
        if not there.heads:
            log.miss(name, "heads: no attention whose heads this pass knows")
        else:
            pairs = {
                pair: kept_heads(*pair, amounts.heads, amounts.kv_heads) for pair in there.heads
            }
            queries = {old[0]: new[0] for old, new in pairs.items()}
            others = {old[1]: new[1] for old, new in pairs.items()}
            if any((queries[h], others[k]) != new for (h, k), new in pairs.items()):
                log.miss(name, "heads: attention of several kinds shares heads in other ratios")
                return body
            text = ", ".join(
                f"heads {h} -> {queries[h]}" + (f" of {k} -> {others[k]}" if h != k else "")
                for h, k in pairs
            )
            body = _tried(body, Sizes(heads=queries, kv_heads=others), text, f"{name}/heads", log)
    if amounts.ffn is not None:
        if not there.inner:
            log.miss(name, "ffn: no feed-forward block that this pass knows")
        else:
            inner = {old: kept(old, amounts.ffn, multiple, "ffn") for old in there.inner}
            text = ", ".join(f"ffn {old} -> {new}" for old, new in inner.items())
            body = _tried(body, Sizes(inner=inner), text, f"{name}/ffn", log)
    return body


def _tried(body: Graph, sizes: Sizes, text: str, where: str, log: _Log) -> Graph:
    region, kind = where.rsplit("/", 1)
    try:
        made = resized(body, sizes)
    except BlockedError as error:
        log.miss(region, f"{kind}: {error}")
        return body
    if made == body:
        log.miss(region, f"{kind}: nothing changes ({text})")
        return body
    log.hit(text)
    return made
