"""Plans of a system: every way to share a model among its devices, with what each costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from costgraph.compiling.compilation import Hardware, Model, compile
from costgraph.compiling.options import passes_of, split_options
from costgraph.errors import CostgraphError, InputError
from costgraph.hardware import load_system
from costgraph.models import load_model
from costgraph.passes.parallel import Parallelize
from costgraph.progress import counted
from costgraph.rewriting.pipeline import Pass, text_of
from costgraph.showing.report.contents import Contents

if TYPE_CHECKING:
    from costgraph.compiling.options import Passes

#: Plans of one pipeline that are compiled.
MOST = 48
#: Options of compiling that say nothing of how a model is read.
_ASKED = ("accounting", "fidelity", "calibration", "reserve")
AUTO = "auto"


def plans_of(
    model: Model, hardware: Hardware, passes: Passes, contents: Contents, **options: Any
) -> dict[str, Any]:
    """Every way to share a model among the devices of a system, as a page evaluates it.

    Where the pipeline shares it already, its degrees are open, and what else it says stays. Stages
    are tried with the groups that it says, or one at a time and as many as there are stages.

    Args:
        model, hardware, passes, options: as for :func:`costgraph.compile`.
        contents: collects functions.

    Returns:
        ``plans``, each with ``passes``, how it is ``shared``, and what
        :meth:`.Contents.measured` has or an ``error``; ``left``: plans that were not compiled;
        ``why`` there are none; ``figures`` of the device that they use, of which a page may show
        fewer.
    """
    try:
        ways = list(_ways(model, hardware, passes, options))
    except CostgraphError as error:
        return {"plans": [], "left": 0, "why": str(error), "figures": {}}
    made, figures = [], dict[str, float]()
    for others, way in counted(ways[:MOST], "ways to share the model"):
        said = {"passes": text_of((*others, way)), "shared": way.shared}
        try:
            compiled = compile(model, hardware, (*others, way), symbolic_hardware=True, **options)
            made.append(said | contents.measured(compiled))
            machine = compiled.bound or compiled.machine
            figures |= {s.name: float(v) for s, v in machine.bindings().items()}
        except CostgraphError as error:
            made.append(said | {"error": str(error)})
    used = {k: v for k, v in figures.items() if k in contents.symbols}
    return {"plans": made, "left": max(0, len(ways) - MOST), "why": "", "figures": used}


def _ways(
    model: Model, hardware: Hardware, passes: Passes, options: dict[str, Any]
) -> Iterator[tuple[tuple[Pass, ...], Parallelize]]:
    """The pipeline without what shares the model, and each way to share it."""
    system = load_system(hardware)
    if system.devices == 1:
        raise InputError(f"{system.name} is one device: there is nothing to share")
    reading, _ = split_options({k: v for k, v in options.items() if k not in _ASKED})
    program = load_model(model, **reading)
    passes = passes_of(passes)
    others = tuple(p for p in passes if not isinstance(p, Parallelize))
    (given, *_) = (*(p for p in passes if isinstance(p, Parallelize)), Parallelize())
    # What it says beside its degrees stays.
    for way in replace(given, tp=AUTO, pp=AUTO, dp=AUTO, ep=AUTO).choices(program, system):
        yield others, way
        if way.pp != 1 and way.micro == 1:
            yield others, replace(way, micro=way.pp)
