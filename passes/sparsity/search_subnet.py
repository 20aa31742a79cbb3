"""The subnet that serves best at a size: depth, heads and widths of each layer, searched for."""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from sympy import Expr, Integer, Rational

from costgraph.counting.count import parameters
from costgraph.errors import PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.passes.precision.layers import in_order
from costgraph.passes.sparsity.kept import kept
from costgraph.passes.sparsity.layers import depth_of
from costgraph.passes.sparsity.listed import listed, written
from costgraph.passes.sparsity.shrink import Amounts, Shrink, shrunk
from costgraph.passes.sparsity.subnets import MOST, Choices, Peak, Space, Subnet, Tables
from costgraph.passes.sparsity.widths import found
from costgraph.rewriting.choosing import Search, Tried
from costgraph.rewriting.pipeline import Option, Outcome, Pass, Stage, option
from costgraph.rewriting.sizes import Sizes
from costgraph.symbols import symbol

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula
    from costgraph.rewriting.pipeline import Pass as AnyPass

#: What each layer keeps, shares of heads and width; None for layers that go.
Genome = list[tuple[Fraction, Fraction] | None]
ONE = Integer(1)
AUTO = "auto"
HEADS, FFN = "keep_heads", "keep_ffn"
_SHARE = Option("number", "", symbolic=False)


@dataclass(frozen=True)
class Row:
    """A printed search space: layers that may go, least shares of heads and width."""

    gone: int
    heads: Rational
    ffn: Rational


#: Spaces printed for LLaMA-7B by the percent of parameters that stay (arXiv 2409.17372).
ROWS: Mapping[int, Row] = MappingProxyType(
    {
        90: Row(0, Rational(9, 10), Rational(6, 10)),
        80: Row(0, Rational(8, 10), Rational(4, 10)),
        70: Row(2, Rational(3, 10), Rational(2, 10)),
        60: Row(4, Rational(6, 10), Rational(1, 10)),
        50: Row(4, Rational(6, 10), Rational(1, 10)),
    }
)
#: Times of one request or step, and what they need to be known.
METRICS = ("tpot", "ttft", "latency", "memory")


@dataclass(frozen=True)
class SearchSubnet(Pass):
    """Finds the subnet of least latency or memory at a size, and runs it as a ``shrink``.

    Of all subnets within the budget the smallest is always the fastest: so at least
    ``spend`` of the budget must be used. Where layers are alike the result is the best
    of the whole space (``exact``); elsewhere the best that evolution found.
    """

    name: ClassVar[str] = "search-subnet"
    title: ClassVar[str] = "find the fastest or smallest subnet at a number of parameters"
    formula: ClassVar[str] = (
        "min over depth and (g, m) per layer of the metric, with spend·budget <= parameters <= "
        "budget"
    )
    source: ClassVar[str] = (
        "Search for Efficient Large Language Models, arXiv 2409.17372: spaces and steps; its "
        "evolution: 100 subnets, 50 mutations, 30 crossovers, 50 epochs"
    )
    stage: ClassVar[Stage] = Stage.SUBNETS
    inherited: ClassVar[bool] = False
    once: ClassVar[bool] = True

    budget: Expr = option(
        "number", Rational(4, 5), "most parameters: a share up to 1, or a count", symbolic=False
    )
    spend: Expr = option(
        "probability", Rational(99, 100), "least share of the budget that is used", symbolic=False
    )
    metric: str = option("word", "tpot", "what is made small", choices=METRICS)
    depth: str = option("text", AUTO, "layers that may stay: 28-32")
    heads: str = option("text", AUTO, "shares of heads: 0.6-1; heads go whole")
    ffn: str = option("text", AUTO, "shares of the feed-forward width: 0.1-1")
    heads_step: Expr = option(
        "number", Rational(1, 100), "step of shares of heads", symbolic=False, maximum=1
    )
    ffn_step: Expr = option(
        "number", Rational(1, 20), "step of shares of the width", symbolic=False, maximum=1
    )
    multiple: Expr = option(
        "integer", Integer(64), "widths are rounded to its multiples", minimum=1, symbolic=False
    )
    method: str = option(
        "word", AUTO, "exact where layers are alike, else evolution",
        choices=(AUTO, "exact", "evolution"),
    )  # fmt: skip
    population: Expr = option(
        "integer", Integer(16), "evolution: subnets of a generation", minimum=4, maximum=200,
        symbolic=False, under=("method=auto|evolution",),
    )  # fmt: skip
    generations: Expr = option(
        "integer",
        Integer(8),
        "evolution: generations",
        minimum=1,
        maximum=100,
        symbolic=False,
        under=("method=auto|evolution",),
    )
    seed: Expr = option(
        "integer",
        Integer(0),
        "evolution: seed",
        minimum=0,
        symbolic=False,
        under=("method=auto|evolution",),
    )
    at_batch: Expr = option("integer", ONE, "batch", minimum=1, symbolic=False)
    at_context: Expr = option(
        "integer", Integer(1024), "context", minimum=1, symbolic=False, under=("metric=tpot",)
    )
    at_prompt: Expr = option(
        "integer",
        Integer(1024),
        "prompt",
        minimum=1,
        symbolic=False,
        under=("metric=ttft|latency|memory",),
    )
    at_tokens: Expr = option(
        "integer",
        Integer(256),
        "generated tokens",
        minimum=2,
        symbolic=False,
        under=("metric=latency|memory",),
    )

    #: What was found, and a sentence about it.
    chosen: Shrink | None = None
    note: str = ""

    @property
    def needs_tuning(self) -> bool:
        return self.chosen is None

    def run(self, program: Program, system: System) -> Outcome:
        if self.chosen is None:
            raise PipelineError("search-subnet is decided by search: compile it for a device")
        outcome = self.chosen.run(program, system)
        made = outcome.program.assuming(self.note)
        # Layers that keep all of a size are what was searched for, and no miss.
        return Outcome(made, outcome.hits or (program.name,), ())

    def search(self, program: Program, system: System) -> Search:
        problem = Problem.of(self, program, system)
        if self.method != "evolution" and problem.is_alike:
            space = yield from problem.space()
            if space is not None and space.entries <= MOST:
                best = Tables(space).least(problem.low, problem.high)
                if best is None:
                    raise PipelineError(problem.none)
                chosen = problem.shrunk(best)
                tried = yield chosen
                value, sizes = problem.value(tried)
                # Memory: of the last phase alone, the least of which bounds that of all.
                if math.isclose(value, best.cost, rel_tol=1e-6):
                    return problem.decided(chosen, best.size, value, sizes, "exact")
        if self.method == "exact":
            raise PipelineError(
                "search-subnet: layers differ, or their costs do not add up: method=evolution"
            )
        return (yield from _evolved(problem))


@dataclass(frozen=True)
class Problem:
    """A search in a model: sizes of its layers and the ends of the space.

    Attributes:
        item, program, system: what is searched for, and where.
        layers: of the model.
        pair: query and key/value heads; ``width``: feed-forward width of the first layer.
        bodies: of the layers, in order.
        is_alike: all layers are one region, of one kind of heads and width.
        low, high: parameters.
        depths: that may stay; ``heads``, ``ffn``: least and largest shares.
    """

    item: SearchSubnet
    program: Program
    system: System
    layers: int
    pair: tuple[Expr, Expr]
    width: Expr
    is_alike: bool
    low: int
    high: int
    depths: tuple[int, ...]
    heads: tuple[Rational, Rational]
    ffn: tuple[Rational, Rational]
    bodies: tuple[Graph, ...]

    @classmethod
    def of(cls, item: SearchSubnet, program: Program, system: System) -> Problem:
        """The problem that the options state.

        Raises:
            PipelineError: the model has no such layers, or an option does not fit it.
        """
        layers = depth_of(program.graph, item.name)
        _, regions = in_order(program.graph, item.name)
        parts = [(r.op.body, int(r.op.count)) for r in regions if isinstance(r.op, Repeat)]
        first = found(parts[0][0])
        if not first.heads or not first.inner:
            raise PipelineError(
                f"search-subnet: layers of {program.name} have no attention heads and "
                "feed-forward width that shrink knows"
            )
        alike = len(parts) == 1 and len(first.heads) == len(first.inner) == 1
        total = parameters(program)
        if not total.is_number:
            raise PipelineError(f"search-subnet: {program.name} has {total} parameters: no number")
        high = int(total * item.budget if item.budget <= 1 else item.budget)
        percent = 100 * high / int(total)
        row = ROWS[min(ROWS, key=lambda p: abs(p - percent))]
        depths = _ends(item.depth, "depth", (Integer(layers - row.gone), Integer(layers)))
        if not (depths[0].is_Integer and depths[1].is_Integer and 1 <= depths[0] <= layers):
            raise PipelineError(f"search-subnet: depth = {item.depth} of {layers} layers")
        if depths[1] > layers:
            raise PipelineError(f"search-subnet: depth = {item.depth} of {layers} layers")
        return cls(
            item,
            program,
            system,
            layers,
            first.heads[0],
            first.inner[0],
            alike,
            int(high * item.spend),
            high,
            tuple(range(int(depths[0]), int(depths[1]) + 1)),
            _shares(item.heads, "heads", row.heads),
            _shares(item.ffn, "ffn", row.ffn),
            tuple(b for b, count in parts for _ in range(count)),
        )

    @property
    def none(self) -> str:
        """Why there is no subnet."""
        return (
            f"search-subnet: no subnet of the space has {self.low:,} to {self.high:,} parameters: "
            "widen depth, heads or ffn, or lower spend"
        )

    # --- what a layer may keep

    @property
    def units(self) -> int:
        """Groups of heads that go together: as many as heads of keys; queries that share one."""
        return int(self.pair[0] if self.pair[1] == 1 else self.pair[1])

    def kept_heads(self) -> tuple[int, ...]:
        """Heads of keys and values (of queries where all share one) that a layer may keep."""
        return tuple(
            sorted(
                {
                    int(kept(Integer(self.units), s))
                    for s in _steps(*self.heads, self.item.heads_step)
                }
            )
        )

    def kept_widths(self) -> tuple[int, ...]:
        """Feed-forward widths that a layer may keep."""
        steps = _steps(*self.ffn, self.item.ffn_step)
        return tuple(sorted({int(kept(self.width, s, self.item.multiple)) for s in steps}))

    # --- candidates

    def shrink(self, layers: Genome) -> Shrink:
        """The pass that keeps these shares of heads and width in each layer."""
        gone = [n for n, layer in enumerate(layers) if layer is None]
        filled: list[tuple[Fraction, Fraction]] = []
        for layer in layers:  # what is written for layers that go does not matter
            filled.append(layer or (filled[-1] if filled else (Fraction(1), Fraction(1))))
        return Shrink(
            heads=written(a for a, _ in filled),
            ffn=written(m for _, m in filled),
            drop="|".join(map(str, gone)),
        )

    def shrunk(self, subnet: Subnet) -> Shrink:
        """The pass that makes a subnet."""
        units, widths = self.units, self.kept_widths()
        unit = math.gcd(*widths)
        made: Genome = [
            (Fraction(a, units), Fraction(m * unit, int(self.width)))
            for a, m in zip(subnet.heads, subnet.ffn, strict=True)
        ]
        return self.shrink(made + [None] * (self.layers - subnet.depth))

    def value(self, tried: Tried) -> tuple[float, Sizes]:
        """The metric of a candidate, and the sizes of the request at which it is that."""
        formula = tried.formula(self.item.metric)
        sizes = Sizes.of(self.item, [formula])
        return sizes.evaluate(formula), sizes

    # --- the exact space

    def space(self) -> Generator[AnyPass | None, Tried, Space | None]:
        """Costs of every choice of a layer, from two models whose shares are symbols.

        None where heads and width do not cost what they cost alone.
        """
        deepest = max(self.depths)
        if deepest < 2:
            return None
        units, full = self.units, int(self.width)
        kept_units, widths = self.kept_heads(), self.kept_widths()
        models = [Shrink(heads=HEADS, ffn=FFN, depth=Integer(n)) for n in (deepest, deepest - 1)]
        counts = [parameters(m.run(self.program, self.system).program) for m in models]
        formulas = []
        for model in models:
            tried = yield model
            formulas.append(_of_last(tried.formula(self.item.metric), self.program))
        sizes = Sizes.of(self.item, formulas, free=(HEADS, FFN))

        def both(k: int, w: int) -> tuple[float, float]:
            """What a layer costs, and what all others together and the rest do."""
            at = {HEADS: k / units, FFN: w / full}
            whole, less = (sizes.evaluate(f, at) for f in formulas)
            return whole - less, whole - deepest * (whole - less)

        low = both(kept_units[0], widths[0])
        by_heads = [both(k, widths[0]) for k in kept_units]
        by_width = [both(kept_units[0], w) for w in widths]
        top = both(kept_units[-1], widths[-1])
        if not math.isclose(top[0], by_heads[-1][0] + by_width[-1][0] - low[0], rel_tol=1e-9):
            return None
        each = (counts[0] - counts[1]).expand()
        per = [int(each.coeff(symbol(n))) for n in (HEADS, FFN)]
        bare = int(each.subs({symbol(HEADS): 0, symbol(FFN): 0}))
        unit = math.gcd(*widths)
        inner = tuple(w // unit for w in widths)
        return Space(
            self.depths,
            Choices(kept_units, tuple(c for c, _ in by_heads), per[0] // units),
            Choices(inner, tuple(c - low[0] for c, _ in by_width), per[1] // full * unit),
            low[1],
            int(parameters(self.program)) - self.layers * (bare + sum(per)),
            bare,
            _peaks([r - low[1] for _, r in by_heads], [r - low[1] for _, r in by_width],
                   kept_units, inner, low[1]),
        )  # fmt: skip

    def decided(
        self, chosen: Shrink, size: int, value: float, sizes: Sizes, how: str
    ) -> SearchSubnet:
        """The pass with what was found, and a sentence that says what, where and how."""
        item = self.item
        unit = "B" if item.metric == "memory" else "s"
        least = "least" if how == "exact" else "the best found by evolution"
        total = int(parameters(self.program))
        note = (
            f"search-subnet: {chosen.spec()}, {size:,} of {total:,} parameters "
            f"({size / total:.1%}), {item.metric} {value:.4g} {unit} at {sizes}: {least} of the "
            f"space between {self.low:,} and {self.high:,} parameters; quality is not modelled"
        )
        return replace(item, chosen=chosen, note=note)


def _of_last(formula: Formula, program: Program) -> Formula:
    """The formula; of memory what the last phase needs.

    A subnet that needs least in the last phase, and there most of all phases, needs least.
    """
    last = program.phases[-1].name
    if formula.name != "memory":
        return formula
    terms = (
        replace(t, arms=tuple(a for a in t.arms if a.resource == last) or t.arms)
        for t in formula.terms
    )
    return replace(formula, terms=tuple(terms))


def _peaks(
    heads: Sequence[float],
    ffn: Sequence[float],
    units: Sequence[int],
    inner: Sequence[int],
    scale: float,
) -> tuple[Peak, ...]:
    """What the widest layer adds, by what it keeps of either kind; nothing if that is noise."""
    values = sorted({v for v in (*heads, *ffn) if v > 1e-9 * abs(scale)})
    if not values:
        return ()
    return tuple(
        Peak(
            v,
            max(u for u, c in zip(units, heads, strict=True) if c <= v),
            max(w for w, c in zip(inner, ffn, strict=True) if c <= v),
        )
        for v in (0.0, *values)
        if min(heads) <= v and min(ffn) <= v
    )


def _ends(text: str, name: str, usual: tuple[Expr, Expr]) -> tuple[Expr, Expr]:
    """The ends of a range ``a-b``, or one value twice."""
    if text == AUTO:
        return usual
    low, _, high = text.partition("-")
    ends = [listed(t, _SHARE, f"search-subnet: {name}") for t in (low, high or low)]
    if ends[0] > ends[1]:
        raise PipelineError(f"search-subnet: {name} = {text} ends before it starts")
    return ends[0], ends[1]


def _shares(text: str, name: str, least: Rational) -> tuple[Rational, Rational]:
    low, high = _ends(text, name, (least, ONE))
    if high > 1:
        raise PipelineError(f"search-subnet: {name} = {text} are shares: at most 1")
    return Rational(low), Rational(high)


def _steps(low: Rational, high: Rational, step: Expr) -> Iterator[Rational]:
    count = int((high - low) / step)
    yield from (low + n * step for n in range(count + 1))
    yield high


def _evolved(problem: Problem) -> Search:
    """Mutation and crossover of layers; each candidate is compiled and its metric taken."""
    item, rng = problem.item, random.Random(int(problem.item.seed))
    heads = [Fraction(k, problem.units) for k in problem.kept_heads()]
    widths = [Fraction(w, int(problem.width)) for w in problem.kept_widths()]

    def drawn() -> Genome:
        gone = set(rng.sample(range(problem.layers), problem.layers - rng.choice(problem.depths)))
        a, m = rng.choice(heads), rng.choice(widths)
        return [None if n in gone else (a, m) for n in range(problem.layers)]

    sizes: dict[tuple[int, object], int] = {}

    def of(layer: int, keeps: tuple[Fraction, Fraction]) -> int:
        """Parameters of a layer."""
        body = problem.bodies[layer]
        if (id(body), keeps) not in sizes:
            amounts = Amounts(Rational(keeps[0]), None, Rational(keeps[1]))
            sizes[id(body), keeps] = int(parameters(shrunk(body, amounts)))
        return sizes[id(body), keeps]

    whole = (Fraction(1), Fraction(1))
    rest = int(parameters(problem.program)) - sum(of(n, whole) for n in range(problem.layers))

    def size_of(genome: Genome) -> int:
        return rest + sum(of(n, layer) for n, layer in enumerate(genome) if layer is not None)

    def moved(genome: Genome) -> Genome | None:
        """The genome with single layers changed until its size is within the budget."""
        genome, size = list(genome), size_of(genome)
        for _ in range(40 * problem.layers):
            if problem.low <= size <= problem.high:
                return genome
            places = [n for n, layer in enumerate(genome) if layer is not None]
            n, up = rng.choice(places), size < problem.low
            before = a, m = genome[n] or (heads[-1], widths[-1])
            if rng.random() < 0.5:
                a = _next(heads, a, up)
            else:
                m = _next(widths, m, up)
            if (a, m) != before:
                size += of(n, (a, m)) - of(n, before)
            genome[n] = (a, m)
        return None

    def mutated(genome: Genome) -> Genome:
        made = list(genome)
        for n, layer in enumerate(made):
            if layer is not None and rng.random() < 0.2:
                made[n] = (rng.choice(heads), rng.choice(widths))
        return made

    def crossed(a: Genome, b: Genome) -> Genome:
        mixed = [rng.choice(pair) for pair in zip(a, b, strict=True)]
        depth = sum(layer is not None for layer in mixed)
        return mixed if depth in problem.depths else list(a)

    scored: dict[tuple[object, ...], tuple[float, Genome, Sizes]] = {}
    count = int(item.population)
    for generation in range(int(item.generations) + 1):
        fresh: list[Genome] = []
        for _ in range(count):
            best = sorted(scored.values(), key=lambda s: s[0])[: max(2, count // 4)]
            if generation == 0:
                genome = drawn()
            elif rng.random() < 0.6 or len(best) < 2:
                genome = mutated(rng.choice(best)[1])
            else:
                genome = crossed(rng.choice(best)[1], rng.choice(best)[1])
            fitted = moved(genome)
            if fitted is not None:
                fresh.append(fitted)
        if not fresh and not scored:
            raise PipelineError(problem.none)
        for genome in fresh:
            if tuple(genome) not in scored:
                tried = yield problem.shrink(genome)
                value, at = problem.value(tried)
                scored[tuple(genome)] = (value, genome, at)
    value, genome, at = min(scored.values(), key=lambda s: s[0])
    chosen = problem.shrink(genome)
    return problem.decided(chosen, size_of(genome), value, at, "evolution")


def _next(values: list[Fraction], value: Fraction, up: bool) -> Fraction:
    place = values.index(value) if value in values else len(values) - 1
    return values[min(len(values) - 1, place + 1) if up else max(0, place - 1)]
