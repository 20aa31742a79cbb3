"""The pass ``parallel``."""

from __future__ import annotations


class Parallelize:
    """To be written."""
