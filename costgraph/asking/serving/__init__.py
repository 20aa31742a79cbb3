"""Servers: many requests at once, limits on times, how many machines."""

from costgraph.asking.serving.loop import Serving, c, shared_tpot

__all__ = ["Serving", "c", "shared_tpot"]
