"""Pictures of graphs: DOT, SVG, PNG, PDF, HTML, Mermaid, JSON and GraphML."""

from costgraph.draw.drawing import LEVELS, SUFFIXES, Drawing, draw
from costgraph.draw.fold import LIMIT
from costgraph.draw.scene import Scene

__all__ = ["LEVELS", "LIMIT", "SUFFIXES", "Drawing", "Scene", "draw"]
