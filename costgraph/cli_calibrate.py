"""Commands that fit and check calibrations."""

from __future__ import annotations

from typing import Any


def add_commands(commands: Any) -> None:
    """Add ``calibrate`` and ``validate``."""
