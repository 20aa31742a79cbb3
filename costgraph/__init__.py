"""costgraph: the cost of model inference as a formula.

``compile`` turns a model configuration and a device into formulas for latency,
memory and traffic. Names are resolved on first use, so that importing the
package costs next to nothing.
"""

from __future__ import annotations

from costgraph.version import VERSION as __version__

# Not imported: the less is loaded here, the sooner a command can be interrupted in one line.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from costgraph.asking.comparison import compare
    from costgraph.asking.reliability import reliability
    from costgraph.asking.searching import search
    from costgraph.asking.serving import Serving
    from costgraph.asking.sweeping import sweep
    from costgraph.compiling.compilation import compile
    from costgraph.compiling.compiled import Compiled
    from costgraph.errors import CostgraphError
    from costgraph.formula import Formula
    from costgraph.formula.even import even
    from costgraph.formula.wins import wins
    from costgraph.hardware import load_hardware, load_system
    from costgraph.models import load_model
    from costgraph.showing import plot as plot
    from costgraph.showing.draw import draw
    from costgraph.showing.report import report

_HOMES = {
    "Compiled": "costgraph.compiling.compiled",
    "compile": "costgraph.compiling.compilation",
    "compare": "costgraph.asking.comparison",
    "draw": "costgraph.showing.draw",
    "even": "costgraph.formula.even",
    "wins": "costgraph.formula.wins",
    "CostgraphError": "costgraph.errors",
    "Formula": "costgraph.formula",
    "load_hardware": "costgraph.hardware",
    "load_model": "costgraph.models",
    "load_system": "costgraph.hardware",
    "reliability": "costgraph.asking.reliability",
    "report": "costgraph.showing.report",
    "search": "costgraph.asking.searching",
    "Serving": "costgraph.asking.serving",
    "sweep": "costgraph.asking.sweeping",
}

__all__ = [
    "Compiled",
    "CostgraphError",
    "Formula",
    "Serving",
    "__version__",
    "compare",
    "compile",
    "draw",
    "even",
    "load_hardware",
    "load_model",
    "load_system",
    "reliability",
    "report",
    "search",
    "sweep",
    "wins",
]


#: Modules that are attributes; not among ``__all__``, for they may need an extra.
_MODULES = {"plot": "costgraph.showing.plot"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES and name not in _MODULES:
        raise AttributeError(f"module 'costgraph' has no attribute {name!r}")
    from importlib import import_module

    if name in _MODULES:
        return import_module(_MODULES[name])
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted((*__all__, *_MODULES))
