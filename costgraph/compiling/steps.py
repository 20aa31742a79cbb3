"""One step with numbers: what :mod:`.breakdown` makes of a compiled program, or of a kept case.

A kept case holds the exact expressions of a step as trees
(:mod:`costgraph.formula.trees`): numbers come from it to the last bit, without sympy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from costgraph.compiling.fits import Fit
from costgraph.formula.trees import Tree, value_of
from costgraph.setting import Setting
from costgraph.views import view_text

if TYPE_CHECKING:
    from costgraph.formula.terms import Term


#: Symbols whose values the title of a step's table gives by what they come to.
_TITLED = ("B", "q", "T", "S")


@dataclass(frozen=True)
class OpRow:
    """One operation of one step, with numbers.

    ``flops`` (FLOP), ``bytes``, ``links`` (bytes on the wire by link) and ``seconds`` are for
    one execution; ``count`` says how many there are in the step, ``unit`` who runs it (empty
    for the device itself), ``fit`` which calibrated parameters it takes and how good they are
    (empty for the roofline).
    """

    name: str
    kind: str
    count: int | float
    flops: int | float
    bytes: int | float
    bytes_by_role: Mapping[str, int | float]
    intensity: float | None
    seconds: float
    bound: str
    links: Mapping[str, int | float] = field(default_factory=dict)
    unit: str = ""
    fit: str = ""

    @property
    def wire(self) -> int | float:
        """Bytes on the wire over all links."""
        return sum(self.links.values())

    @property
    def performance(self) -> float | None:
        """Achieved FLOP/s, or None for operations that take no time."""
        return self.flops / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Breakdown:
    """A step of one phase: rows per operation and totals over all executions.

    ``seconds`` in ``totals`` is the time of the step; ``busy_seconds`` what the operations
    take one after the other, more than that where some run at once. Memory is everything
    that is there during the step, on the device that holds most; ``resident_bytes`` of it,
    weights and caches of graphs that rest (a draft, a vision tower).

    Attributes:
        about: sentences on whose rows these are, where not one device runs all of them.
        terms: of the step's time, with numbers.
    """

    setting: Setting
    phase: str
    bindings: Mapping[str, int]
    rows: tuple[OpRow, ...]
    totals: Mapping[str, int | float]
    fit: Fit
    about: tuple[str, ...] = ()
    terms: Callable[[], Iterable[Term]] = field(default=tuple, compare=False, repr=False)

    @property
    def overlaps(self) -> bool:
        """Whether operations run at the same time: the step is shorter than all of them."""
        return self.totals["busy_seconds"] != self.totals["seconds"]

    @cached_property
    def waits(self) -> Mapping[str, float]:
        """Of which resource the step takes the time, in shares, the largest first.

        What is outlasted by something else meanwhile has none.
        """
        from costgraph.formula.local import active

        found: dict[str, float] = {}
        for term in self.terms():
            for part in active(term, {}):
                found[part.resource] = found.get(part.resource, 0.0) + float(part.expr)
        total = math.fsum(found.values())
        shares = {name: value / total for name, value in found.items() if value}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def __iter__(self) -> Iterator[OpRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> OpRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``analyze --json`` prints them."""
        return {
            **self.setting.to_dict(*self.fit.cautions),
            "phase": self.phase,
            "bindings": dict(self.bindings),
            "ops": [
                {
                    "name": r.name,
                    "kind": r.kind,
                    "count": r.count,
                    "flops": r.flops,
                    "bytes": r.bytes,
                    "bytes_by_role": dict(r.bytes_by_role),
                    "intensity": r.intensity,
                    "seconds": r.seconds,
                    "bound": r.bound,
                    "links": dict(r.links),
                    "unit": r.unit,
                    "fit": r.fit,
                }
                for r in self.rows
            ],
            "totals": dict(self.totals),
            "about": list(self.about),
            "fit": self.fit.to_dict(),
        }

    def __repr__(self) -> str:
        return f"<Breakdown of {self.phase}: {self.setting.text()}>"

    def __str__(self) -> str:
        return view_text("breakdown_text", self)

    def _repr_html_(self) -> str:
        return view_text("breakdown_html", self)


def of_step(setting: Setting, values: Mapping[str, Any]) -> Setting:
    """What a table of a step is about: values of symbols that its title does not give by itself."""
    return setting.told({n: str(v) for n, v in values.items() if n not in _TITLED})


def step_of(case: Mapping[str, Any], given: Mapping[str, int | Fraction]) -> Breakdown | None:
    """The numbers of a kept case at a point; None where the whole program must say.

    Args:
        case: of :func:`costgraph.compiling.breakdown.kept_step`.
        given: an exact number for each of its symbols.

    Raises:
        ArithmeticError: there is no finite value.
    """
    if any(not isinstance(given[name], int) for name in case["whole"]):
        return None
    point = [given[name] for name in case["names"]]

    def number(tree: Tree) -> Any:
        return value_of(tree, point)

    if any(number(limit) > 0 for limit in case["limits"]):
        return None
    rows = []
    flops, moved, wire, busy = Fraction(0), Fraction(0), Fraction(0), 0.0
    for item in case["rows"]:
        count, row_flops, row_bytes = (number(item[k]) for k in ("count", "flops", "bytes"))
        times = [number(tree) for _, tree in item["arms"]]
        slowest = max(range(len(times)), key=times.__getitem__, default=None)
        links = {name: number(tree) for name, tree in item["links"].items()}
        seconds = 0.0 if slowest is None else float(times[slowest])
        rows.append(
            OpRow(
                item["name"],
                item["kind"],
                plain_number(count),
                plain_number(row_flops),
                plain_number(row_bytes),
                {role: plain_number(number(tree)) for role, tree in item["roles"].items()},
                float(Fraction(row_flops) / Fraction(row_bytes)) if row_bytes else None,
                seconds,
                "none" if slowest is None else item["arms"][slowest][0],
                {name: plain_number(size) for name, size in links.items()},
                item["unit"],
            )
        )
        busy += float(count) * seconds
        flops += count * Fraction(row_flops)
        moved += count * Fraction(row_bytes)
        wire += count * Fraction(sum(links.values()))
    uses = [{k: plain_number(number(t)) for k, t in held.items()} for held in case["held"]]
    for use in uses:
        use["memory_bytes"] = use["weight_bytes"] + use["kv_bytes"] + use["activation_bytes"]
    totals: dict[str, int | float] = {
        "flops": plain_number(flops),
        "bytes": plain_number(moved),
        "wire_bytes": plain_number(wire),
        "seconds": busy,
        "busy_seconds": busy,
        **max(uses, key=lambda use: use["memory_bytes"]),
    }
    fits = Fit(case["hardware"], float(totals["memory_bytes"]), case["room"])
    if fits.fits is False:
        return None
    bindings = {name: int(number(tree)) for name, tree in case["bindings"].items()}
    setting = Setting.from_data(case["setting"])
    setting = of_step(setting, {name: given[name] for name in case["names"]})
    return Breakdown(setting, case["phase"], bindings, tuple(rows), totals, fits)


def plain_number(value: Any) -> int | float:
    """An exact number as an int if it is whole, else a float."""
    if isinstance(value, Fraction) and value.denominator == 1:
        return value.numerator
    return value if isinstance(value, int) else float(value)
