"""Optimisation passes: one technique a file, listed here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from costgraph.passes.early_exit import EarlyExit
from costgraph.passes.fold import Fold
from costgraph.passes.fuse import Fuse
from costgraph.passes.overlap import Overlap
from costgraph.passes.page_kv import PageKV
from costgraph.passes.parallel import Parallelize
from costgraph.passes.quantize import Quantize
from costgraph.passes.recognise import Recognise
from costgraph.passes.speculative import Speculative
from costgraph.pipeline import Pass

_ALL: tuple[type[Pass], ...] = (
    Fuse,
    Quantize,
    PageKV,
    EarlyExit,
    Speculative,
    Parallelize,
    Overlap,
    Recognise,
    Fold,
)

#: Every pass by its name.
PASSES: Mapping[str, type[Pass]] = MappingProxyType({p.name: p for p in _ALL})
