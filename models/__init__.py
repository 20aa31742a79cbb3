"""Models: configurations to programs."""

from costgraph.models.catalog import entries, find, load_model, model_names
from costgraph.models.decoder import Decoder, build
from costgraph.models.hf import import_config

__all__ = ["Decoder", "build", "entries", "find", "import_config", "load_model", "model_names"]
