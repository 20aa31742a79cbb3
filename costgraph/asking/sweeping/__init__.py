"""Sweeps: metrics over a labelled grid, in memory or on disk."""

from costgraph.asking.sweeping.grid import open_sweep, sweep, write_sweep

__all__ = ["open_sweep", "sweep", "write_sweep"]
