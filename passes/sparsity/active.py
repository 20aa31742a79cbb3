"""The pass ``active``: a step runs the neurons and heads that its tokens need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, ClassVar

from sympy import Expr, Integer, Min, Rational

from costgraph.errors import CostgraphError, PipelineError, clip
from costgraph.formula.limits import fitted
from costgraph.formula.terms import Limit
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.passes.placement.members import feed_forward
from costgraph.passes.placement.moving import Unit
from costgraph.passes.placement.streaming import each_layer, refuse_in_row
from costgraph.passes.sparsity.neurons import Part, Running, of_layer
from costgraph.passes.sparsity.widths import found
from costgraph.rewriting.choosing import Search
from costgraph.rewriting.pipeline import Miss, Option, Outcome, Pass, Stage, number, option
from costgraph.rewriting.sizes import Sizes
from costgraph.symbols import B, q, symbol

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula

ONE, ZERO = Integer(1), Integer(0)
FIT = "fit"
#: Shares are found to so many decimals; powers of an activation curve are kept to this.
DECIMALS, POWERS = 4, 9
_SHARE = Option("probability", "a share of neurons")
_CURVE = re.compile(r"(0?\.\d{1,6}):(0?\.\d{1,6})\Z")
DIVIDED = ("hot!=1",)


@dataclass(frozen=True)
class Active(Pass):
    """Neurons of feed-forward blocks, and heads, that a token does not need are left out.

    Predictors of low rank say which those are. A step runs what any of its tokens needs. Some
    neurons can lie elsewhere, in a host's memory, where its processor runs them while the
    device runs its own; those that are needed often stay on the device.
    """

    name: ClassVar[str] = "active"
    title: ClassVar[str] = "run the neurons and heads that tokens need (contextual sparsity)"
    formula: ClassVar[str] = (
        "I -> (1 - (1 - o·f)^n)·I for n tokens, heads likewise; predictors r·(d + I) and "
        "r·(d + H); hot share h with A(h) of activations: Max(hot, exchange + cold) + sum, "
        "f_hot = f·A(h)/h, f_cold = f·(1 - A(h))/(1 - h), A(h) = h^a"
    )
    source: ClassVar[str] = (
        "Liu et al., Deja Vu, arXiv 2310.17157; Song et al., PowerInfer, arXiv 2312.12456; "
        "predictors: Alizadeh et al., LLM in a flash, arXiv 2312.11514"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "active: tokens need neurons and heads independently of each other, and of one set all "
        "alike; a step computes for all its tokens what any of them needs; rows of weights are "
        "read as fast alone as together; prompts run everything",
    )
    stage: ClassVar[Stage] = Stage.NEURONS
    inherited: ClassVar[bool] = False
    once: ClassVar[bool] = True

    neurons: Expr = option(
        "probability", ONE, "share of a block's neurons that a token needs", zero=False
    )
    heads: Expr = option("probability", ONE, "share of heads that a token needs", zero=False)
    over: Expr = option(
        "number", ONE, "times as many are predicted as are needed", minimum=1, maximum=1000
    )
    rank: Expr = option("integer", ZERO, "rank of the predictors, 0 for none", minimum=0)
    ahead: bool = option(
        "flag", True, "predictors run beside the layer in front of the one that they decide for",
        under=("rank!=0",),
    )  # fmt: skip
    hot: str = option(
        "text", "1", "share of neurons that the device holds; 'fit' for as many as fit"
    )
    cold: str = option("word", "host", "where the others lie and run", under=DIVIDED)
    curve: str = option(
        "text", "", "0.26:0.8: the most active 26 % of neurons take 80 % of activations; all "
        "alike without it", under=DIVIDED,
    )  # fmt: skip
    at_batch: Expr = option(
        "integer", ONE, "batch for which 'fit' leaves room", minimum=1, symbolic=False,
        under=("hot=fit",),
    )  # fmt: skip
    at_length: Expr = option(
        "integer", Integer(2048), "context for which 'fit' leaves room", minimum=2,
        symbolic=False, under=("hot=fit",),
    )  # fmt: skip

    #: How 'fit' was decided; no option.
    note: str = ""

    @property
    def needs_tuning(self) -> bool:
        """True while it is open how many neurons the device holds."""
        return self.hot == FIT

    @property
    def held(self) -> Expr:
        """The share of neurons on the device.

        Raises:
            PipelineError: it is no share.
        """
        return number("active: hot", _SHARE, self.hot)

    @property
    def symbols(self) -> Mapping[str, str]:
        """The option that each symbol stands in, by the symbol's name."""
        if self.needs_tuning:
            return super().symbols
        return {**super().symbols, **{s.name: "hot" for s in self.held.free_symbols}}

    def search(self, program: Program, system: System) -> Search:
        """The largest share on the device for which its memory has room."""
        room = system.device.memory.room
        if room is None or not room.is_number:
            raise PipelineError(f"active: hot=fit: {system.name} states no memory")
        usual = {"at_batch": ONE, "at_length": type(self).at_length}
        share = symbol("hot_share")
        # What the device holds does not ask how active it is.
        tried = yield replace(self, hot=share.name, curve="", **usual)
        memory = tried.formula("memory")
        known = {s.name for s in memory.symbols}
        if share.name not in known:
            note = f"active: hot=fit: {program.name} has no neurons that this pass knows"
            return replace(self, hot="1", cold=type(self).cold, curve="", note=note, **usual)
        at = self._room(memory)

        def need(held: float) -> float:
            return at.evaluate(memory, {share.name: held})

        step = 10.0**-DECIMALS
        low, high = 0, 10**DECIMALS
        if need(step) > float(room):
            raise PipelineError(
                f"active: hot=fit: without any neurons {program.name} needs {need(step):.4g} byte "
                f"of the {float(room):.4g} of {system.device.name}"
            )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if need(middle * step) <= float(room) else (low, middle)
        most = 1 if need(1 - step / 10) <= float(room) else Rational(low, 10**DECIMALS)
        taken = float(self._activations(Rational(most)))
        note = (
            f"active: {float(most):.4g} of neurons fit {system.device.name} at {at}, and take "
            f"{taken:.3g} of activations"
        )
        made = replace(self, hot=f"{float(most):.{DECIMALS}g}", note=note, **usual)
        return replace(made, cold=type(self).cold, curve="") if most == 1 else made

    def _room(self, memory: Formula) -> Sizes:
        """The sizes for which 'fit' leaves room: half the context is prompt where tokens follow.

        A context that nobody gave is as long as the model has positions.
        """
        known, length = {s.name for s in memory.symbols}, int(self.at_length)
        prompt = length // 2 if "N" in known else length
        sizes = {"B": int(self.at_batch), "S": prompt, "N": length - prompt}
        sizes = {name: size for name, size in sizes.items() if name in known}
        if self.at_length != type(self).at_length:
            return Sizes(sizes)
        given = {name: size for name, size in sizes.items() if name == "B"}
        return Sizes(
            {**sizes, **fitted(memory.limits, given, {n: sizes[n] for n in sizes if n != "B"})}
        )

    @property
    def _power(self) -> Expr:
        """The power of the share of neurons that is their share of activations.

        Raises:
            PipelineError: the curve is not one, or the most active are the least.
        """
        if not self.curve:
            return ONE
        match = _CURVE.match(self.curve)
        if match is None or not 0 < float(match[1]) <= float(match[2]) < 1:
            raise PipelineError(
                f"active: curve: write 0.26:0.8, the larger number last, not {clip(self.curve)}"
            )
        return Rational(str(round(log(float(match[2])) / log(float(match[1])), POWERS)))

    def _activations(self, held: Expr) -> Expr:
        """The share of activations that the most active ``held`` of neurons take."""
        power = self._power
        if power == 1 or held in (ZERO, ONE):
            return held
        if held.is_number:
            return Rational(str(round(float(held) ** float(power), POWERS)))
        return held**power

    def _parts(self) -> tuple[tuple[Expr, Expr], tuple[Expr, Expr]]:
        """Of hot and of cold neurons their share of all, and what of them a token runs.

        Raises:
            PipelineError: more is predicted than there is.
        """
        held = self.held
        needed = ONE if self.neurons == 1 else self.neurons * self.over
        if needed.is_number and needed > 1:
            raise PipelineError(f"active: over·neurons = {needed} is more than all neurons")
        if held == 1:
            return (ONE, needed), (ZERO, ZERO)
        if held == 0:
            return (ZERO, ZERO), (ONE, needed)
        taken = self._activations(held) * needed
        # No more than all of the hot ones run: what is left is asked of the cold ones.
        hot = Min(taken, held) if taken.is_number and held.is_number else taken
        return (held, hot / held), (1 - held, (needed - hot) / (1 - held))

    def run(self, program: Program, system: System) -> Outcome:
        if self.needs_tuning:
            raise PipelineError("active: 'fit' needs a machine to be decided on; use compile")
        refuse_in_row(self.name, program)
        for name in ("neurons", "heads"):
            if getattr(self, name) == 0:
                raise PipelineError(f"active: {name}=0 leaves nothing that runs")
        (held, hot), (away, cold) = self._parts()
        heads = ONE if self.heads == 1 else self.heads * self.over
        if heads.is_number and heads > 1:
            raise PipelineError(f"active: over·heads = {heads} is more than all heads")
        if hot == 1 and heads == 1 and away == 0:
            reason = self.note or "every neuron and head runs"
            return Outcome(program, (), (Miss(self.name, program.name, reason),))
        if away == 0 and not any(p.is_single_query for p in program.phases):
            reason = "no steps of one token: others run everything"
            return Outcome(program, (), (Miss(self.name, program.name, reason),))
        if held == 0:
            raise PipelineError("active: hot=0 leaves nothing to the device: place{ffn=host}")
        unit = Unit.named(self.name, "cold", self.cold, system) if away != 0 else None
        predictors = tuple(
            name for name, x in (("neurons", self.neurons), ("heads", self.heads)) if x != 1
        )
        misses: dict[Miss, None] = {}
        hits: dict[str, None] = {}

        def share(of: Expr, single: bool) -> Expr:
            return 1 - (1 - of) ** (B * q) if single and of != 1 else ONE

        def how(single: bool) -> Running:
            return Running(
                Part(held, held * share(hot, single)),
                None if unit is None else Part(away, away * share(cold, single)),
                share(heads, single),
                unit,
                self.rank,
                predictors,
                single,
                self.ahead,
                self.name,
            )

        def new(graph: Graph, single: bool) -> Graph:
            running = how(single)
            return each_layer(graph, lambda body, name: _layer(body, running, name, hits, misses))

        made = program.rewritten_by_step(new)
        if not hits:
            missed = tuple(misses) or (Miss(self.name, program.name, "no layers"),)
            return Outcome(program, (), missed)
        if unit is not None:
            made = made.assuming(
                "active: hot and cold neurons of a block begin together, and their sums are added "
                "when the last has come; both run what was predicted, at their peaks"
            )
        if self.note:
            made = made.assuming(self.note)
        most = (
            (self.neurons * self.over, "no more neurons than there are"),
            (heads, "no more heads than there are"),
            (hot, "no more hot neurons than there are"),
        )
        limits = (Limit(x, ONE, what) for x, what in most if not x.is_number)
        return Outcome(replace(made, limits=(*made.limits, *limits)), tuple(hits), tuple(misses))


def _layer(
    body: Graph, how: Running, name: str, hits: dict[str, None], misses: dict[Miss, None]
) -> Graph:
    there = found(body)
    if "heads" in how.predictors and not there.heads:
        misses[Miss("heads", name, "no attention whose heads this pass knows")] = None
        how = replace(how, heads=ONE, predictors=tuple(p for p in how.predictors if p != "heads"))
    if how.hot.run != 1 or "neurons" in how.predictors or how.cold is not None:
        why = ""
        if feed_forward(body, experts=True):
            why = "experts choose what runs already"
        elif not feed_forward(body):
            why = "no feed-forward block that this pass knows"
        if why:
            misses[Miss("neurons", name, why)] = None
            left = tuple(p for p in how.predictors if p != "neurons")
            how = replace(how, hot=Part(ONE, ONE), cold=None, predictors=left)
    try:
        made = of_layer(body, how)
    except CostgraphError as error:
        misses[Miss("active", name, str(error))] = None
        return body
    if made != body:
        hits[name] = None
    return made
