"""The program of formulas compiled by Numba to one loop over the points.

Constants are arguments, so formulas that differ only in their numbers (one model
on many devices) share one compiled loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from costgraph.formula.dag import Dag
from costgraph.formula.program import Program
from costgraph.formula.snippets import SUM_MAX_COMPILED
from costgraph.formula.writer import Writer

if TYPE_CHECKING:
    from costgraph.formula.vector import Array, Run

# What may change the last digits but neither what a comparison with NaN or
# infinity yields: inputs are checked inside the loop.
_FAST = frozenset(("reassoc", "contract", "arcp", "nsz", "afn"))
_LITERAL = frozenset((-1.0, 0.0, 0.5, 1.0, 2.0))
_LARGEST = repr(float(np.finfo(np.float64).max))


@lru_cache(maxsize=64)
def runner(program: Program) -> Run:
    """A runner for flat inputs of any length."""
    text, constants, helpers = _source(program)
    function = _compiled(text, len(program.names), len(program.results), helpers)
    numbers = np.array(constants, dtype=np.float64)

    def run(inputs: Sequence[Array], outputs: Sequence[Array]) -> bool:
        bad: int = function(len(outputs[0]), numbers, *inputs, *outputs)
        return bad > 0

    return run


class _Writer(Writer):
    """Python that Numba compiles; constants are read from an argument."""

    def __init__(self, dag: Dag, names: dict[str, str]) -> None:
        super().__init__(dag, names, ("np", "sum_max", "largest", "smallest"))
        self.constants: dict[float, str] = {}

    def number(self, value: Fraction | float) -> str:
        number = float(value)
        if number in _LITERAL:
            return repr(number)
        return self.constants.setdefault(number, f"k{len(self.constants)}")

    def call(self, function: str, arguments: list[str]) -> str:
        if function in ("max", "min"):
            name = "largest" if function == "max" else "smallest"
            shown = arguments[0]
            for other in arguments[1:]:
                shown = f"{name}({shown}, {other})"
            return shown
        return f"np.{function}({', '.join(arguments)})"

    def result(self, index: int) -> str:
        return self.text(index)

    def rounded(self, up: bool, top: int, bottom: int) -> str:
        return f"np.{'ceil' if up else 'floor'}({self.ratio(top, bottom)})"


def _source(program: Program) -> tuple[str, tuple[float, ...], frozenset[str]]:
    """(text of the loop, its constants, helpers it needs)."""
    names = {name: f"x{i}" for i, name in enumerate(program.names)}
    writer = _Writer(program.dag, names)
    body, shown = writer.statements()
    results, checks = shown[: len(program.results)], shown[len(program.results) :]
    inputs = [f"{x}s" for x in names.values()]
    outputs = [f"y{i}s" for i in range(len(results))]
    loop = [f"{x} = {x}s[i]" for x in names.values()]
    loop += [
        f"if not ({x} >= {least!r} and {x} <= {_LARGEST}): bad += 1"
        for x, least in zip(names.values(), program.least, strict=True)
    ]
    loop += [f"if x{i} != np.floor(x{i}): bad += 1" for i in program.whole]
    loop += body
    loop += [f"if {check}: bad += 1" for check in checks]
    loop += [f"{y}[i] = {value}" for y, value in zip(outputs, results, strict=True)]
    lines = [
        f"def kernel({', '.join(['n', 'k', *inputs, *outputs])}):",
        *(f"    {k} = k[{i}]" for i, k in enumerate(writer.constants.values())),
        "    bad = 0",
        "    for i in range(n):",
        *(f"        {line}" for line in loop),
        "    return bad",
    ]
    return "\n".join(lines) + "\n", tuple(writer.constants), frozenset(writer.helpers)


@lru_cache(maxsize=64)
def _compiled(text: str, inputs: int, outputs: int, helpers: frozenset[str]) -> Any:
    """The machine code of a loop's text."""
    import numba

    def inlined(function: str, name: str) -> Any:
        local: dict[str, Any] = {"np": np}
        exec(function, local)
        return numba.njit(fastmath=set(_FAST), error_model="numpy")(local[name])

    scope: dict[str, Any] = {
        "np": np,
        "largest": inlined("def largest(a, b): return a if a > b else b", "largest"),
        "smallest": inlined("def smallest(a, b): return a if a < b else b", "smallest"),
    }
    if "sum_max" in helpers:
        scope["sum_max"] = inlined(SUM_MAX_COMPILED, "sum_max")
    # The text is generated from operations; symbols appear as x0, x1, … only.
    exec(text, scope)
    flat = numba.float64[::1]
    given = numba.types.Array(numba.float64, 1, "C", readonly=True)
    signature = numba.int64(numba.int64, given, *(given,) * inputs, *(flat,) * outputs)
    return numba.njit(signature, fastmath=set(_FAST), error_model="numpy", nogil=True)(
        scope["kernel"]
    )
