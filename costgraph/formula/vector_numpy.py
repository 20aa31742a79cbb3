"""The program of formulas run by NumPy, one operation at a time over a block.

Blocks are small enough for the cache, and the memory of intermediate values is
used again as soon as nothing needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from costgraph.formula.program import Program, is_norms
from costgraph.formula.snippets import SUM_MAX_ARRAYS
from costgraph.formula.vector_sums import CHUNK, Index, sum_smooth
from costgraph.formula.vector_tables import Alone, alone, numbers

if TYPE_CHECKING:
    from costgraph.formula.vector import Array, Run

_MANY = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "div": np.divide,
    "pow": np.power,
}
_ONE = {"sqrt": np.sqrt, "exp": np.exp, "log": np.log, "abs": np.abs, "trunc": np.trunc}
_CONDITIONS = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
}
_FREE = frozenset(("num", "sym", "var", "bool", "not", *_CONDITIONS))


def interpreter(program: Program) -> Run:
    """A runner for blocks of inputs, with memory of its own."""
    return _machine(program).runner()


@lru_cache(maxsize=64)
def _machine(program: Program) -> _Machine:
    return _Machine(program)


class _Machine:
    """Steps of a program and the buffer that each result goes to."""

    def __init__(self, program: Program) -> None:
        self._program = program
        nodes = program.dag.nodes
        uses = program.dag.used()
        self._inside: dict[int, list[int]] = {}
        self._fixed: dict[int, list[int]] = {}
        varying: set[int] = set()
        for index, node in enumerate(nodes):
            if node.op == "loop" and uses[index]:
                body = program.dag.depending_on(node.args[2])
                varying |= body
                inner = [i for i in sorted(body) if uses[i] and nodes[i].op != "var"]
                self._inside[index] = inner
                self._fixed[index] = sorted({a for i in inner for a in nodes[i].args} - body)
        self._steps = [
            i for i, n in enumerate(nodes) if uses[i] and i not in varying and n.op != "sym"
        ]
        self._symbols = [
            (program.names.index(str(n.value)), i)
            for i, n in enumerate(nodes)
            if n.op == "sym" and uses[i]
        ]
        self._tables = self._alone()
        self._least = program.least
        self._place = self._buffers(self._steps, set(program.dag.outputs))
        self._count = max(self._place.values(), default=-1) + 1
        self._inner_place = {
            loop: self._buffers(body, {nodes[loop].args[3]}) for loop, body in self._inside.items()
        }

    def _alone(self) -> dict[int, tuple[int, Alone]]:
        """By input what depends on it alone and has norms, with the symbol's node."""
        dag = self._program.dag
        users: dict[int, set[int]] = {i: set() for i in range(len(dag.nodes))}
        for step in self._steps:
            for operand in dag.nodes[step].args:
                users[operand].add(step)
            for operand in self._fixed.get(step, ()):
                users[operand].add(-1)
        for output in dag.outputs:
            users[output].add(-1)
        found = {
            place: (symbol, alone(dag, symbol, self._steps, users))
            for place, symbol in self._symbols
        }
        return {place: made for place, made in found.items() if made[1].results}

    def _buffers(self, steps: Sequence[int], forever: set[int]) -> dict[int, int]:
        """A buffer per step, shared by values that are never needed together.

        Few buffers stay in the cache. Those of ``forever`` are used for nothing else after.
        """
        nodes = self._program.dag.nodes
        last: dict[int, int] = {}
        for step in steps:
            body = self._inside.get(step, [])
            for operand in (*nodes[step].args, *(a for i in body for a in nodes[i].args)):
                last[operand] = step
        place: dict[int, int] = {}
        free: list[int] = []
        count = 0
        for step in steps:
            if nodes[step].op not in _FREE:
                if not free:
                    free.append(count)
                    count += 1
                place[step] = free.pop()
            done = {a for a in last if last[a] == step and a in place and a not in forever}
            free += [place[a] for a in done]
            for a in done:
                del last[a]
        return place

    def runner(self) -> Run:
        """A function for blocks; its buffers live as long as it does."""
        scratch: list[Array] = []
        inner: dict[int, Array] = {}

        def run(inputs: Sequence[Array], outputs: Sequence[Array]) -> bool:
            length = len(outputs[0])
            if not scratch or len(scratch[0]) < length:
                scratch[:] = [np.empty(length) for _ in range(max(self._count, 1))]
            return self._run(inputs, outputs, [b[:length] for b in scratch], inner)

        return run

    def _run(
        self,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        buffers: list[Array],
        inner: dict[int, Array],
    ) -> bool:
        """Computes one block; True if a check failed."""
        bad = any(
            not (float(x.max()) < np.inf and float(x.min()) >= least)
            for x, least in zip(inputs, self._least, strict=True)
            if x.size
        )
        bad = bad or any((inputs[i] != np.floor(inputs[i])).any() for i in self._program.whole)
        if bad:
            return True
        values: dict[int, Any] = {node: inputs[place] for place, node in self._symbols}
        nodes = self._program.dag.nodes
        with np.errstate(all="ignore"):
            known, idle = self._known(inputs)
            for step in self._steps:
                if step in idle:
                    continue
                place = self._place.get(step)
                out = None if place is None else buffers[place]
                if step in known:
                    table, where = known[step]
                    values[step] = np.take(table, where, out=out, mode="clip")
                elif nodes[step].op == "loop":
                    values[step] = self._loop(step, values, out, inner)
                else:
                    values[step] = self._step(step, values, out)
        for output, root in zip(outputs, self._program.results, strict=True):
            output[...] = values[root]
        return any(bool(np.any(values[c])) for c in self._program.checks)

    def _known(
        self, inputs: Sequence[Array]
    ) -> tuple[dict[int, tuple[Array, Index]], frozenset[int]]:
        """Steps that are looked up, each in its table, and those that are left out for it."""
        known: dict[int, tuple[Array, Index]] = {}
        idle: frozenset[int] = frozenset()
        for place, (symbol, made) in self._tables.items():
            found = numbers(inputs[place])
            if found is None:
                continue
            given, where = found
            values: dict[int, Any] = {symbol: given}
            for step in made.steps:
                out = None if step not in self._place else np.empty(len(given))
                values[step] = self._step(step, values, out)
            known |= {step: (values[step], where) for step in made.results}
            idle |= made.inner
        return known, idle

    def _step(self, step: int, values: dict[int, Any], out: Array | None) -> Any:
        node = self._program.dag.nodes[step]
        if node.op == "num":
            return float(node.value)  # type: ignore[arg-type]
        if node.op == "bool":
            return node.value == "true"
        given = [values[a] for a in node.args]
        if out is not None and is_norms(self._program.dag, node):
            # Of a base that is not negative two vectorised functions are quicker than one power.
            # They differ by what the logarithm is rounded by, times the exponent.
            logarithm = np.log(given[0], out=out)
            return np.exp(np.multiply(logarithm, given[1], out=out), out=out)
        if node.op in _MANY:
            function = _MANY[node.op]
            result = function(given[0], given[1], out=out)
            for other in given[2:]:
                result = function(result, other, out=out)
            return result
        if node.op in _ONE:
            return _ONE[node.op](given[0], out=out)
        if node.op in ("ceildiv", "floordiv"):
            ratio = np.divide(given[0], given[1], out=out)
            return (np.ceil if node.op == "ceildiv" else np.floor)(ratio, out=out)
        if node.op == "not":
            return np.logical_not(given[0])
        if node.op in _CONDITIONS:
            truth = _CONDITIONS[node.op](given[0], given[1])
            for other in given[2:]:
                truth = _CONDITIONS[node.op](truth, other)
            return truth
        if node.op == "select":
            return np.where(*given)
        assert node.op == "envelope"
        arms = tuple(zip(given[2::2], given[3::2], strict=True))
        return _sum_max()(given[0], given[1], arms)

    def _loop(
        self, step: int, values: dict[int, Any], out: Array | None, scratch: dict[int, Array]
    ) -> Any:
        if self._program.dag.nodes[step].value == "smooth":
            return self._smooth(step, values, out, scratch)
        lower, upper, variable, summand = self._program.dag.nodes[step].args
        low, high = values[lower], values[upper]
        total: Any = 0.0
        for t in range(int(np.min(low)), int(np.max(high)) + 1):
            values[variable] = float(t)
            for inner in self._inside[step]:
                values[inner] = self._step(inner, values, None)
            total = total + np.where((low <= t) & (t <= high), values[summand], 0.0)
        return total

    def _smooth(
        self, step: int, values: dict[int, Any], out: Array | None, scratch: dict[int, Array]
    ) -> Any:
        """A loop over a summand that may be integrated."""
        lower, upper, variable, summand = self._program.dag.nodes[step].args
        assert out is not None  # a loop has a buffer
        places = self._inner_place[step]

        def at(points: Index | slice) -> Callable[[Array], Array]:
            inner = {
                a: values[a] if np.ndim(values[a]) == 0 else values[a][points]
                for a in self._fixed[step]
            }

            def f(t: Array) -> Array:
                inner[variable] = t
                shaped: dict[int, Array] = {}
                for i in self._inside[step]:
                    buffer = places.get(i)
                    if buffer is not None and buffer not in shaped:
                        if buffer not in scratch:
                            scratch[buffer] = np.empty(CHUNK)
                        shaped[buffer] = scratch[buffer][: t.size].reshape(t.shape)
                    inner[i] = self._step(i, inner, None if buffer is None else shaped[buffer])
                made: Array = inner[summand]
                return made

            return f

        low, high = (np.broadcast_to(values[a], out.shape) for a in (lower, upper))
        out[...] = sum_smooth(low, high, at)
        return out


@lru_cache(maxsize=1)
def _sum_max() -> Any:
    scope: dict[str, Any] = {"np": np}
    exec(SUM_MAX_ARRAYS, scope)
    return scope["sum_max"]
