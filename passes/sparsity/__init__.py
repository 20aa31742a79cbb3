"""Fewer products: pruned weights, smaller models, the search for one."""
