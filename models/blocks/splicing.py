"""A part of a graph with names of its own, so that parts of one kind stand beside one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from costgraph.models.blocks.style import Maker


def spliced(m: Maker, prefix: str, build: Callable[[Maker], tuple[str, ...]]) -> tuple[str, ...]:
    """Adds what ``build`` adds to a maker of its own, every name behind ``prefix``."""
    inner = Maker(prefix, m.style)
    names = build(inner)
    made = inner.build(*names)
    for tensor in made.sources:
        m.source(replace(tensor, name=f"{prefix}_{tensor.name}"))
    for node in made.nodes:
        m.add_many(f"{prefix}_{node.name}", node.op, *(f"{prefix}_{i}" for i in node.inputs))
    return tuple(f"{prefix}_{name}" for name in names)
