"""Models: configurations to programs."""

from typing import TYPE_CHECKING, Any

from costgraph.models.catalog import OPTIONS, entries, find, load_model, model_names
from costgraph.models.decoder import Decoder, build
from costgraph.models.hf import import_config

if TYPE_CHECKING:
    from costgraph.models.onnx_graph import from_onnx
    from costgraph.models.torch_export import from_torch, load_traced

__all__ = [
    "OPTIONS",
    "Decoder",
    "build",
    "entries",
    "find",
    "from_onnx",
    "from_torch",
    "import_config",
    "load_model",
    "load_traced",
    "model_names",
]

_GRAPHS = {
    "from_onnx": "costgraph.models.onnx_graph",
    "from_torch": "costgraph.models.torch_export",
    "load_traced": "costgraph.models.torch_export",
}


def __getattr__(name: str) -> Any:
    """Importers of graphs, loaded when they are asked for."""
    if name not in _GRAPHS:
        raise AttributeError(f"module 'costgraph.models' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_GRAPHS[name]), name)
