"""The pass ``place``: operations on what computes in a memory of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError, clip, nearest
from costgraph.formula.wins import wins
from costgraph.hardware.systems import System
from costgraph.ir.program import Program
from costgraph.passes.placement.members import GROUPS, members
from costgraph.passes.placement.moving import Unit
from costgraph.passes.placement.streaming import (
    ATTENTION,
    Plan,
    carried_out,
    layers_of,
    refuse_in_row,
)
from costgraph.rewriting.choosing import Search
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.sizes import Sizes

ONE = Integer(1)
BEST, DEVICE = "best", "device"
#: With which options something beside attention is placed.
PRODUCTS = ("ffn!=device", "experts!=device", "on!=")
#: What is said of prompts of products that are placed, by who computes them.
PROMPTS = {
    "device": "place: of products that run elsewhere prompts run on the device, to which their "
    "weights come layer by layer, the next ones while a layer computes",
    "there": "place: products that run elsewhere do so for prompts as well",
}


@dataclass(frozen=True)
class Place(Pass):
    """Operations of decode steps on a host's processor, or in memory that computes.

    Their weights and caches lie there. Activations go there over the link and results come
    back. Prompts attend on the device and leave their rows there.
    """

    name: ClassVar[str] = "place"
    title: ClassVar[str] = "compute operations where their weights and caches lie"
    formula: ClassVar[str] = (
        "Max(FLOP/F_unit, bytes/BW_inside) + rows of new tokens / BW_link, in place of bytes/BW; "
        "of p parts each gets what all need, and of a sum p summands come back"
    )
    source: ClassVar[str] = (
        "arXiv 2402.16363, section on processing in memory and Table 2 (HBM-PIM, AiM, UPMEM); "
        "Zhou et al., DIMM-Link, HPCA 2023 (links between modules)"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "place: the parts of a unit have equal shares of its work, and attend to whole sequences "
        "and heads without exchange; copies of operands and summands count on the link, not where "
        "the unit computes; what attention makes beside its result counts in the device's memory",
    )
    stage: ClassVar[Stage] = Stage.UNITS
    inherited: ClassVar[bool] = False
    once: ClassVar[bool] = True

    attention: str = option(
        "word", "", "who attends in decode steps: device, host, a level of memory that computes "
        "(hbm-pim), or the best of them, as it is where nothing is said",
    )  # fmt: skip
    ffn: str = option("word", DEVICE, "who computes feed-forward blocks without experts, likewise")
    experts: str = option("word", DEVICE, "who computes the products of experts, likewise")
    on: str = option("word", "", "other operations by name: q_proj|o_proj")
    at: str = option("word", BEST, "who computes those of on, likewise", under=("on!=",))
    prompts: str = option(
        "word", DEVICE, "who computes the products of prompts that run elsewhere in decode steps",
        choices=(DEVICE, "there"), under=PRODUCTS,
    )  # fmt: skip
    at_batch: Expr = option(
        "integer", ONE, "batch at which 'best' is decided", minimum=1, symbolic=False
    )
    at_context: Expr = option(
        "integer", Integer(2048), "context at which 'best' is decided", minimum=1, symbolic=False
    )
    at_prompt: Expr = option(
        "integer", Integer(512), "prompt at which 'best' is decided, where steps attend to one "
        "by an encoder", minimum=1, symbolic=False,
    )  # fmt: skip

    #: How 'best' was decided; no option.
    note: str = ""

    @property
    def wanted(self) -> dict[str, str]:
        """Who runs what: a level, the device, or ``best``, by the option that says it."""
        others = self.ffn != DEVICE or self.experts != DEVICE or bool(self.on)
        found = {
            ATTENTION: self.attention or (DEVICE if others else BEST),
            "ffn": self.ffn,
            "experts": self.experts,
        }
        return found | ({"at": self.at} if self.on else {})

    @property
    def attends_away(self) -> bool:
        """Whether attention, and so the caches, are somewhere else than on the device."""
        return self.wanted[ATTENTION] != DEVICE

    @property
    def needs_tuning(self) -> bool:
        """True while it is open who runs something."""
        return BEST in self.wanted.values()

    def search(self, program: Program, system: System) -> Search:
        """Tries every level that computes, and the device, by the time of a decode step.

        One kind of operations after the other: they run one after the other, so that their
        times add up.
        """
        levels = [name for name, tier in system.device.tiers.items() if tier.peaks]
        if not levels:
            raise PipelineError(
                f"place: {system.name} has nothing else that computes: name a host or memory "
                f"({system.device.name}+hbm-pim)"
            )
        open_ = [what for what, who in self.wanted.items() if who == BEST]
        decided = replace(self, **(self.wanted | dict.fromkeys(open_, DEVICE)))
        if not any(p.is_single_query for p in program.phases):
            note = f"place: {program.name} has no steps of one token: the device computes"
            return replace(decided.usual(), note=note)
        fastest = (yield decided.usual()).formula("tpot")
        sizes = Sizes.of(self, [fastest], instead="name who computes")
        elsewhere = {name: size for name, size in sizes.values.items() if name != "B"}
        placed, said = [], []
        for what in open_:
            title = self.on.replace("|", ", ") if what == "at" else what
            plain = fastest
            best, seconds, found = DEVICE, sizes.evaluate(plain), []
            for level in levels:
                formula = (yield replace(decided, **{what: level}).usual()).formula("tpot")
                won = wins(plain, formula, "B", elsewhere)
                where = ", ".join(i.text for i in won) or "no batch"
                found.append(f"{level} is faster than the device for {where}")
                took = sizes.evaluate(formula)
                if took < seconds:
                    best, seconds, fastest = level, took, formula
            decided = replace(decided, **{what: best})
            placed.append(f"{title} on {best}" if best != DEVICE else f"{title} on the device")
            said.append(f"{title}: {'; '.join(found)}")
        note = f"place: decided at {sizes}: {', '.join(placed)}; {'; '.join(said)}"
        return replace(decided.usual(), note=note)

    def usual(self) -> Place:
        """The pass, decided, without options that say nothing any more."""
        if all(who == DEVICE for what, who in self.wanted.items() if what != ATTENTION):
            return replace(self, prompts=DEVICE, on="", at=BEST)
        return replace(self, attention="" if self.attention == DEVICE else self.attention)

    def run(self, program: Program, system: System) -> Outcome:
        if self.needs_tuning:
            raise PipelineError("place: 'best' needs a machine to be decided on; use compile")
        refuse_in_row(self.name, program)
        away = {what: who for what, who in self.wanted.items() if who != DEVICE}
        if not away:
            reason = self.note or "the device computes everything"
            return Outcome(program, (), (Miss(self.name, program.name, reason),))
        divided = any(s.made_by.name == "active" and s.made_by.hot != "1" for s in program.history)
        if divided and "ffn" in away:
            raise PipelineError("place: active says where neurons run: give one of ffn and hot")
        places: list[tuple[str, Unit]] = []
        for what, who in away.items():
            unit = Unit.named(self.name, what, who, system)
            names = self.on.split("|") if what == "at" else (what,)
            places += [(name, unit) for name in names]
        misses = tuple(self._misses(program, [name for name, _ in places]))
        caches = tuple((u.level, ONE) for what, u in places if what == ATTENTION)
        plan = Plan(
            (), caches, (), places=tuple(places), prompts=self.prompts == "there",
            made_by=self.name,
        )  # fmt: skip
        try:
            made, hits = carried_out(program, plan)
        except PipelineError as error:
            raise PipelineError(f"place: {error}") from None
        if not hits:
            return Outcome(program, (), misses or (Miss(self.name, program.name, "no layers"),))
        moved = any(name != ATTENTION for name, _ in places)
        said = (self.note, PROMPTS[self.prompts] if moved else "")
        return Outcome(made.assuming(*filter(None, said)), hits, misses)

    def _misses(self, program: Program, names: Iterable[str]) -> Iterable[Miss]:
        """What is to be placed and is not there.

        Raises:
            PipelineError: an operation that is named is nowhere in a layer.
        """
        steps = [p for p in program.phases if p.is_single_query]
        bodies = [r.body for phase in steps for r in layers_of(phase.graph)]
        known = {n.name for body in bodies for n in body.nodes}
        for name in names:
            if any(members(body, name) for body in bodies):
                continue
            if name not in GROUPS:
                raise PipelineError(
                    f"place: on: no layer has an operation {clip(name)}{nearest(name, known)}"
                )
            reason = {
                ATTENTION: "no layer attends to a cache in steps of one token",
                "ffn": "no layer has a feed-forward block of its own in steps of one token",
                "experts": "no layer has experts in steps of one token",
            }[name]
            yield Miss(name, program.name, reason)
