"""Which positions attention sees, and what is kept for it: one object per design."""

from costgraph.ops.pattern.bands import Band, Pooled, Sided
from costgraph.ops.pattern.base import (
    CAUSAL,
    COUNTED,
    FULL,
    Branches,
    Causal,
    Dense,
    Full,
    InContext,
    Parted,
    Pattern,
    counted,
)
from costgraph.ops.pattern.beside import WindowAndRows
from costgraph.ops.pattern.budgets import Budget, Distilled, Kept
from costgraph.ops.pattern.chances import Hit
from costgraph.ops.pattern.chunks import Chunks, Fronted, Segments
from costgraph.ops.pattern.compressed import Compressed
from costgraph.ops.pattern.leading import Leading
from costgraph.ops.pattern.scattered import Scattered
from costgraph.ops.pattern.selected import Selected, SelectedBlocks, Summaries, Unfinished
from costgraph.ops.pattern.slots import Slots
from costgraph.ops.pattern.strided import Strided
from costgraph.ops.pattern.windows import Window, sliding

__all__ = [
    "CAUSAL",
    "COUNTED",
    "FULL",
    "Band",
    "Branches",
    "Budget",
    "Causal",
    "Chunks",
    "Compressed",
    "Dense",
    "Distilled",
    "Fronted",
    "Full",
    "Hit",
    "InContext",
    "Kept",
    "Leading",
    "Parted",
    "Pattern",
    "Pooled",
    "Scattered",
    "Segments",
    "Selected",
    "SelectedBlocks",
    "Sided",
    "Slots",
    "Strided",
    "Summaries",
    "Unfinished",
    "Window",
    "WindowAndRows",
    "counted",
    "sliding",
]
