"""Programs over several devices: splits of tensors, experts, layers, prompts and batches."""

from costgraph.passes.parallel.parallel import Parallelize

__all__ = ["Parallelize"]
