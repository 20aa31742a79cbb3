"""Formulas over arrays: many points at once, in double precision.

Two engines compute the same program (:mod:`.dag`). ``numba`` compiles it to a
loop (extra ``fast``) and is used for many points when it is installed; ``numpy``
runs it operation by operation over blocks that stay in the cache. Powers with fixed exponents
(the norms of calibrated formulas) are quicker in NumPy, which computes eight at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costgraph.errors import InputError, clip, nearest, unbound, unknown
from costgraph.formula.formula import Formula
from costgraph.formula.limits import not_positive, positive_names
from costgraph.formula.lower import Lowering
from costgraph.formula.program import Program
from costgraph.formula.terms import ZERO, Limit
from costgraph.number import number
from costgraph.symbols import LEGEND, N, S

Array: TypeAlias = NDArray[np.float64]
#: Computes flat inputs of one length into flat outputs; True if a check failed.
Run: TypeAlias = Callable[[Sequence[Array], Sequence[Array]], bool]

ENGINES = ("numba", "numpy")
#: Fewer points than this are not worth compiling: they are left to NumPy.
FEW = 1 << 17
#: Points per block: inputs, results and intermediate values stay in the cache.
BLOCK = 1 << 14
_COMPILED_BLOCK = 1 << 15
_OPERANDS = 30


@dataclass(frozen=True)
class VectorFunction:
    """Formulas compiled for arrays.

    Attributes:
        names: the symbols to give values for, sorted.
        engine: what evaluates many points: ``numba`` (but for norms) or ``numpy``.
    """

    names: tuple[str, ...]
    engine: str
    _formulas: tuple[Formula, ...]
    _program: Program
    _limits: tuple[Limit, ...]
    _always: bool

    def __call__(self, **arrays: Any) -> tuple[Array, ...]:
        """One array per formula, of the common shape of all inputs.

        Args:
            arrays: positive finite numbers or arrays of them, by symbol, or zeros of
                shares that may be; they broadcast against each other.

        Raises:
            UnboundSymbolError: a symbol has no value.
            InputError: an unknown name, something that is not numbers, shapes
                that do not broadcast, or a point outside the formulas' domain or
                limits (the first one is named).
        """
        inputs = self._inputs(arrays)
        try:
            shape = np.broadcast_shapes(*(a.shape for a in inputs))
        except ValueError:
            shapes = ", ".join(f"{n} {a.shape}" for n, a in zip(self.names, inputs, strict=True))
            raise InputError(f"{self._title}: shapes do not broadcast: {shapes}") from None
        outputs = tuple(np.empty(shape) for _ in self._formulas)
        large = outputs[0].size >= FEW and not self._program.has_norms
        many = self.engine == "numba" and (self._always or large)
        bad = _run_blocks(self._runner(many), inputs, outputs, many)
        if bad:
            self._reject(inputs, shape)
        return outputs

    def _runner(self, compiled: bool) -> Run:
        if compiled:
            from costgraph.formula.vector_numba import runner

            return runner(self._program)
        from costgraph.formula.vector_numpy import interpreter

        return interpreter(self._program)

    @property
    def _title(self) -> str:
        return ", ".join(dict.fromkeys(f.name for f in self._formulas))

    def _inputs(self, arrays: dict[str, Any]) -> list[Array]:
        missing = [n for n in self.names if n not in arrays]
        if missing:
            known = {k: v for f in self._formulas for k, v in f.meanings.items()}
            raise unbound(self._title, missing, known)
        for name in arrays:
            if name not in self.names and name not in LEGEND:
                raise unknown(self._title, name, self.names)
        return [self._numbers(name, arrays[name]) for name in self.names]

    def _numbers(self, name: str, value: Any) -> Array:
        try:
            array = np.asarray(value)
            if array.dtype.kind in "iuf":
                return array.astype(np.float64, copy=False)
            if array.dtype.kind == "O":  # fractions, integers beyond 64 bits
                found = (float(number(v, f"{self._title}: {name}")) for v in array.reshape(-1))
                return np.fromiter(found, np.float64, array.size).reshape(array.shape)
        except (TypeError, ValueError, OverflowError):
            pass
        raise InputError(f"{self._title}: {name} must be numbers, not {clip(value)}")

    def _reject(self, inputs: list[Array], shape: tuple[int, ...]) -> None:
        """Names the first offending point of the first check that fails."""
        for name, least, array in zip(self.names, self._program.least, inputs, strict=True):
            usable = (array >= least) & np.isfinite(array)
            if not usable.all():
                where, value = _first(~usable, array)
                raise not_positive(name, value, f"{self._title}: ", f" ({name}{where})")
        for name, array in zip(self.names, inputs, strict=True):
            if name in (S.name, N.name) and (array != np.floor(array)).any():
                where, value = _first(array != np.floor(array), array)
                raise InputError(
                    f"{self._title}: {name} must be a whole number of tokens, "
                    f"not {value} ({name}{where})"
                )
        for limit in self._limits:
            self._check_limit(limit, inputs, shape)
        raise AssertionError("a check failed that no point fails")

    def _check_limit(self, limit: Limit, inputs: list[Array], shape: tuple[int, ...]) -> None:
        from costgraph.formula.vector_numpy import interpreter

        lowering = Lowering()
        root = lowering.expr(limit.excess)
        lowering.dag.outputs = (root,)
        values = np.empty(shape)
        run = interpreter(Program(lowering.dag, self.names, (root,), ()))
        _run_blocks(run, inputs, (values,), False)
        if (values > 0).any():
            at = np.unravel_index(int(np.argmax(values > 0)), shape)
            point = ", ".join(
                f"{n}={np.broadcast_to(a, shape)[at]:.15g}"
                for n, a in zip(self.names, inputs, strict=True)
            )
            raise InputError(f"{self._title}: {limit.says(values[at])} (first at {point})")


def compile_vector(formulas: Sequence[Formula], *, engine: str | None = None) -> VectorFunction:
    """A function that evaluates formulas over arrays.

    Args:
        formulas: at least one; results come in their order. What they have in
            common is computed once.
        engine: ``numba`` or ``numpy``; None takes numba if it is installed, and
            leaves calls with few points to NumPy, where compiling would cost more
            than it saves.

    Raises:
        InputError: no formula, an unknown engine, one that is not installed, or
            an expression without a counterpart in code.
    """
    if engine is not None and engine not in ENGINES:
        raise InputError(f"no engine {clip(engine)}{nearest(str(engine), ENGINES)}")
    if not formulas:
        raise InputError("no formula to compile")
    if engine == "numba" and not _installed():
        raise InputError("engine numba is not installed: pip install 'costgraph[fast]'")
    chosen = engine or ("numba" if _installed() else "numpy")
    zero = {s.name for f in formulas for s in f.symbols} - positive_names(formulas)
    return _compiled(tuple(formulas), chosen, engine is not None, tuple(sorted(zero)))


def _installed() -> bool:
    try:
        return find_spec("numba") is not None
    except (ImportError, ValueError):
        return False


@lru_cache(maxsize=128)
def _compiled(
    formulas: tuple[Formula, ...], engine: str, always: bool, zero: tuple[str, ...]
) -> VectorFunction:
    # What may be zero is told apart: equal formulas may be of settings that differ in it.
    lowering = Lowering()
    roots = tuple(lowering.formula(f) for f in formulas)
    symbols = {s for f in formulas for s in f.symbols}
    names = tuple(sorted(s.name for s in symbols))
    limits = tuple(
        dict.fromkeys(x for f in formulas for x in f.limits if x.symbols <= set(f.symbols))
    )

    def exceeds(limit: Limit) -> int:
        return lowering.dag.add_node("gt", (lowering.expr(limit.excess), lowering.expr(ZERO)))

    checks = tuple(map(exceeds, limits))
    lowering.dag.outputs = (*roots, *checks)
    program = Program(lowering.dag, names, roots, checks, zero)
    return VectorFunction(names, engine, formulas, program, limits, always)


def _run_blocks(
    run: Run, inputs: Sequence[Array], outputs: Sequence[Array], compiled: bool
) -> bool:
    """Feeds a runner with flat, contiguous blocks of the broadcast inputs."""
    shape, size = outputs[0].shape, outputs[0].size
    if size == 0:
        return False
    whole = all(a.shape == shape and a.flags.c_contiguous for a in inputs)
    if not whole and len(inputs) + len(outputs) > _OPERANDS:
        inputs = [np.ascontiguousarray(np.broadcast_to(a, shape)) for a in inputs]
        whole = True
    bad = False
    if whole:
        flat, results = [a.reshape(-1) for a in inputs], [a.reshape(-1) for a in outputs]
        step = size if compiled else BLOCK
        for start in range(0, size, step):
            part = slice(start, start + step)
            bad |= run([a[part] for a in flat], [a[part] for a in results])
        return bad
    # NumPy's type hints do not know the flag "contig".
    flags: Any = [["readonly", "contig"]] * len(inputs) + [["writeonly", "contig"]] * len(outputs)
    blocks = np.nditer(
        [*inputs, *outputs],
        flags=["external_loop", "buffered"],
        op_flags=flags,
        order="C",
        buffersize=_COMPILED_BLOCK if compiled else BLOCK,
    )
    with blocks:
        for block in blocks:
            arrays = block if isinstance(block, tuple) else (block,)
            bad |= run(arrays[: len(inputs)], arrays[len(inputs) :])
    return bad


def _first(bad: NDArray[np.bool_], array: Array) -> tuple[str, float]:
    """Where in an input the first bad value stands, and the value."""
    at = np.unravel_index(int(np.argmax(bad)), array.shape)
    return (f"[{', '.join(str(int(i)) for i in at)}]" if at else ""), float(array[at])
