"""Fitting forms: robust least squares on logarithms of time, by SciPy.

All groups of a kind are fitted together. A parameter has one value per label of
its scope; each row of data depends on one value of each parameter, so a sparse
Jacobian takes one evaluation per parameter, however many values there are. Values
of one parameter are drawn towards a common centre, fitted as well, by its
``spread``: groups with few rows borrow from the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from costgraph.errors import InputError
from costgraph.progress import counted
from costgraph.timing.fidelity.forms import Parameter
from costgraph.timing.fidelity.table import Array

#: Residuals (natural logarithm) beyond which rows count less: outliers.
SOFT = 0.05
Model = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
Strings = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Fitted:
    """The outcome of a fit.

    Attributes:
        values: by parameter, its value per label of its scope.
        errors: likewise, the relative standard error (of the logarithm).
        centres: by parameter, the common centre of its values.
        scopes: by parameter, its scope.
    """

    values: Mapping[str, Mapping[str, float]]
    errors: Mapping[str, Mapping[str, float]]
    centres: Mapping[str, float]
    scopes: Mapping[str, str]

    @property
    def count(self) -> int:
        """How many values were fitted."""
        return sum(len(v) for v in self.values.values())

    def rows(self, labels: Mapping[str, Strings], scopes: Mapping[str, str]) -> dict[str, Array]:
        """Each parameter's value per row; the centre where a label was not fitted."""
        out = {}
        for name, table in self.values.items():
            centre = self.centres[name]
            out[name] = np.array([table.get(str(x), centre) for x in labels[scopes[name]]])
        return out


def folds(shapes: Sequence[str], n: int = 5) -> npt.NDArray[np.int64]:
    """A fold per row by a hash of its shape: equal shapes fall together."""
    return np.array([zlib.crc32(s.encode()) % n for s in shapes])


def fit(
    model: Model,
    parameters: Sequence[Parameter],
    f: Mapping[str, Array],
    seconds: Array,
    labels: Mapping[str, Strings],
    starts: int = 1,
    centres: Mapping[str, float] | None = None,
) -> Fitted:
    """Fit ``model(features, values)`` to ``seconds``.

    Args:
        labels: by scope, a label per row.
        starts: starting points; the best result counts.
        centres: known centres of parameters (a prior), by name.
    """
    where, names, n = [], [], 0
    for p in parameters:
        kinds, inverse = np.unique(labels[p.scope], return_inverse=True)
        where.append(inverse + n)
        names.append([str(k) for k in kinds])
        n += len(kinds)
    total = n + len(parameters)  # the centres stand behind the values
    low, high, start = np.empty(total), np.empty(total), np.empty(total)
    pull, target = np.zeros((total, total)), np.zeros(total)
    at = 0
    for j, p in enumerate(parameters):
        for i in (*range(at, at + len(names[j])), n + j):
            low[i], high[i] = np.log(p.low), np.log(p.high)
            start[i] = np.log((centres or {}).get(p.name, p.start))
        for i in range(at, at + len(names[j])):
            pull[i, i], pull[i, n + j] = SOFT / p.spread, -SOFT / p.spread
        # A known centre binds; an unknown one is held only against drifting off.
        weight = SOFT / 0.1 if p.name in (centres or {}) else 1e-3
        pull[n + j, n + j], target[n + j] = weight, weight * start[n + j]
        at += len(names[j])
    problem = _Problem(model, parameters, f, np.log(seconds), where, pull, target)
    random = np.random.default_rng(0)
    best: tuple[float, Array, Array] | None = None
    for attempt in range(starts):
        x0 = start if attempt == 0 else start + random.normal(0, 0.7, total)
        found = _descend(problem, np.clip(x0, low, high), low, high)
        if best is None or found[0] < best[0]:
            best = found
    assert best is not None
    return _fitted(parameters, names, best, n, len(seconds))


@dataclass(frozen=True)
class _Problem:
    """Residuals of a model, robust, and those that draw values together, plain."""

    model: Model
    parameters: Sequence[Parameter]
    f: Mapping[str, Array]
    goal: Array
    where: list[npt.NDArray[np.intp]]
    pull: Array
    target: Array

    def values(self, x: Array) -> dict[str, Array]:
        return {p.name: np.exp(x[i]) for p, i in zip(self.parameters, self.where, strict=True)}

    def residuals(self, x: Array) -> Array:
        misses = np.log(self.model(self.f, self.values(x))) - self.goal
        return np.concatenate([misses, self.pull @ x - self.target])

    def jacobian(self, x: Array) -> Any:
        """A sparse matrix: one difference quotient per parameter fills all its columns."""
        from scipy import sparse

        v, h = self.values(x), 1e-6
        here = np.log(self.model(self.f, v))
        columns = [
            (np.log(self.model(self.f, {**v, p.name: v[p.name] * np.exp(h)})) - here) / h
            for p in self.parameters
        ]
        size = len(self.goal)
        rows = np.tile(np.arange(size), len(columns))
        at = (rows, np.concatenate(self.where))
        top = sparse.csr_matrix((np.concatenate(columns), at), shape=(size, len(x)))
        return sparse.vstack([top, sparse.csr_matrix(self.pull)], format="csr")

    def loss(self, squares: Array) -> Array:
        """Soft L1 of the rows' squares, the squares themselves of the others (SciPy's rho)."""
        rows = len(self.goal)
        out = np.stack([squares, np.ones_like(squares), np.zeros_like(squares)])
        lifted = 1 + squares[:rows]
        out[:, :rows] = 2 * (np.sqrt(lifted) - 1), lifted**-0.5, -0.5 * lifted**-1.5
        return out


def _descend(problem: _Problem, x: Array, low: Array, high: Array) -> tuple[float, Array, Array]:
    """Cost, values and curvature at the optimum."""
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise InputError("fitting needs SciPy: pip install 'costgraph[calibrate]'") from None
    margin = 1e-6 * (high - low)  # the method starts inside the bounds
    found = least_squares(
        problem.residuals,
        np.clip(x, low + margin, high - margin),
        problem.jacobian,
        bounds=(low, high),
        loss=problem.loss,
        f_scale=SOFT,
        x_scale="jac",
        tr_solver="lsmr",
        ftol=1e-5,
        max_nfev=60,
    )
    jacobian = problem.jacobian(found.x)
    rows = len(problem.goal)
    weight = np.ones(jacobian.shape[0])
    weight[:rows] = 1 / np.sqrt(1 + (problem.residuals(found.x)[:rows] / SOFT) ** 2)
    curvature = (jacobian.T @ jacobian.multiply(weight[:, None]).tocsr()).toarray()
    return float(found.cost), found.x, curvature


def _fitted(
    parameters: Sequence[Parameter],
    names: list[list[str]],
    best: tuple[float, Array, Array],
    n: int,
    rows: int,
) -> Fitted:
    cost, x, curvature = best
    spread = 2 * cost / max(rows - n, 1)
    variance = np.diag(np.linalg.inv(curvature + 1e-12 * np.eye(len(x)))) * spread
    stated = np.sqrt(np.clip(variance, 0, None))
    values: dict[str, dict[str, float]] = {}
    error: dict[str, dict[str, float]] = {}
    at = 0
    for p, labels in zip(parameters, names, strict=True):
        index = range(at, at + len(labels))
        values[p.name] = {k: float(np.exp(x[i])) for k, i in zip(labels, index, strict=True)}
        error[p.name] = {k: float(stated[i]) for k, i in zip(labels, index, strict=True)}
        at += len(labels)
    centres = {p.name: float(np.exp(x[n + j])) for j, p in enumerate(parameters)}
    return Fitted(values, error, centres, {p.name: p.scope for p in parameters})


def held_out(
    model: Model,
    parameters: Sequence[Parameter],
    f: Mapping[str, Array],
    seconds: Array,
    labels: Mapping[str, Strings],
    fold: npt.NDArray[np.int64],
    centres: Mapping[str, float] | None = None,
) -> Array:
    """Predictions of each row by a fit that has seen none of its fold."""
    out = np.empty(len(seconds))
    scopes = {p.name: p.scope for p in parameters}
    for k in counted(list(np.unique(fold)), "fits without some rows"):
        seen, unseen = fold != k, fold == k
        made = fit(
            model,
            parameters,
            {a: b[seen] for a, b in f.items()},
            seconds[seen],
            {a: b[seen] for a, b in labels.items()},
            centres=centres,
        )
        there = {a: b[unseen] for a, b in labels.items()}
        out[unseen] = model({a: b[unseen] for a, b in f.items()}, made.rows(there, scopes))
    return out


def errors(predicted: Array, seconds: Array) -> tuple[float, float]:
    """Mean and median absolute percentage error."""
    e = np.abs(predicted / seconds - 1) * 100
    return float(e.mean()), float(np.median(e))
