"""Pictures of graphs: DOT, SVG, PNG, PDF, HTML, Mermaid, JSON and GraphML."""

from costgraph.showing.draw.drawing import LEVELS, SUFFIXES, Drawing, draw
from costgraph.showing.draw.fold import LIMIT
from costgraph.showing.draw.scene import Scene

__all__ = ["LEVELS", "LIMIT", "SUFFIXES", "Drawing", "Scene", "draw"]
