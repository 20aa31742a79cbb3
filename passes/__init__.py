"""Optimisation passes: one technique a file, listed here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from costgraph.passes.quantize import Quantize
from costgraph.pipeline import Pass

_ALL: tuple[type[Pass], ...] = (Quantize,)

#: Every pass by its name.
PASSES: Mapping[str, type[Pass]] = MappingProxyType({p.name: p for p in _ALL})
