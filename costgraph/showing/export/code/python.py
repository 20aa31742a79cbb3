"""Python: with ``math`` only, and over NumPy arrays."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from costgraph.formula.lower import lower
from costgraph.formula.snippets import SUM_MAX, SUM_MAX_ARRAYS
from costgraph.formula.writer import Writer
from costgraph.showing.export.code.header import commented, signature

if TYPE_CHECKING:
    from costgraph.formula import Formula

_RESERVED = {*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "math", "np", "sum_max", "whole"}

_WHOLE = '''\
def whole(top, bottom):
    """top / bottom, as a whole number where it is one."""
    quotient, rest = divmod(top, bottom)
    return top / bottom if rest else quotient
'''


def python_source(formulas: Sequence[Formula], name: str | None) -> str:
    """A Python function of numbers; see :func:`.source`."""
    made = signature(formulas, name, _RESERVED)
    dag, divisors = lower(formulas, exact=True)
    writer = Writer(dag, made.names, (*_RESERVED, made.name))
    body, results = writer.statements()
    for place, divisor in enumerate(divisors):
        if divisor > 1:
            results[place] = f"whole({results[place]}, {divisor})"
    helpers = [SUM_MAX] if "sum_max" in writer.helpers else []
    helpers += [_WHOLE] if any(d > 1 for d in divisors) else []
    text = "\n\n".join([*helpers, _function(made.name, list(made.names.values()), body, results)])
    uses = "import math\n\n\n" if "math." in text else ""
    return commented(made.comment, "#") + "\n" + uses + text


def numpy_source(formulas: Sequence[Formula], name: str | None) -> str:
    """A Python function of arrays that broadcast; see :func:`.source`."""
    made = signature(formulas, name, _RESERVED)
    dag, _ = lower(formulas)
    writer = NumpyWriter(dag, made.names, (*_RESERVED, made.name))
    body, results = writer.statements()
    names = list(made.names.values())
    if names:
        arrays = ", ".join(f"np.asarray({n}, dtype=float)" for n in names)
        body = [f"{', '.join(names)}{',' if len(names) == 1 else ''} = {arrays}"
                f"{',' if len(names) == 1 else ''}", *body]  # fmt: skip
    helpers = [SUM_MAX_ARRAYS] if "sum_max" in writer.helpers else []
    text = "\n\n".join([*helpers, _function(made.name, names, body, results)])
    return commented(made.comment, "#") + "\nimport numpy as np\n\n\n" + text


def _function(name: str, names: list[str], body: list[str], results: list[str]) -> str:
    lines = [f"def {name}({', '.join(names)}):", *(f"    {line}" for line in body)]
    if len(results) == 1:
        lines.append(f"    return {results[0]}")
    else:
        lines += ["    return (", *(f"        {r}," for r in results), "    )"]
    return "\n".join(lines) + "\n"


class NumpyWriter(Writer):
    """Expressions over arrays."""

    def number(self, value: Fraction | float) -> str:
        return repr(float(value))

    def call(self, function: str, arguments: list[str]) -> str:
        if function in ("max", "min"):
            name = f"np.{function}imum"
            shown = arguments[0]
            for other in arguments[1:]:
                shown = f"{name}({shown}, {other})"
            return shown
        return f"np.{function}({', '.join(arguments)})"

    def rounded(self, up: bool, top: int, bottom: int) -> str:
        name = "np.ceil" if up else "np.floor"
        return f"{name}({self.ratio(top, bottom)})"

    def select(self, condition: str, then: str, otherwise: str) -> str:
        return f"np.where({condition}, {then}, {otherwise})"

    def condition(self, op: str, parts: list[str], value: object) -> str:
        joint = {"and": "logical_and", "or": "logical_or"}
        if op in joint:
            shown = parts[0]
            for other in parts[1:]:
                shown = f"np.{joint[op]}({shown}, {other})"
            return shown
        if op == "not":
            return f"np.logical_not({parts[0]})"
        return super().condition(op, parts, value)

    def loop(
        self, total: str, index: str, bounds: list[str], body: list[str], value: str
    ) -> list[str]:
        low, high = self.fresh("lower"), self.fresh("upper")
        return [
            f"{low}, {high} = {bounds[0]}, {bounds[1]}",
            f"{total} = 0.0",
            f"for {index} in range(int(np.min({low})), int(np.max({high})) + 1):",
            *(self.indent + line for line in body),
            f"{self.indent}{total} = {total} + np.where("
            f"({low} <= {index}) & ({index} <= {high}), {value}, 0.0)",
        ]
