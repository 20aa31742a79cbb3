"""Searches: the best batch, device and pipeline under limits, and fronts."""

from costgraph.asking.searching.best import Candidate, SearchResult, direction, search

__all__ = ["Candidate", "SearchResult", "direction", "search"]
