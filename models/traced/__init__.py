"""Graphs written down by an exporter, and their lowering to operations."""

from costgraph.models.traced.record import Call, Ref, Result, Source, Traced

__all__ = ["Call", "Ref", "Result", "Source", "Traced"]
