"""Optimisation passes: one technique a file, listed here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from costgraph.models.recognition.fold import Fold
from costgraph.models.recognition.recognise import Recognise
from costgraph.passes.decoding.early_exit import EarlyExit
from costgraph.passes.decoding.speculative import Speculative
from costgraph.passes.factors.lora import Lora
from costgraph.passes.factors.low_rank import LowRank
from costgraph.passes.factors.tensor_train import TensorTrain
from costgraph.passes.fusion.fuse import Fuse
from costgraph.passes.memory.page_kv import PageKV
from costgraph.passes.parallel import Parallelize
from costgraph.passes.parallel.overlap import Overlap
from costgraph.passes.precision.quantize import Quantize
from costgraph.passes.sparsity.prune import Prune
from costgraph.passes.sparsity.search_subnet import SearchSubnet
from costgraph.passes.sparsity.shrink import Shrink
from costgraph.rewriting.pipeline import Pass

_ALL: tuple[type[Pass], ...] = (
    Fuse,
    Quantize,
    Prune,
    Shrink,
    SearchSubnet,
    LowRank,
    TensorTrain,
    Lora,
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
