"""What would hold a program that does not fit: more devices, and how to share it among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from costgraph.errors import CostgraphError
from costgraph.rewriting import pipeline
from costgraph.rewriting.pipeline import Pass, Stage
from costgraph.units import format_quantity

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled
    from costgraph.hardware.systems import System
    from costgraph.ir.program import Program

#: Most devices that are thought of, and ways to share a model that are tried on each system.
MOST, WAYS = 128, 4
#: The pass that shares a model.
SHARING = "parallel"
#: Byte that a compiled program needs on the device that holds most; None if not known.
Need = Callable[["Compiled"], "float | None"]


def would_hold(compiled: Compiled, need: Need, whole: bool = True) -> str:
    """What would hold a program: the least devices of its kind, and how they share it.

    The memory is that of the program shared so, not the need over a count.

    Args:
        compiled: what does not fit.
        need: what counts.
        whole: whether it hangs on kernels as well, not on weights alone.

    Returns:
        A clause, empty if nothing is known to hold it.
    """
    if not compiled.told:
        return ""
    needed = need(compiled)
    if compiled.system is None or compiled.program.dims or needed is None:
        return ""
    past = pipeline.history(compiled.program)
    source = past[0].before if past else compiled.program
    passes = tuple(
        item
        for item in compiled.trace.passes
        if item.name != SHARING and (whole or item.stage not in (Stage.KERNELS, Stage.OVERLAP))
    )
    room = (compiled.bound or compiled.machine).memory.room
    key = (id(source), pipeline.text_of(passes), compiled.system.name, str(room), needed)
    return _found(_Asked(key, compiled, source, passes, need))


@dataclass(frozen=True)
class _Asked:
    """A question, told apart by its key; the program before passes by identity."""

    key: tuple[object, ...]
    compiled: Compiled = field(compare=False)
    source: Program = field(compare=False)
    passes: tuple[Pass, ...] = field(compare=False)
    need: Need = field(compare=False)

    def on(self, system: System, plan: Pass) -> float | None:
        """Byte per device of a system that shares the program by a plan; None if it cannot."""
        from costgraph.compiling.compiled import Compiled

        device, convention = system.device, self.compiled.accounting
        try:
            made, trace = pipeline.run(self.source, (*self.passes, plan), system)
            return self.need(Compiled(made, device, convention, (), trace, device, system=system))
        except CostgraphError:
            return None


@lru_cache(maxsize=32)
def _found(asked: _Asked) -> str:
    system, needed = asked.compiled.system, asked.need(asked.compiled)
    room = None if system is None else system.device.memory.room
    if system is None or room is None or needed is None:
        return ""
    for larger in _systems(system, needed / float(room)):
        for plan in islice(_plans(asked.source, larger), WAYS):
            held = asked.on(larger, plan)
            if held is not None and held <= float(room):
                on = "" if larger is system else f" on {larger.name}"
                return f"{plan}{on} would do, with {format_quantity(held, 'B')} on each device"
    return ""


def _systems(system: System, least: float) -> Iterator[System]:
    """The system itself, then more of its devices, in as few nodes as there are."""
    from costgraph.hardware import joined_as

    if system.devices > 1:
        yield system
    count = 2
    while count <= MOST:
        if count > system.devices and count >= least:
            yield from islice(joined_as(system.device, count), 1)
        count *= 2


def _plans(program: Program, system: System) -> Iterator[Pass]:
    """Ways to share a model among all devices, of few degrees first: tensors, experts, stages."""
    from costgraph.passes.parallel import Parallelize

    every = Parallelize(tp="auto", pp="auto", ep="auto").choices(program, system)
    yield from sorted(every, key=lambda p: (p.spec().count("="), p.pp != 1, p.tp == 1))
