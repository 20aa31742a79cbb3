"""Deciding open options of passes by search over compiled programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from costgraph.compiling.capacity import farther_rooms, room_of
from costgraph.errors import CostgraphError
from costgraph.ir.metrics import METRICS, require
from costgraph.ir.workload import least_batch, lengths, workload
from costgraph.rewriting.choosing import Goal, Score
from costgraph.rewriting.pipeline import Pass

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled
    from costgraph.formula.formula import Formula
    from costgraph.hardware.systems import System
    from costgraph.ir.program import Program

#: Largest batch that is tried where the batch is open.
MOST = 2**16


def tuned(
    item: Pass, program: Program, system: System, compiled: Callable[[Pass | None], Compiled]
) -> Pass:
    """``item`` with its open options decided.

    Args:
        item: a pass that needs it.
        program, system: for which.
        compiled: compiles the program with a candidate in the place of the pass, or without.

    Raises:
        PipelineError: the pass says why it cannot be decided.
    """
    search = item.search(program, system)
    try:
        candidate = next(search)
        while True:
            candidate = search.send(Trial(candidate, compiled))
    except StopIteration as end:
        decided: Pass = end.value
        return decided


@dataclass(frozen=True)
class Trial:
    """A candidate, compiled when it is asked for."""

    candidate: Pass | None
    make: Callable[[Pass | None], Compiled]

    @cached_property
    def compiled(self) -> Compiled:
        """The program with the candidate in place of the pass."""
        return self.make(self.candidate)

    def formula(self, metric: str) -> Formula:
        """A metric of it; see :class:`costgraph.rewriting.choosing.Tried`."""
        found: Formula = getattr(self.compiled, metric)
        return found

    def score(self, goal: Goal) -> Score:
        """How well it does; see :class:`costgraph.rewriting.choosing.Tried`."""
        try:
            return _scored(self.compiled, goal)
        except CostgraphError as error:
            return Score(None, why=str(error))


def _scored(compiled: Compiled, goal: Goal) -> Score:
    from costgraph.formula.batch import Bound, Line, best_batch

    for metric in (goal.metric, *goal.limits):
        require(compiled.program, metric)
    room, ends = room_of(compiled), dict(goal.limits)
    if room is not None:
        ends["memory"] = min(room, ends.get("memory", room))
    formulas = {m: getattr(compiled, m) for m in (goal.metric, *ends)}
    sizes = _sizes(compiled, goal.values)
    contexts = compiled.program.contexts(sizes["S"], sizes["N"])
    usual = {**sizes, **({} if contexts is None else {"T": contexts[1]})}
    farther = farther_rooms(compiled)
    every = (*formulas.values(), *(r.need for r in farther))
    found = workload(every, {}, usual, free=("B",))
    values = {name: float(value) for name, value in found.items() if name != "B"}
    lines = {m: Line.along(f, values, METRICS[m].larger_is_better) for m, f in formulas.items()}
    low, high = least_batch(compiled.program), goal.values.get("B", MOST)
    if low > high:
        return Score(None, why=f"a batch of {high} is less than a sequence for each of {low}")
    range_ = (high, high) if "B" in goal.values else (low, high)
    kept = [Bound(lines[m], e) for m, e in ends.items()]
    kept += [Bound(Line.along(r.need, values, False), r.most) for r in farther]
    best = best_batch(lines[goal.metric], kept, range_)
    if best.batch is None:
        return Score(None, why="; ".join(best.binding))
    value = lines[goal.metric].at(best.batch)
    at: dict[str, int] = {"B": best.batch} | {n: sizes[n] for n in ("S", "N") if n in values}
    return Score(value, lines[goal.metric].shown(value), at)


def _sizes(compiled: Compiled, given: Mapping[str, int]) -> dict[str, int]:
    """Prompt and generated tokens: those given, else the usual ones as far as there is room."""
    told = {name: given[name] for name in ("S", "N") if name in given}
    return {**told, **lengths([compiled.latency], told)}
