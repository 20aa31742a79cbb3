"""A calibration from tables of timings: every kind's form fitted, with errors on unseen shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from costgraph.errors import InputError
from costgraph.progress import counted
from costgraph.timing.fidelity.calibration import Calibration, Fit
from costgraph.timing.fidelity.fit import errors, fit
from costgraph.timing.fidelity.forms import Parameter
from costgraph.timing.fidelity.study import Study, crossfit, fitted_for, form_model


@dataclass(frozen=True)
class Fitted:
    """What was fitted to the timings of one kind of operation in one variant.

    Attributes:
        kind, variant: of operations; of types and libraries.
        form: the form in words.
        parameters: what each stands for, in the form's order.
        values, stderr: of each parameter: its value and relative standard error.
        heldout: ``rows``, ``mean`` and ``median`` error in per cent on unseen shapes, and the
            10, 50 and 90 % quantiles of measured over predicted time there.
    """

    kind: str
    variant: str
    form: str
    parameters: tuple[Parameter, ...]
    values: Mapping[str, float]
    stderr: Mapping[str, float]
    heldout: Mapping[str, float]


def fitted(
    name: str, studies: Sequence[Study], provenance: str
) -> tuple[Calibration, tuple[Fitted, ...]]:
    """Every study fitted: the calibration, and what came out.

    Args:
        name: the device.
        studies: timings of a kind of operation each.
        provenance: where the timings come from.

    Raises:
        InputError: a study has too few rows for its form.
    """
    found: list[Fitted] = []
    for s in counted(studies, "kinds of operations fitted"):
        if len(s.table) < 2 * len(s.form.parameters):
            raise InputError(
                f"{len(s.table)} rows of kind {s.kind!r} are too few for "
                f"{len(s.form.parameters)} parameters: give at least twice as many"
            )
        labels = {**s.labels, "group": s.labels["variant"], "device": s.labels["shared"]}
        s = replace(s, labels=labels)
        made = fit(form_model(s.form), s.form.parameters, s.f, s.seconds, labels, starts=3)
        unseen, _ = crossfit(s)
        for variant in np.unique(s.labels["variant"]):
            m = s.labels["variant"] == variant
            values, stderr = fitted_for(s, made, m)
            mean, median = errors(unseen[m], s.seconds[m])
            low, mid, high = np.quantile(s.seconds[m] / unseen[m], (0.1, 0.5, 0.9))
            held = {"rows": float(m.sum()), "mean": mean, "median": median,
                    "q10": float(low), "q50": float(mid), "q90": float(high)}  # fmt: skip
            found.append(
                Fitted(
                    s.kind,
                    str(variant),
                    s.form.text,
                    tuple(s.form.parameters),
                    values,
                    stderr,
                    held,
                )
            )
    fits = {
        (x.kind, x.variant): Fit(x.kind, x.variant, x.values, x.heldout, x.stderr) for x in found
    }
    return Calibration(name, provenance, fits), tuple(found)
