"""What numbers rest on, said wherever they are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    """Sentences that belong to numbers.

    Attributes:
        assumptions: what the numbers rest on.
        notes: remarks on how the model was read.
    """

    assumptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @staticmethod
    def together(parts: Iterable[Said]) -> Said:
        """What is said of several things, each sentence once."""
        found = tuple(parts)
        return Said(
            tuple(dict.fromkeys(s for part in found for s in part.assumptions)),
            tuple(dict.fromkeys(s for part in found for s in part.notes)),
        )

    def to_dict(self) -> dict[str, list[str]]:
        """Plain values, for JSON; the same two keys everywhere."""
        return {"assumptions": list(self.assumptions), "notes": list(self.notes)}

    def lines(self) -> list[str]:
        """The sentences under a heading each, as lines of text; none if nothing is said."""
        shown: list[str] = []
        for head, sentences in (("assuming", self.assumptions), ("noting", self.notes)):
            shown += [head, *(f"    {s}" for s in sentences)] if sentences else []
        return shown


#: For what rests on nothing.
NOTHING = Said()
