"""The pass ``offload``: weights, caches and activations in host memory or storage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

from sympy import Expr, Integer, ceiling

from costgraph.errors import PipelineError, clip, nearest
from costgraph.formula.terms import Limit
from costgraph.hardware.systems import HOST, System
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role
from costgraph.ops import KVAppend
from costgraph.passes.placement import shares as sharing
from costgraph.passes.placement.members import attention
from costgraph.passes.placement.moving import Unit
from costgraph.passes.placement.optimum import best_shares
from costgraph.passes.placement.shares import Shares, away
from costgraph.passes.placement.streaming import (
    ATTENTION,
    Plan,
    carried_out,
    chooses_rows,
    has_experts,
    layers_of,
    refuse_in_row,
    stays,
    unreached,
)
from costgraph.rewriting.choosing import Search
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.symbols import B

ONE, ZERO = Integer(1), Integer(0)
#: With which options the workload says something that shares are decided for.
DECIDED = ("policy=optimal", "preset=flexgen")
#: What is kept elsewhere: the options that say where.
KEPT = ("weights", "caches", "activations")


#: What is said of layers with experts, by which of them come.
EXPERTS: Mapping[str, str] = MappingProxyType(
    {
        "all": "offload: all experts of a layer come, whichever the router chooses: they are on "
        "their way before it does (experts=routed: those alone that it chooses)",
        "routed": "offload: of experts those come that the tokens of a step choose, in their "
        "expected number and as if the choice was foreseen before the layer begins; buffers have "
        "room for all",
    }
)


#: What is said of caches whose rows are chosen, by which of them come.
ROWS: Mapping[str, str] = MappingProxyType(
    {
        "all": "offload: all rows of a cache come, whichever are chosen of them (rows=chosen: "
        "those alone that a step reads)",
        "chosen": "offload: of caches whose rows are chosen those come that a step reads, to "
        "choose or to attend, as if the choice was foreseen before the layer begins; buffers "
        "have room for all",
    }
)


@dataclass(frozen=True)
class Preset:
    """What a program that offloads does where nothing else is said."""

    weights: str
    overlap: bool = True
    whole: bool = False
    policy: str = ""


#: Programs that offload, by name.
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "zero-inference": Preset("host:1"),
        "accelerate": Preset("host:1", overlap=False, whole=True),
        "flexgen": Preset("", policy="optimal"),
    }
)


@dataclass(frozen=True)
class Offload(Pass):
    """Parts of a model in host memory or on disk, streamed to the device layer by layer.

    With ``overlap`` the next layer's part arrives while a layer computes, else before it
    does. ``blocks`` groups of sequences pass through a layer on one read of its weights.
    With ``attention=host`` decode steps compute attention where the caches are: queries, keys
    and values of new tokens go there, and results come back.
    """

    name: ClassVar[str] = "offload"
    title: ClassVar[str] = "keep weights, caches and activations in host memory or on disk"
    formula: ClassVar[str] = (
        "layer: Max(compute, bytes away / BW_link, bytes at a level / BW_level); without overlap "
        "the sum; weights hide from B·s >= w·F/(2·BW_link) tokens on"
    )
    source: ClassVar[str] = (
        "Sheng et al., FlexGen, arXiv 2303.06865 (shares, blocks, attention on the host); "
        "Aminabadi et al., DeepSpeed Inference, arXiv 2207.00032 (ZeRO-Inference)"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "offload: shares are the same in all layers; embedding and output layer stay on the "
        "device; what is streamed passes through buffers of one layer (two with overlap)",
    )
    stage: ClassVar[Stage] = Stage.OFFLOADING
    inherited: ClassVar[bool] = False
    once: ClassVar[bool] = True

    weights: str = option(
        "text", "", "shares of the layers' weights: host:0.6|disk:0.1, or host for all of them",
        zero=True,
    )  # fmt: skip
    caches: str = option("text", "", "shares of the caches, likewise", zero=True)
    activations: str = option(
        "text", "", "shares of what passes between layers, likewise", zero=True
    )
    overlap: bool = option("flag", True, "the next layer's part arrives while a layer computes")
    blocks: Expr = option(
        "integer", ONE, "groups of sequences that one read of a layer's weights serves", minimum=1
    )
    attention: str = option(
        "word", "device", "who computes attention in decode steps", choices=("device", "host")
    )
    on: str = option(
        "word", "all", "operations whose weights are kept elsewhere: all, or up_proj|down_proj"
    )
    active: Expr = option(
        "probability", ONE, "share of the rows of those weights that a token needs: neurons that "
        "are active, or predicted to be",
    )  # fmt: skip
    window: Expr = option(
        "integer", ZERO, "active: so many tokens before leave their rows in the memory", minimum=0
    )
    experts: str = option(
        "word", "all", "which experts of a layer come: all, or those alone that the tokens of a "
        "step choose (expected number)", choices=("all", "routed"),
    )  # fmt: skip
    rows: str = option(
        "word", "all", "which rows of a cache come, where some are chosen: all, or those alone "
        "that a step reads", choices=("all", "chosen"),
    )  # fmt: skip
    whole: bool = option(
        "flag", False, "whole layers are kept here or there; none is streamed beside another"
    )
    preset: str = option(
        "word", "", "what a program does that offloads; other options still count",
        choices=("", *PRESETS),
    )  # fmt: skip
    policy: str = option(
        "word", "", "'optimal': the shares that a linear program finds", choices=("", "optimal")
    )
    at_batch: Expr = option(
        "integer", ONE, "batch at which 'optimal' is decided", minimum=1, symbolic=False,
        under=DECIDED,
    )  # fmt: skip
    at_prompt: Expr = option(
        "integer", Integer(512), "prompt at which 'optimal' is decided", minimum=1,
        symbolic=False, under=DECIDED,
    )  # fmt: skip
    at_tokens: Expr = option(
        "integer", Integer(32), "tokens generated at which 'optimal' is decided", minimum=2,
        symbolic=False, under=DECIDED,
    )  # fmt: skip

    #: How 'optimal' was decided; no option.
    note: str = ""

    def resolved(self) -> Offload:
        """The pass with what its preset says written out."""
        if not self.preset:
            return self
        found = PRESETS[self.preset]
        return replace(
            self,
            preset="",
            weights=self.weights or found.weights,
            overlap=self.overlap and found.overlap,
            whole=self.whole or found.whole,
            policy=self.policy or found.policy,
        )

    def refuse_idle(self, given: Iterable[str]) -> None:
        """As :meth:`Pass.refuse_idle`; flags that a preset decides otherwise are refused, too."""
        names = tuple(given)
        super().refuse_idle(names)
        if not self.preset:
            return
        resolved = self.resolved()
        for name in ("overlap", "whole"):
            if name in names and getattr(self, name) != getattr(resolved, name):
                said = str(getattr(resolved, name)).lower()
                raise PipelineError(f"offload: preset={self.preset} is {name}={said}: give one")

    @property
    def needs_tuning(self) -> bool:
        """True while shares wait for the linear program."""
        return self.resolved().policy == "optimal"

    def search(self, program: Program, system: System) -> Search:
        given = self.resolved()
        if any(getattr(given, name) for name in KEPT):
            raise PipelineError("offload: policy=optimal finds the shares: give none")
        if given.whole:
            raise PipelineError("offload: policy=optimal finds shares, not whole layers")
        return best_shares(given, program, system)

    @property
    def symbols(self) -> Mapping[str, str]:
        """The option that each symbol stands in, by the symbol's name."""
        found = dict(super().symbols)
        for name in KEPT:
            for symbol in sorted(s.name for s in away(self.shares(name)).free_symbols):
                found[symbol] = name
        return found

    def shares(self, name: str) -> Shares:
        """The shares of weights, caches or activations.

        Raises:
            PipelineError: they are not written as shares are.
        """
        return sharing.parse(f"offload: {name}", getattr(self, name))

    def plan(self, program: Program, system: System) -> Plan:
        """What is kept where.

        Raises:
            PipelineError: options contradict one another, or the system lacks a level.
        """
        weights, caches, activations = (self.shares(name) for name in KEPT)
        attend_at = ""
        if self.attention == "host":
            attend_at, caches = HOST, caches or ((HOST, ONE),)
            if caches != ((HOST, ONE),):
                raise PipelineError(
                    "offload: attention=host computes where all caches are: caches=host:1, not "
                    f"{sharing.text_of(caches)}"
                )
        if self.whole:
            if self.overlap:
                raise PipelineError(
                    "offload: whole=true brings one layer after the other: overlap=false"
                )
            weights = _rounded(weights, program)
        named = {
            level: name
            for name, shares in zip(KEPT, (weights, caches, activations), strict=True)
            for level, _ in shares
        }
        sharing.check_levels(self.name, named, system)
        if attend_at and not system.device.tiers[attend_at].peaks:
            raise PipelineError(
                f"offload: attention=host: {system.name} states no processor of its host: "
                f"name one ({system.device.name}+epyc-9654)"
            )
        if self.window != 0 and self.active == 1:
            raise PipelineError("offload: window says which active rows stay: give active as well")
        if self.active != 1 and self.experts != "all":
            raise PipelineError(
                "offload: active says which rows come, experts=routed which experts: give one"
            )
        if not weights and not self.note:
            for name in ("on", "active", "experts"):
                if getattr(self, name) != getattr(Offload, name):
                    raise PipelineError(
                        f"offload: {name} is about weights kept elsewhere: give weights"
                    )
        if self.rows != "all" and (attend_at or not (caches or self.note)):
            raise PipelineError("offload: rows says which rows of caches come: give caches alone")
        on = () if self.on == "all" else tuple(self.on.split("|"))
        nodes = {n.name for p in program.phases for g in p.graph.walk() for n in g.nodes}
        for name in on:
            if name not in nodes:
                near = nearest(name, nodes)
                raise PipelineError(f"offload: on: no operation of the model is {clip(name)}{near}")
        return Plan(
            weights,
            caches,
            activations,
            self.overlap,
            self.blocks,
            ((ATTENTION, Unit.of(system.device, attend_at)),) if attend_at else (),
            on=on,
            active=self.active,
            window=self.window,
            routed=self.experts == "routed",
            found=self.rows == "chosen",
            made_by=self.name,
        )

    def run(self, program: Program, system: System) -> Outcome:
        if self.preset:
            return self.resolved().run(program, system)
        if self.policy:
            raise PipelineError("offload: 'optimal' needs a machine to be decided on; use compile")
        refuse_in_row(self.name, program)
        plan = self.plan(program, system)
        if not (plan.weights or plan.caches or plan.activations or plan.blocks != 1):
            reason = self.note or "everything stays on the device"
            return Outcome(program, (), (Miss(self.name, program.name, reason),))
        placed = [s.made_by for s in program.history if s.made_by.name == "place"]
        if plan.attend_at and placed:
            raise PipelineError("offload: place says who attends: give one of the two")
        if plan.caches and any(p.attends_away for p in placed):
            raise PipelineError("offload: caches lie where place lets attention run: give one")
        heads = any(getattr(s.made_by, "heads", 1) != 1 for s in program.history
                    if s.made_by.name == "active")  # fmt: skip
        if plan.caches and heads:
            raise PipelineError("offload: caches stay where active reads a part of their heads")
        made, hits = carried_out(program, plan)
        misses = tuple(self._misses(program, plan))
        if not hits:
            return Outcome(program, (), misses or (_nothing(self.name, program),))
        if self.note:
            made = made.assuming(self.note)
        if plan.overlap:
            made = made.assuming(
                "offload: a layer and what is streamed meanwhile begin and end together, over all "
                "steps: the first layer's part arrives during the last layer of the step before"
            )
        if plan.active != 1:
            made = made.assuming(
                "offload: tokens need rows of weights independently of each other; what is in the "
                "memory is computed as if all of it were there"
            )
        if plan.weights and any(has_experts(body, plan) for body in _bodies(program)):
            made = made.assuming(EXPERTS[self.experts])
        if plan.caches and not plan.attend_at and any(map(_chooses, _bodies(program))):
            made = made.assuming(ROWS[self.rows])
        if plan.caches and _reads_others(program):
            made = made.assuming(
                "offload: caches that several layers read come once a step, for the layer that "
                "keeps them; the room that they take until the last has read them is not counted"
            )
        if plan.caches and any(map(stays, _bodies(program))):
            made = made.assuming(
                "offload: what rows are chosen by beside keys (books, rows of blocks) stays on the "
                "device"
            )
        if plan.attend_at:
            made = made.assuming(
                "offload: prompts attend on the device; what attention on the host makes beside "
                "its result is counted in the device's memory"
            )
        limits = (
            *(
                Limit(away(shares), ONE, f"shares of {name}")
                for name, shares in zip(
                    KEPT, (plan.weights, plan.caches, plan.activations), strict=True
                )
                if away(shares).free_symbols
            ),
            *((Limit(plan.blocks, B, "a sequence for each group"),) if plan.blocks != 1 else ()),
        )
        return Outcome(replace(made, limits=(*made.limits, *limits)), hits, misses)

    def _misses(self, program: Program, plan: Plan) -> list[Miss]:
        """What of the plan had nothing to work on."""
        bodies = _bodies(program)
        found: list[Miss] = []
        if not bodies:
            return [_nothing(self.name, program)]
        if plan.routed and not any(has_experts(body, plan) for body in bodies):
            reason = "no router chooses among the weights that are kept elsewhere"
            found.append(Miss("experts", program.name, reason))
        if plan.found and not any(map(_chooses, bodies)):
            reason = "no layer chooses among the rows of its caches"
            found.append(Miss("rows", program.name, reason))
        if (plan.caches or plan.attend_at) and not any(map(attention, bodies)):
            reason = "no layer attends to a cache that grows: there is nothing to keep elsewhere"
            if any(isinstance(n.op, KVAppend) for g in _graphs(program) for n in g.nodes):
                reason = "caches that lie outside of layers, for all of them, stay on the device"
            found.append(Miss("caches", program.name, reason))
        elif (plan.caches or plan.attend_at) and any(map(unreached, bodies)):
            reason = "caches of parts that layers share stay on the device"
            found.append(Miss("caches", program.name, reason))
        return found


def _graphs(program: Program) -> list[Graph]:
    """All graphs of a program, those of its regions included."""
    return [g for phase in program.phases for g in phase.graph.walk()]


def _reads_others(program: Program) -> bool:
    """Whether layers read caches that other layers keep."""
    regions = ((g, n) for g in _graphs(program) for n in g.nodes if isinstance(n.op, Repeat))
    return any(t.role is Role.KV for g, n in regions for t in g.operands(n))


def _bodies(program: Program) -> list[Graph]:
    """The layers of a program."""
    return [r.body for phase in program.phases for r in layers_of(phase.graph)]


def _chooses(body: Graph) -> bool:
    """Whether a layer has a cache of which a step reads rows that are chosen."""
    return any(isinstance(n.op, KVAppend) and chooses_rows(body, n) for n in body.nodes)


def _nothing(rule: str, program: Program) -> Miss:
    reason = "no region of layers: write fold in front of it"
    if _bodies(program):
        reason = "layers have nothing of what is to be kept elsewhere"
    return Miss(rule, program.name, reason)


def _rounded(weights: Shares, program: Program) -> Shares:
    """Shares in whole layers, as many away as are needed.

    Raises:
        PipelineError: shares are no numbers, or layers are of several kinds.
    """
    if all(share == 1 for _, share in weights):
        return weights
    counts = {r.count for phase in program.phases for r in layers_of(phase.graph)}
    (count, *others) = counts or {ONE}
    if others or not count.is_Integer or away(weights).free_symbols:
        raise PipelineError(
            "offload: whole=true needs numbers for shares, of layers that are all of one kind"
        )
    found: list[tuple[str, Expr]] = []
    left = ceiling(away(weights) * count)
    for level, share in weights:
        taken = min(ceiling(share * count), left)
        left -= taken
        found.append((level, taken / count))
    return tuple(found)
