"""Optimisation passes: one technique a file, listed here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from costgraph.models.recognition.fold import Fold
from costgraph.models.recognition.recognise import Recognise
from costgraph.passes.caching.disaggregate import Disaggregate
from costgraph.passes.caching.prefix_cache import PrefixCache
from costgraph.passes.caching.share_prefix import SharePrefix
from costgraph.passes.caching.turns import Turns
from costgraph.passes.context.evict import Evict
from costgraph.passes.context.feedback import Feedback
from costgraph.passes.context.index import Index
from costgraph.passes.context.knn_memory import KnnMemory
from costgraph.passes.context.landmark import Landmark
from costgraph.passes.context.memory_slots import MemorySlots
from costgraph.passes.context.memory_tokens import MemoryTokens
from costgraph.passes.context.merge_tokens import MergeTokens
from costgraph.passes.context.nsa import Nsa
from costgraph.passes.context.prune_tokens import PruneTokens
from costgraph.passes.context.recur import Recur
from costgraph.passes.context.retrieve import Retrieve
from costgraph.passes.context.select import Select
from costgraph.passes.context.share_kv import ShareKV
from costgraph.passes.context.snap_kv import SnapKV
from costgraph.passes.context.window import SlidingWindow
from costgraph.passes.decoding.early_exit import EarlyExit
from costgraph.passes.decoding.speculative import Speculative
from costgraph.passes.factors.lora import Lora
from costgraph.passes.factors.low_rank import LowRank
from costgraph.passes.factors.tensor_train import TensorTrain
from costgraph.passes.forking.apar import Apar
from costgraph.passes.forking.beam import Beam
from costgraph.passes.forking.samples import Samples
from costgraph.passes.forking.skeleton import Skeleton
from costgraph.passes.fusion.fuse import Fuse
from costgraph.passes.iterating.blocks import Blocks
from costgraph.passes.iterating.feature_cache import FeatureCache
from costgraph.passes.iterating.jacobi import Jacobi
from costgraph.passes.iterating.refine import Refine
from costgraph.passes.iterating.slow_fast import SlowFast
from costgraph.passes.memory.page_kv import PageKV
from costgraph.passes.parallel import Parallelize
from costgraph.passes.parallel.overlap import Overlap
from costgraph.passes.placement.chain import Chain
from costgraph.passes.placement.host_io import HostIO
from costgraph.passes.placement.offload import Offload
from costgraph.passes.placement.place import Place
from costgraph.passes.precision.quantize import Quantize
from costgraph.passes.precision.transformer_engine import TransformerEngine
from costgraph.passes.sparsity.active import Active
from costgraph.passes.sparsity.prune import Prune
from costgraph.passes.sparsity.search_subnet import SearchSubnet
from costgraph.passes.sparsity.shrink import Shrink
from costgraph.passes.spatial.split_rows import SplitRows
from costgraph.rewriting.pipeline import Pass

_ALL: tuple[type[Pass], ...] = (
    Fuse,
    Quantize,
    TransformerEngine,
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
    SplitRows,
    Offload,
    Place,
    Chain,
    Active,
    HostIO,
    Recognise,
    Fold,
    Beam,
    Samples,
    Apar,
    Skeleton,
    Jacobi,
    Blocks,
    FeatureCache,
    SlowFast,
    Refine,
    SlidingWindow,
    Evict,
    Index,
    Select,
    Nsa,
    SnapKV,
    Landmark,
    MemorySlots,
    MemoryTokens,
    KnnMemory,
    Retrieve,
    Recur,
    ShareKV,
    Feedback,
    PrefixCache,
    SharePrefix,
    Disaggregate,
    Turns,
    PruneTokens,
    MergeTokens,
)

#: Every pass by its name.
PASSES: Mapping[str, type[Pass]] = MappingProxyType({p.name: p for p in _ALL})
