"""Formulas over arrays: a scalar loop behind the interface of the vector evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from costgraph.formula.formula import Formula


@dataclass(frozen=True)
class VectorFunction:
    """Several formulas as one function of arrays.

    Attributes:
        names: sorted union of the formulas' symbols.
        formulas: what is evaluated, in the order of the results.
    """

    names: tuple[str, ...]
    formulas: tuple[Formula, ...]

    def __call__(self, **values: Any) -> tuple[np.ndarray[Any, Any], ...]:
        """One float64 array per formula, of the arguments' broadcast shape."""
        arrays = np.broadcast_arrays(*(np.asarray(values[n]) for n in self.names))
        shape = arrays[0].shape if arrays else ()
        columns = [[x.item() for x in a.ravel()] for a in arrays]
        points = list(zip(*columns, strict=True)) if columns else [()]
        results = []
        for formula in self.formulas:
            wanted = [(i, n.name) for n in formula.symbols for i in [self.names.index(n.name)]]
            flat = [float(formula.evaluate(**{n: p[i] for i, n in wanted})) for p in points]
            results.append(np.array(flat, dtype=np.float64).reshape(shape))
        return tuple(results)


def compile_vector(formulas: Sequence[Formula], *, engine: str | None = None) -> VectorFunction:
    """One function of arrays for several formulas; ``engine`` chooses nothing here."""
    names = sorted({s.name for f in formulas for s in f.symbols})
    return VectorFunction(tuple(names), tuple(replace(f) for f in formulas))
