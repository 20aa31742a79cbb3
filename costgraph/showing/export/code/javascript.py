"""JavaScript: an ES module, whose text also works as a plain script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from costgraph.formula.lower import lower
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

# As costgraph.formula.runtime.sum_smooth, which says how.
_SUM_SMOOTH = """\
// Sum over t = lower ... upper of a smooth f: Gauss-Legendre with Euler-Maclaurin end corrections.
const sumSmooth = (() => {
  const rule = (n) => Array.from({ length: n }, (_, i) => {
    let x = Math.cos(Math.PI * (i + 0.75) / (n + 0.5)), slope = 1, step = 1;
    for (let k = 0; k < 100 && Math.abs(step) >= 1e-16; k++) {
      let p0 = 1, p1 = x;
      for (let j = 2; j <= n; j++) [p0, p1] = [p1, ((2 * j - 1) * x * p1 - (j - 1) * p0) / j];
      slope = n * (x * p1 - p0) / (x * x - 1);
      step = p1 / slope;
      x -= step;
    }
    return [x, 2 / ((1 - x * x) * slope * slope)];
  });
  const few = rule(16), many = rule(32);
  const gauss = (a, b, f, nodes) => {
    const center = (a + b) / 2, half = (b - a + 1) / 2;
    let total = 0;
    for (const [x, w] of nodes) total += w * f(center + half * x);
    return half * total;
  };
  const plain = (a, b, f) => {
    let total = 0;
    for (let t = a; t <= b; t += 1) total += f(t);
    return total;
  };
  const slope = (f, t) => (8 * (f(t + 0.5) - f(t - 0.5)) - (f(t + 1) - f(t - 1))) / 6;
  const third = (f, t) => (f(t + 2) - 2 * f(t + 1) + 2 * f(t - 1) - f(t - 2)) / 2;
  const piece = (a, b, f, depth) => {
    const value = gauss(a, b, f, many);
    if (Math.abs(gauss(a, b, f, few) - value) <= 1e-11 * Math.abs(value)) return value;
    if (depth === 0 || b - a < 128) {
      return plain(a, b, f) + (slope(f, b + 0.5) - slope(f, a - 0.5)) / 24;
    }
    const middle = Math.floor((a + b) / 2);
    return piece(a, middle, f, depth - 1) + piece(middle + 1, b, f, depth - 1);
  };
  return (lower, upper, f) => {
    if (upper - lower < 256) return plain(lower, upper, f);
    const start = lower + 64, low = start - 0.5, high = upper + 0.5;
    let total = plain(lower, start - 1, f);
    for (let a = start; a <= upper;) {
      const b = Math.min(upper, a + Math.max(a, 64) - 1);
      total += piece(a, b, f, 12);
      a = b + 1;
    }
    return total - (slope(f, high) - slope(f, low)) / 24
      + 7 * (third(f, high) - third(f, low)) / 5760;
  };
})();
"""


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
    known = {"sumMax": _SUM_MAX, "sumSmooth": _SUM_SMOOTH}
    helper = "".join(f"{text}\n" for name, text in known.items() if name in writer.helpers)
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
