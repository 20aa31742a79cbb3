"""costgraph: the cost of model inference as a formula.

``compile`` turns a model configuration and a device into formulas for latency,
memory and traffic. Names are resolved on first use, so that importing the
package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from costgraph.api import Compiled, compile
    from costgraph.comparison import compare
    from costgraph.errors import CostgraphError
    from costgraph.formula import Formula
    from costgraph.formula.wins import wins
    from costgraph.hardware import load_hardware, load_system
    from costgraph.models import load_model
    from costgraph.searching import search
    from costgraph.serving import Serving
    from costgraph.sweeping import sweep

__version__ = "0.1.0"

_HOMES = {
    "Compiled": "costgraph.api",
    "compile": "costgraph.api",
    "compare": "costgraph.comparison",
    "wins": "costgraph.formula.wins",
    "CostgraphError": "costgraph.errors",
    "Formula": "costgraph.formula",
    "load_hardware": "costgraph.hardware",
    "load_model": "costgraph.models",
    "load_system": "costgraph.hardware",
    "search": "costgraph.searching",
    "Serving": "costgraph.serving",
    "sweep": "costgraph.sweeping",
}

__all__ = [
    "Compiled",
    "CostgraphError",
    "Formula",
    "Serving",
    "__version__",
    "compare",
    "compile",
    "load_hardware",
    "load_model",
    "load_system",
    "search",
    "sweep",
    "wins",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'costgraph' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
