"""A step's prompts among the replicas that share it, as plain functions of numbers.

As :mod:`.forms`, printed for pages as well. Attention in replicas (``dp`` of the pass ``parallel``)
has each sequence whole on one of them, and the replica that has most decides: what rows from all
replicas take (experts), hangs on all tokens of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Times(Protocol):
    """Seconds of a step's parts: ``decode`` of sequences at a context, and what of it looks at
    positions ``beside`` a chunk; of a chunk ``looking`` at positions, what it has ``alone`` beside,
    or ``shared`` with sequences that decode; ``together`` all at once, where parts overlap. Tokens
    are those of all replicas, and ``most`` those of the one that has most."""

    @property
    def replicas(self) -> int: ...
    @property
    def overlaps(self) -> bool: ...
    @property
    def gain(self) -> float: ...
    def decode(self, decodes: int, context: float) -> float: ...
    def beside(self, decodes: int, context: float) -> float: ...
    def looking(self, tokens: int, end: int) -> float: ...
    def alone(self, tokens: int, most: int) -> float: ...
    def shared(self, decodes: int, tokens: int, most: int) -> float: ...
    def together(self, decodes: int, context: float, tokens: int, end: int, most: int) -> float: ...


def fullest(decodes: int, replicas: int) -> int:
    """Sequences on the replica that has most of them."""
    return int(np.ceil(decodes / replicas))


def stepped(t: Times, decodes: int, context: float, chunks: Sequence[Sequence[int]]) -> float:
    """Seconds of a step: ``chunks`` are tokens, and the position at which they end.

    The replica with the fewest tokens takes the next chunk. One token behind others is read as
    decodes are, but where those are rounds of drafts.
    """
    left = [*chunks]
    if t.gain == 1:
        left = []
        for count, end in chunks:
            if count == 1 and end > 1:
                context = (context * decodes + end) / (decodes + 1)
                decodes += 1
            else:
                left = [*left, (count, end)]
    chunks = left
    if len(chunks) == 0:
        return t.decode(decodes, context)
    tokens = 0
    furthest = 0
    for count, end in chunks:
        tokens += count
        furthest = max(furthest, end)
    joint = decodes > 0 and t.overlaps
    loads = [0 for _ in range(t.replicas)]
    looks = [0.0 for _ in range(t.replicas)]
    for count, end in chunks:
        look = 0.0 if joint else t.looking(count, end)
        place = 0
        for i in range(t.replicas):
            if loads[i] < loads[place]:
                place = i
        loads = [loads[i] + (count if i == place else 0) for i in range(t.replicas)]
        looks = [looks[i] + (look if i == place else 0.0) for i in range(t.replicas)]
    most = max(loads)
    if joint:
        return t.together(decodes, context, tokens, max(tokens, furthest), most)
    total = max(looks)
    if decodes == 0:
        return total + t.alone(tokens, most)
    return total + t.shared(decodes, tokens, most) + t.beside(decodes, context)
