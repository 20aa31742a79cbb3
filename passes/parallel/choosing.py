"""The degrees that serve a system best: every way to multiply to its devices, tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from sympy import Integer, divisors

from costgraph.errors import InputError, PipelineError
from costgraph.hardware.systems import System
from costgraph.ir.metrics import METRICS
from costgraph.ir.program import Program
from costgraph.ir.workload import USUAL
from costgraph.ops.experts import ExpertLinear
from costgraph.ops.fused import operations
from costgraph.rewriting.choosing import Goal, Score, Search
from costgraph.units import parse_quantity

if TYPE_CHECKING:
    from costgraph.passes.parallel.parallel import Parallelize

AUTO = "auto"
#: The degrees that multiply to the devices, and those that do not.
SHARING = ("tp", "cp", "pp", "dp")
#: Metrics by objective.
OBJECTIVES = {"latency": "latency", "throughput": "throughput", "cost": "cost_per_token"}
#: Groups of a batch that are tried, in multiples of the stages.
FILLS = (1, 2, 4)


def best_degrees(item: Parallelize, program: Program, system: System) -> Search:
    """``item`` with its open degrees decided: every choice is compiled and scored.

    Raises:
        PipelineError: none fits, with the first reason.
    """
    goal = goal_of(item)
    tried: list[tuple[Parallelize, Score]] = []
    for candidate in candidates(item, program, system):
        result = yield candidate
        tried.append((candidate, result.score(goal)))
    up = METRICS[goal.metric].larger_is_better
    kept = [(c, s) for c, s in tried if s.value is not None]
    if not kept:
        first = f": {tried[0][0].shared}: {tried[0][1].why}" if tried else ""
        raise PipelineError(
            f"{item.name}: no degrees that use the {system.devices} devices of {system.name} "
            f"serve the model{first}"
        )
    kept.sort(key=lambda pair: (-1 if up else 1) * (pair[1].value or 0.0))
    return replace(kept[0][0], note=_note(item, goal, kept, len(tried) - len(kept)))


def has_experts(program: Program) -> bool:
    """Whether anything of a program can be shared as whole experts."""
    return any(isinstance(o, ExpertLinear) for p in program.phases for o, _ in operations(p.graph))


def candidates(item: Parallelize, program: Program, system: System) -> Iterator[Parallelize]:
    """Every way to give the open degrees numbers so that all devices are used, each once."""
    ways = [Integer(d) for d in divisors(system.devices)]
    given = [ways if getattr(item, n) == AUTO else [getattr(item, n)] for n in SHARING]
    experts_there = has_experts(program)
    seen: set[object] = set()
    for chosen in product(*(reversed(options) for options in given)):
        degrees = dict(zip(SHARING, chosen, strict=True))
        experts = [item.ep]
        if item.ep == AUTO:
            experts = [Integer(1), *(w for w in ways if w != 1 and experts_there)]
        groups = [item.micro if degrees["pp"] != 1 else Integer(1)]
        if item.micro == AUTO:
            fills = [f * degrees["pp"] for f in FILLS] if degrees["pp"] != 1 else []
            groups = [Integer(1), *fills]
        for ep, micro in product(experts, groups):
            # What counts beside some degrees only is left out of candidates without them.
            beside: dict[str, Any] = {
                "sequence": item.sequence and degrees["tp"] != 1,
                "load": item.load if ep != 1 else "mean",
            }
            made = replace(item, **degrees, **beside, ep=ep, micro=micro).decided()
            if ep not in (1, degrees["tp"] * degrees["dp"]) and degrees["tp"] * degrees["dp"] != 1:
                continue
            key = (made.degrees, micro)
            if made.degrees.devices == system.devices and key not in seen:
                seen.add(key)
                yield made


def goal_of(item: Parallelize) -> Goal:
    """What the degrees are decided for.

    Raises:
        PipelineError: a limit is no time.
    """
    sizes = {"S": item.at_prompt, "N": item.at_tokens}
    values = {name: int(size) for name, size in sizes.items() if size != AUTO}
    batch = item.at_batch
    if batch == AUTO and item.objective == "latency":
        batch = Integer(USUAL["B"])
    if batch != AUTO:
        values["B"] = int(batch)
    limits: dict[str, float] = {}
    for name in ("ttft", "tpot"):
        text = getattr(item, f"max_{name}")
        if text:
            try:
                limits[name] = float(parse_quantity(text, "time", f"max-{name}"))
            except InputError as error:
                raise PipelineError(f"{item.name}: {error}") from None
    return Goal(OBJECTIVES[item.objective], values, limits)


def _note(
    item: Parallelize, goal: Goal, kept: list[tuple[Parallelize, Score]], left_out: int
) -> str:
    (best, score), *others = kept
    sizes = ", ".join(f"{n} = {v}" for n, v in score.at.items())
    limits = "".join(f", {n} within {getattr(item, f'max_{n}')}" for n in goal.limits)
    text = (
        f"parallel: {best.shared} decided for {item.objective} at {sizes}{limits}: "
        f"{goal.metric} {score.shown}"
    )
    if others:
        text += f"; next {others[0][0].shared} with {others[0][1].shown}"
    tried = len(kept) + left_out
    return f"{text}; {left_out} of {tried} do not fit or break a limit" if left_out else text
