"""The pass ``place``: attention on what computes in a memory of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.formula.wins import wins
from costgraph.hardware.systems import System
from costgraph.ir.program import Program
from costgraph.passes.placement.shares import WORDS, check_levels
from costgraph.passes.placement.streaming import Plan, carried_out
from costgraph.rewriting.choosing import Search
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option

ONE = Integer(1)


@dataclass(frozen=True)
class Place(Pass):
    """Attention of decode steps on a host's processor, or in memory that computes.

    The caches lie there. Queries, keys and values of new tokens go there over the link and
    results come back; prompts attend on the device and leave their rows there.
    """

    name: ClassVar[str] = "place"
    title: ClassVar[str] = "compute attention where the caches lie: in memory that computes"
    formula: ClassVar[str] = (
        "Max(FLOP/F_unit, bytes/BW_inside) + rows of new tokens / BW_link, in place of bytes/BW"
    )
    source: ClassVar[str] = (
        "arXiv 2402.16363, section on processing in memory and Table 2 (HBM-PIM, AiM, UPMEM)"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "place: one unit holds all caches and attends to them without exchange among its chips; "
        "what it makes beside its result is counted in the device's memory",
    )
    stage: ClassVar[Stage] = Stage.UNITS
    inherited: ClassVar[bool] = False
    once: ClassVar[bool] = True

    attention: str = option(
        "word", "best", "who attends in decode steps: device, host, a level of memory that "
        "computes (hbm-pim), or the best of them",
    )  # fmt: skip
    at_batch: Expr = option(
        "integer", ONE, "batch at which 'best' is decided", minimum=1, symbolic=False
    )
    at_context: Expr = option(
        "integer", Integer(2048), "context at which 'best' is decided", minimum=1, symbolic=False
    )

    #: How 'best' was decided; no option.
    note: str = ""

    @property
    def needs_tuning(self) -> bool:
        """True while it is open who attends."""
        return self.attention == "best"

    def search(self, program: Program, system: System) -> Search:
        """Tries every level that computes, and the device, by the time of a decode step."""
        levels = [name for name, tier in system.device.tiers.items() if tier.peaks]
        if not levels:
            raise PipelineError(
                f"place: {system.name} has nothing else that computes: name a host or memory "
                f"({system.device.name}+hbm-pim)"
            )
        at = {"B": int(self.at_batch), "T": int(self.at_context)}
        plain = (yield replace(self, attention="device")).formula("tpot")
        best, seconds, said = "device", plain.evaluate(**at), []
        for level in levels:
            formula = (yield replace(self, attention=level)).formula("tpot")
            found = wins(plain, formula, "B", T=at["T"])
            where = ", ".join(i.text for i in found) or "no batch"
            said.append(f"{level} is faster than the device for {where}")
            if formula.evaluate(**at) < seconds:
                best, seconds = level, formula.evaluate(**at)
        note = f"place: decided at B={at['B']}, T={at['T']}: {best}; {'; '.join(said)}"
        return replace(self, attention=best, note=note)

    def run(self, program: Program, system: System) -> Outcome:
        if self.needs_tuning:
            raise PipelineError("place: 'best' needs a machine to be decided on; use compile")
        if self.attention == "device":
            reason = self.note or "the device attends"
            return Outcome(program, (), (Miss(self.name, program.name, reason),))
        level = WORDS.get(self.attention, self.attention)
        check_levels(self.name, {level: "attention"}, system)
        if not system.device.tiers[level].peaks:
            raise PipelineError(f"place: attention: nothing computes in {level} of {system.name}")
        plan = Plan((), ((level, ONE),), (), overlap=True, attend_at=level, made_by=self.name)
        made, hits = carried_out(program, plan)
        if not hits:
            reason = "no layer attends to a cache in steps of one token"
            return Outcome(program, (), (Miss("attention", program.name, reason),))
        return Outcome(made.assuming(*filter(None, (self.note,))), hits)
