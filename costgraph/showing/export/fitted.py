"""What a calibration found, as text and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from costgraph.showing.export.table import plain_table

if TYPE_CHECKING:
    from costgraph.timing.fidelity.fitting import Fitted

#: Relative standard errors from here on say nothing about a parameter.
UNKNOWN = 2.0


def fitted_text(found: Sequence[Fitted]) -> str:
    """A block per kind of operation, with a table per variant."""
    lines: list[str] = []
    for kind, group in groupby(found, lambda x: x.kind):
        variants = list(group)
        lines += [f"{kind}: {variants[0].form}", ""]
        for x in variants:
            rows = [
                (p.name, f"{x.values[p.name]:.4g}", _uncertainty(x.stderr[p.name]), p.meaning)
                for p in x.parameters
            ]
            held = x.heldout
            lines += [
                plain_table(("parameter", "value", "error", x.variant), rows),
                f"unseen shapes: {held['mean']:.1f} % mean, {held['median']:.1f} % median error "
                f"over {int(held['rows'])} rows; 80 % of times are {held['q10']:.2f} to "
                f"{held['q90']:.2f} of predicted",
                "",
            ]
    return "\n".join(lines)


def _uncertainty(error: float) -> str:
    """A relative standard error, or that the rows say nothing about the parameter."""
    return f"±{100 * error:.0f} %" if error < UNKNOWN else "not determined"


def fitted_object(found: Sequence[Fitted]) -> list[dict[str, Any]]:
    """A record per kind and variant; errors of parameters are relative, None where unknown."""
    return [
        {
            "kind": x.kind,
            "variant": x.variant,
            "form": x.form,
            "parameters": [
                {
                    "name": p.name,
                    "meaning": p.meaning,
                    "value": x.values[p.name],
                    "error": x.stderr[p.name] if x.stderr[p.name] < UNKNOWN else None,
                }
                for p in x.parameters
            ],
            "unseen": {**x.heldout, "rows": int(x.heldout["rows"])},
        }
        for x in found
    ]
