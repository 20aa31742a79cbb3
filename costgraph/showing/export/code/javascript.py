"""JavaScript: an ES module, whose text also works as a plain script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from costgraph.formula.lower import lower
from costgraph.formula.quadrature import DIRECT, ROUGH, TOLERANCE, rule
from costgraph.showing.export.code.c import CWriter
from costgraph.showing.export.code.header import commented, signature
from costgraph.showing.export.code.words import JAVASCRIPT

if TYPE_CHECKING:
    from costgraph.formula import Formula

_SUM_MAX = """\
// Sum over t = lower ... upper of the largest a + b*t, for arms [a, b].
function sumMax(lower, upper, arms) {
  let total = 0, start = lower;
  while (start <= upper) {
    let [a, b] = arms[0], end = upper;
    for (const [c, d] of arms) {
      const here = c + d * start, best = a + b * start;
      if (here > best || (here === best && d > b)) { a = c; b = d; }
    }
    for (const [c, d] of arms) { // a steeper arm takes over from the crossing on
      if (d > b) end = Math.min(end, Math.max(start, Math.ceil((a - c) / (d - b)) - 1));
    }
    total += (end - start + 1) * (a + b * ((start + end) / 2));
    start = end + 1;
  }
  return total;
}
"""

# As costgraph.formula.runtime.sum_smooth; costgraph.formula.quadrature says how.
_SUM_SMOOTH = """\
// Sum over t = lower ... upper of a smooth f: polynomials through eight values, added up.
const sumSmooth = (() => {
  const nodes = %s;
  const moments = %s;
  const tail = %s;
  const dot = (w, v) => w.reduce((total, x, i) => total + x * v[i], 0);
  const plain = (a, n, f) => {
    let total = 0;
    for (let t = a; t < a + n; t += 1) total += f(t);
    return total;
  };
  const piece = (a, n, f) => {
    if (n <= %d) return plain(a, n, f);
    const values = nodes.map((x) => f(a + (n - 1) / 2 + x * n / 2)), over = 1 / (n * n);
    const rough = Math.abs(dot(tail[0], values)) + Math.abs(dot(tail[1], values));
    const m = moments.map((w) => dot(w, values)), scale = Math.abs(m[0]);
    if (rough * (rough + %r * over * scale) > %r * scale * scale) {
      const half = Math.floor(n / 2);
      return piece(a, half, f) + piece(a + half, n - half, f);
    }
    return n * (m[0] + over * (m[1] + over * (m[2] + over * m[3])));
  };
  return (lower, upper, f) => {
    let total = 0;
    for (let a = lower; a <= upper;) {
      const n = Math.min(upper - a + 1, Math.max(a, %d));
      total += piece(a, n, f);
      a += n;
    }
    return total;
  };
})();
"""


def _sum_smooth() -> str:
    known = rule()
    lists = (json.dumps(x) for x in (known.nodes, known.moments, known.tail))
    return _SUM_SMOOTH % (*lists, DIRECT, ROUGH, TOLERANCE, DIRECT)


def javascript_source(formulas: Sequence[Formula], name: str | None, module: bool = True) -> str:
    """A JavaScript function of numbers; several results come as an array.

    With ``module=False`` nothing is exported, for use inside a page's script.
    """
    made = signature(formulas, name, JAVASCRIPT)
    dag, _ = lower(formulas)
    writer = JavascriptWriter(dag, made.names, (*JAVASCRIPT, made.name))
    body, results = writer.statements()
    result = results[0] if len(results) == 1 else f"[{', '.join(results)}]"
    lines = [
        f"{'export ' if module else ''}function {made.name}({', '.join(made.names.values())}) {{",
        *(f"  {line}" for line in body),
        f"  return {result};",
        "}",
    ]
    known = {"sumMax": lambda: _SUM_MAX, "sumSmooth": _sum_smooth}
    helper = "".join(f"{text()}\n" for name, text in known.items() if name in writer.helpers)
    return f"{commented(made.comment, '//')}\n{helper}" + "\n".join(lines) + "\n"


class JavascriptWriter(CWriter):
    """Expressions in JavaScript."""

    indent = "  "

    def call(self, function: str, arguments: list[str]) -> str:
        return f"Math.{function}({', '.join(arguments)})"

    def rounded(self, up: bool, top: int, bottom: int) -> str:
        return f"Math.{super().rounded(up, top, bottom)}"

    def raised(self, base: int, exponent: int) -> str:
        return f"Math.{super().raised(base, exponent)}"

    def relation(self, sign: str) -> str:
        return {"==": "===", "!=": "!=="}.get(sign, sign)

    def truth(self, value: bool) -> str:
        return "true" if value else "false"

    def envelope(self, bounds: list[str], arms: list[tuple[str, str]]) -> str:
        self.helpers.add("sumMax")
        pairs = ", ".join(f"[{a}, {b}]" for a, b in arms)
        return f"sumMax({', '.join(bounds)}, [{pairs}])"

    def assign(self, name: str, value: str) -> str:
        return f"const {name} = {value};"

    def loop(
        self, total: str, index: str, bounds: list[str], body: list[str], value: str
    ) -> list[str]:
        lines = super().loop(total, index, bounds, body, value)
        return [
            f"let {total} = 0;",
            lines[1].replace("const double ", "const ", 1),
            lines[2].replace("(double ", "(let ", 1),
            *lines[3:],
        ]

    def smooth(
        self, total: str, index: str, bounds: list[str], body: list[str], value: str
    ) -> list[str]:
        self.helpers.add("sumSmooth")
        return [
            f"const {total} = sumSmooth({', '.join(bounds)}, ({index}) => {{",
            *(self.indent + line for line in body),
            f"{self.indent}return {value};",
            "});",
        ]
