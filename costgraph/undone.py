"""What passes did not do, and why: as values, and as lines of text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: Places named per reason, and reasons per pass; the rest is counted.
MOST_PLACES, MOST_REASONS = 4, 6


@dataclass(frozen=True)
class Undone:
    """Something that a pass did not do.

    Attributes:
        made_by: the pass as text.
        did: whether it did anything elsewhere.
        rule: which rule of the pass did not hold; empty where none was near to.
        at: the place: a node, a tensor or the whole program.
        reason: why.
        whole: whether it is about the whole program.
    """

    made_by: str
    did: bool
    rule: str
    at: str
    reason: str
    whole: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "pass": self.made_by,
            "did_something": self.did,
            "rule": self.rule,
            "at": self.at,
            "reason": self.reason,
        }


def lines(found: Iterable[Undone]) -> list[str]:
    """One line per pass and reason.

    A pass that did nothing says so. Reasons of one pass beyond :data:`MOST_REASONS` are
    counted; the values have them all.
    """
    passes: dict[tuple[str, bool], dict[str, list[Undone]]] = {}
    for item in found:
        reasons = passes.setdefault((item.made_by, item.did), {})
        reasons.setdefault(item.reason, []).append(item)
    shown: dict[str, None] = {}
    for (spec, did), reasons in passes.items():
        head = spec.partition("{")[0] + ("" if did else " did nothing")
        for index, (reason, items) in enumerate(reasons.items()):
            if index == MOST_REASONS:
                more = f"{spec.partition('{')[0]}: {len(reasons) - index} more reasons elsewhere"
                shown[more] = None
                break
            shown[f"{head}{_places(items)}: {reason}"] = None
    return list(shown)


def _places(items: list[Undone]) -> str:
    if all(item.whole for item in items):
        return ""
    nodes = list(dict.fromkeys(item.at for item in items))
    text = ", ".join(nodes[:MOST_PLACES])
    return f" at {text}" + (f" … ({len(nodes)} places)" if len(nodes) > MOST_PLACES else "")
