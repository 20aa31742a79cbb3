"""Where one formula is smaller than another, as text and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sympy import sstr

from costgraph.setting import Setting
from costgraph.showing.export.regimes import condition_text

if TYPE_CHECKING:
    from costgraph.formula.wins import Interval


@dataclass(frozen=True)
class Race:
    """Two choices beside one another.

    Attributes:
        metric, unit, over: what is compared, along which symbol.
        choices: the settings of both, at the values that others have.
        intervals: where the second is smaller.
    """

    metric: str
    unit: str
    over: str
    choices: tuple[Setting, Setting]
    intervals: Sequence[Interval]

    @property
    def setting(self) -> Setting:
        """What is said of both, and whose a warning is that is of one alone."""
        shared = Setting.shared(self.choices)
        own = (
            f"{name}: {said}"
            for name, of in zip(self.names, self.choices, strict=True)
            for said in of.warnings
            if said not in shared.warnings
        )
        return replace(shared, warnings=(*shared.warnings, *own))

    @property
    def names(self) -> tuple[str, str]:
        """What the choices are called: by what they differ in."""
        first, second = self.choices
        if first.hardware != second.hardware:
            return first.hardware, second.hardware
        return first.passes or "no passes", second.passes or "no passes"


def asked(race: Race) -> str:
    """The question as a line."""
    first, second = race.names
    return f"{race.metric} of {second} is smaller than of {first}"


def race_text(race: Race) -> str:
    """The intervals in a few lines."""
    lines = [*race.setting.lines(without=("passes",)), asked(race)]
    lines += [f"  {interval.text}" for interval in race.intervals] or ["  nowhere"]
    conditions = dict.fromkeys(condition_text(c) for i in race.intervals for c in i.conditions)
    if conditions:
        lines += ["  while", *(f"      {text}" for text in conditions)]
    return "\n".join([*lines, *race.setting.foot()])


def race_object(race: Race) -> dict[str, Any]:
    """The same as plain values: intervals are those in which the second pipeline is smaller.

    Ends and differences are exact text.
    """
    return {
        **race.setting.to_dict(),
        "metric": race.metric,
        "unit": race.unit,
        "over": race.over,
        "pipelines": [{"hardware": s.hardware, "passes": s.passes} for s in race.choices],
        "intervals": [
            {
                "from": str(sstr(interval.lower)),
                "to": str(sstr(interval.upper)),
                "closed": interval.closed,
                "to_end": interval.to_end,
                "partly": interval.partly,
                "conditions": [str(sstr(c)) for c in interval.conditions],
                "pieces": [
                    {
                        "from": str(sstr(piece.lower)),
                        "to": str(sstr(piece.upper)),
                        "difference": str(sstr(piece.difference)),
                    }
                    for piece in interval.pieces
                ],
            }
            for interval in race.intervals
        ],
    }
