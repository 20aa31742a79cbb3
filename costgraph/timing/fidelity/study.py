"""Studies: held-out errors, ablations and transfer over tables of timings."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from costgraph.timing.fidelity.fit import Fitted, Model, Strings, fit, folds, held_out
from costgraph.timing.fidelity.forms import (
    CARRIED,
    FIGURES,
    Form,
    Parameter,
    carried,
    form_of,
    roofline3,
    value,
)
from costgraph.timing.fidelity.labels import alike, packs, unmarked, unusual, variant_of
from costgraph.timing.fidelity.table import Array, Datasheet, Table, features

#: How the efficiency of compute falls with the ridge point between devices.
SLOPE = Parameter(
    "slope", 0.2, 1e-4, 1.0, "1", "exponent of the ridge point in ec, between devices", "shared"
)
#: Values and relative standard errors by parameter.
Stated = tuple[dict[str, float], dict[str, float]]


@dataclass(frozen=True)
class Study:
    """Rows of one kind with features and labels, ready to fit.

    Attributes:
        kind: of the form.
        table: the rows.
        f: features per row.
        labels: labels per scope: ``group``, ``device``, ``shared``; ``variant``, the
            group without its device; ``kernel``, the variant of a library's usual
            kernel.
        fold: fold per row.
        held: parameters held at their lower limit, where they take nothing.
    """

    kind: str
    table: Table
    f: Mapping[str, Array]
    labels: Mapping[str, Strings]
    fold: npt.NDArray[np.int64] = field(repr=False)
    held: tuple[str, ...] = ()

    @property
    def form(self) -> Form:
        """The form of the kind."""
        form = form_of(self.kind)
        limited = tuple(
            replace(p, start=p.low, high=p.low * 1.0001) if p.name in self.held else p
            for p in form.parameters
        )
        return replace(form, parameters=limited)

    @property
    def seconds(self) -> Array:
        """Measured seconds."""
        return self.table.seconds

    @property
    def kernel_timed(self) -> npt.NDArray[np.bool_]:
        """Rows that the device's clock timed: a host's clock adds launches of its own."""
        source, hw = self.table.columns["source"], self.labels["device"]
        attention = self.kind in ("prefill", "decode", "mla")
        by_host = (source == "llmcompass") | ((source == "infersim") & attention & (hw == "h20"))
        return np.asarray(~by_host)

    @property
    def cold(self) -> npt.NDArray[np.bool_]:
        """Rows whose data cannot come from the L2 cache."""
        found = self.f.get("resident")
        return np.ones(len(self.table), bool) if found is None else found == 0

    def where(self, mask: npt.NDArray[np.bool_]) -> Study:
        """The rows that ``mask`` selects."""
        return Study(
            self.kind,
            self.table.where(mask),
            {k: v[mask] for k, v in self.f.items()},
            {k: v[mask] for k, v in self.labels.items()},
            self.fold[mask],
            self.held,
        )

    def roofline(self) -> Array:
        """The roofline's lower bound in seconds."""
        if "V" in self.f:
            return self.f["A"] + self.f["V"]
        return np.maximum(self.f["C"], self.f["M"])


def study(table: Table, sheets: Mapping[str, Datasheet], by_backend: bool = False) -> Study:
    """A study of a table: a group is a device, a variant and, if asked, a backend."""
    c = table.columns
    hw = np.asarray(c["hw"])
    variant = np.array(
        [variant_of(table.kind, c, i, by_backend, sheets) for i in range(len(table))]
    )
    labels: dict[str, Strings] = {
        "group": np.array([f"{a}/{b}" for a, b in zip(hw, variant, strict=True)]),
        "device": hw,
        "variant": variant,
        "shared": np.full(len(table), "all"),
        "kernel": np.array([v + unusual(table.kind, c, i) for i, v in enumerate(variant)]),
    }
    found = features(table, sheets)
    if table.kind == "prefill":
        ran = zip(hw, variant, strict=True)
        packed = np.array([packs(str(v), sheets[str(h)].instruction) for h, v in ran])
        found["heads"] = np.where(packed, found["groups"], found["heads"])
    # One framework splits long contexts and another does not: pooled, no slope serves both.
    held = ("tt",) if table.kind == "decode" and not by_backend else ()
    return Study(table.kind, table, found, labels, folds(table.shapes), held)


def form_model(form: Form) -> Model:
    """The form as a model to fit."""
    return lambda f, v: value(form.build(f, v))


def fitted_for(s: Study, made: Fitted, rows: npt.NDArray[np.bool_]) -> Stated:
    """Values and relative standard errors of a fit for a group's rows.

    Raises:
        ValueError: the rows have parameters of several kernels or devices, and no row speaks
            for the others.
    """
    values, stated = {}, {}
    for name, scope in made.scopes.items():
        found = np.unique(s.labels[scope][rows])
        if len(found) != 1:
            raise ValueError(f"rows of one fit differ in {scope}: {', '.join(map(str, found))}")
        label = str(found[0])
        values[name], stated[name] = made.values[name][label], made.errors[name][label]
    return values, stated


def crossfit(s: Study, drop: Sequence[str] = ()) -> tuple[Array, int]:
    """Held-out predictions of the calibrated form, and its number of values.

    ``drop`` names ingredients to leave out (:data:`NEUTRAL`).
    """
    model, parameters = reduced(s.form, drop)
    predicted = held_out(model, parameters, s.f, s.seconds, s.labels, s.fold)
    return predicted, _count(parameters, s)


def baseline(s: Study) -> tuple[Array, int]:
    """Held-out predictions of the fitted three-parameter roofline."""
    form = s.form
    chosen = [replace(p, spread=5.0) for p in form.parameters if p.name in ("t0", "ec", "em")]
    return held_out(roofline3, chosen, s.f, s.seconds, s.labels, s.fold), _count(chosen, s)


def _count(parameters: Sequence[Parameter], s: Study) -> int:
    return sum(len(np.unique(s.labels[p.scope])) for p in parameters if p.name not in s.held)


#: Ingredients: the value of a parameter that takes its part out of the form.
NEUTRAL = {
    "t0": 1e-12, "p": 60.0, "k0": 0.0, "tq": 0.0, "tk": 0.0, "k1": 1e30, "eq": 1e9, "l2": 1.0,
    "w1": 1e30, "d0": 0.0, "q0": 0.0, "tt": 0.0, "tw": 0.0, "ts": 0.0, "s0": 1.0, "tn": 0.0,
    "m0": 0.0, "tb": 0.0, "tc": 0.0, "ex": 1.0, "ec": 1.0, "em": 1.0,
}  # fmt: skip


def reduced(form: Form, drop: Sequence[str] = ()) -> tuple[Model, tuple[Parameter, ...]]:
    """The form without some ingredients, as a model with its remaining parameters."""
    full = form_model(form)
    fixed = {name: NEUTRAL[name] for name in drop}
    kept = tuple(p for p in form.parameters if p.name not in fixed)
    return (lambda f, v: full(f, {**v, **fixed})), kept


#: Parameters that transfer with one value for all data types, by kind.
POOLED = {
    "gemm": ("t0", "ec", "p", "k0", "k1", "tq", "eq"),
    "prefill": ("ec", "p", "q0", "tw", "l2"),
    "decode": ("t0", "em", "tw", "l2", "ts", "s0"),
    "mla": ("em",),
    "moe": ("t0", "k0", "m0", "tk", "p", "l2"),
    "elementwise": ("t0",),
}


def transferred(form: Form) -> tuple[Model, tuple[Parameter, ...]]:
    """The form with parameters per data type only, moved between devices by :func:`carried`."""
    full = form_model(form)
    pooled = POOLED.get(form.kind, ())
    parameters = tuple(
        replace(p, scope="shared" if p.name in pooled else "kernel") for p in form.parameters
    )
    if "slope" in CARRIED.get(form.kind, {}).get("ec", {}).values():
        parameters = (*parameters, SLOPE)
    return (lambda f, v: full(f, carried(form.kind, f, v))), parameters


#: Rows of a group beyond which it would speak louder than the others in a pooled fit.
MOST = 300


def evenly(s: Study) -> npt.NDArray[np.bool_]:
    """Rows for fits over all devices: of each group at most :data:`MOST`, by a hash of shapes.

    None of a marked kernel (:data:`.UNTUNED`): one device has it, and takes it alone.
    """
    chance = np.array([zlib.crc32(f"evenly {shape}".encode()) for shape in s.table.shapes])
    out = np.zeros(len(chance), bool)
    for label in np.unique(s.labels["group"]):
        rows = np.flatnonzero(s.labels["group"] == label)
        out[rows[np.argsort(chance[rows], kind="stable")[:MOST]]] = True
    plain = np.array([unmarked(str(v)) == v for v in s.labels["variant"]])
    return np.asarray(out & plain)


def leave_one_out(s: Study, relatives: Mapping[str, Sequence[str]]) -> Array:
    """Predictions of each device by fits that have seen none of its rows.

    A device with ``relatives`` takes the parameters of the first that was fitted for
    a variant, any other those of all devices together, both moved by :func:`carried`.
    """
    model, parameters = transferred(s.form)
    own = fit(form_model(s.form), s.form.parameters, s.f, s.seconds, s.labels)
    out = np.empty(len(s.table))
    scopes = {p.name: p.scope for p in parameters}
    device, variant, even = s.labels["device"], s.labels["variant"], evenly(s)
    for left in np.unique(device):
        unseen = device == left
        seen = ~unseen & s.kernel_timed & even
        if not seen.any():
            out[unseen] = np.nan
            continue
        there = s.where(seen)
        made = fit(model, parameters, there.f, there.seconds, there.labels)
        here = s.where(unseen)
        others = set(there.labels["kernel"])
        taken = [v if v in others else unmarked(str(v)) for v in variant[unseen]]
        out[unseen] = model(here.f, made.rows({**here.labels, "kernel": np.array(taken)}, scopes))
        for label in np.unique(variant[unseen]):
            rows = unseen & (variant == label)
            fitted = (
                (device == relative) & (s.labels["kernel"] == name) & s.kernel_timed
                for relative in relatives.get(str(left), ())
                for name in alike(str(label))
            )
            known = next((rows for rows in fitted if rows.sum() >= ENOUGH), None)
            if known is not None:
                values, _ = fitted_for(s, own, known)
                out[rows] = _moved(s, values, made, known, rows)
    return out


#: Rows from which a relative's parameters are taken.
ENOUGH = 20


def _moved(
    s: Study,
    values: Mapping[str, float],
    general: Fitted,
    known: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.bool_],
) -> Array:
    """Predictions of ``rows`` by the parameters of a relative, fitted on ``known``."""
    first = int(np.flatnonzero(known)[0])
    ratios = {name: s.f[name][rows] / s.f[name][first] for name in FIGURES if name in s.f}
    slope = {k: v["all"] for k, v in general.values.items() if k == "slope"}
    moved = carried(s.kind, ratios, {**values, **slope})
    return np.asarray(form_model(s.form)({k: v[rows] for k, v in s.f.items()}, moved))
