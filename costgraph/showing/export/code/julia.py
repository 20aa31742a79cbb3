"""Julia, in Float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from costgraph.formula.lower import lower
from costgraph.formula.writer import DoubleWriter
from costgraph.showing.export.code.header import commented, signature
from costgraph.showing.export.code.words import JULIA

if TYPE_CHECKING:
    from costgraph.formula import Formula

_SUM_MAX = """\
# Sum over t = lower ... upper of the largest a + b*t, for arms (a, b).
function sum_max(lower, upper, arms)
    total, start = 0.0, lower
    while start <= upper
        a, b = arms[1]
        for (c, d) in arms
            here, best = c + d * start, a + b * start
            if here > best || (here == best && d > b)
                a, b = c, d
            end
        end
        stop = upper
        for (c, d) in arms  # a steeper arm takes over from the crossing on
            if d > b
                stop = min(stop, max(start, ceil((a - c) / (d - b)) - 1.0))
            end
        end
        total += (stop - start + 1.0) * (a + b * ((start + stop) / 2.0))
        start = stop + 1.0
    end
    return total
end
"""


def julia_source(formulas: Sequence[Formula], name: str | None) -> str:
    """A Julia function of numbers; several results come as a tuple."""
    made = signature(formulas, name, JULIA)
    dag, _ = lower(formulas)
    writer = JuliaWriter(dag, made.names, (*JULIA, made.name))
    body, results = writer.statements()
    # Whole arguments would compute in Int64, which overflows.
    floats = [f"{n} = Float64({n})" for n in made.names.values()]
    result = results[0] if len(results) == 1 else f"({', '.join(results)})"
    lines = [
        f"function {made.name}({', '.join(made.names.values())})",
        *(f"    {line}" for line in [*floats, *body]),
        f"    return {result}",
        "end",
    ]
    helper = f"{_SUM_MAX}\n" if "sum_max" in writer.helpers else ""
    return f"{commented(made.comment, '#')}\n{helper}" + "\n".join(lines) + "\n"


class JuliaWriter(DoubleWriter):
    """Expressions in Julia."""

    power = "^"

    def call(self, function: str, arguments: list[str]) -> str:
        return f"{function}({', '.join(arguments)})"

    def truth(self, value: bool) -> str:
        return "true" if value else "false"

    def loop(
        self, total: str, index: str, bounds: list[str], body: list[str], value: str
    ) -> list[str]:
        last = self.fresh("last")
        return [
            f"{total} = 0.0",
            f"{last} = {bounds[1]}",
            f"{index} = {bounds[0]}",
            f"while {index} <= {last}",
            *(self.indent + line for line in body),
            f"{self.indent}{total} += {value}",
            f"{self.indent}{index} += 1.0",
            "end",
        ]
