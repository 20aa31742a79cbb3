"""C99, in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from costgraph.formula.lower import lower
from costgraph.formula.writer import DoubleWriter
from costgraph.showing.export.code.header import commented, signature
from costgraph.showing.export.code.words import C

if TYPE_CHECKING:
    from costgraph.formula import Formula

_SUM_MAX = """\
/* Sum over t = lower ... upper of the largest a + b*t of n arms {a, b}. */
static double sum_max(double lower, double upper, int n, const double (*arms)[2]) {
    double total = 0.0, start = lower;
    while (start <= upper) {
        int k = 0;
        double best = arms[0][0] + arms[0][1] * start, end = upper;
        for (int i = 1; i < n; i++) {
            double here = arms[i][0] + arms[i][1] * start;
            if (here > best || (here == best && arms[i][1] > arms[k][1])) { k = i; best = here; }
        }
        for (int i = 0; i < n; i++) { /* a steeper arm takes over from the crossing on */
            double slope = arms[i][1] - arms[k][1];
            if (slope > 0.0) {
                end = fmin(end, fmax(start, ceil((arms[k][0] - arms[i][0]) / slope) - 1.0));
            }
        }
        total += (end - start + 1.0) * (arms[k][0] + arms[k][1] * ((start + end) / 2.0));
        start = end + 1.0;
    }
    return total;
}
"""


def c_source(formulas: Sequence[Formula], name: str | None) -> str:
    """A C function; several results go to an array ``out``."""
    made = signature(formulas, name, C)
    dag, _ = lower(formulas)
    writer = CWriter(dag, made.names, (*C, made.name))
    body, results = writer.statements()
    arguments = [f"double {n}" for n in made.names.values()]
    if len(results) == 1:
        head = f"double {made.name}({', '.join(arguments) or 'void'})"
        body.append(f"return {results[0]};")
    else:
        head = f"void {made.name}({', '.join([*arguments, f'double out[{len(results)}]'])})"
        body += [f"out[{i}] = {r};" for i, r in enumerate(results)]
    helper = f"{_SUM_MAX}\n" if "sum_max" in writer.helpers else ""
    function = "\n".join([head + " {", *(f"    {line}" for line in body), "}"])
    return f"{commented(made.comment, '//')}\n#include <math.h>\n\n{helper}{function}\n"


class CWriter(DoubleWriter):
    """Expressions in C."""

    def call(self, function: str, arguments: list[str]) -> str:
        name = {"max": "fmax", "min": "fmin", "abs": "fabs"}.get(function, function)
        if function in ("max", "min"):
            shown = arguments[0]
            for other in arguments[1:]:
                shown = f"{name}({shown}, {other})"
            return shown
        return f"{name}({', '.join(arguments)})"

    def raised(self, base: int, exponent: int) -> str:
        return f"pow({self.text(base)}, {self.text(exponent)})"

    def truth(self, value: bool) -> str:
        return "1" if value else "0"

    def envelope(self, bounds: list[str], arms: list[tuple[str, str]]) -> str:
        self.helpers.add("sum_max")
        pairs = ", ".join(f"{{{a}, {b}}}" for a, b in arms)
        return f"sum_max({', '.join(bounds)}, {len(arms)}, (const double[][2]){{{pairs}}})"

    def assign(self, name: str, value: str) -> str:
        return f"const double {name} = {value};"

    def loop(
        self, total: str, index: str, bounds: list[str], body: list[str], value: str
    ) -> list[str]:
        last = self.fresh("last")
        return [
            f"double {total} = 0.0;",
            f"const double {last} = {bounds[1]};",
            f"for (double {index} = {bounds[0]}; {index} <= {last}; {index} += 1.0) {{",
            *(self.indent + line for line in body),
            f"{self.indent}{total} += {value};",
            "}",
        ]
