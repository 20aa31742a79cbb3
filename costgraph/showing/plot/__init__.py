"""Figures by matplotlib, each returned as a ``matplotlib.figure.Figure``.

Needs the extra ``plot``. Nothing here touches pyplot or leaves settings changed. Charts to zoom
in, of the same numbers, are in ``live``, which needs the extra ``altair`` and is loaded when it
is asked for.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from costgraph.errors import InputError

if find_spec("matplotlib") is None:
    raise InputError("figures need matplotlib: pip install 'costgraph[plot]'")

from costgraph.showing.plot.bars import breakdown
from costgraph.showing.plot.choices import choice_map, sizes
from costgraph.showing.plot.comparisons import comparison
from costgraph.showing.plot.curves import curve
from costgraph.showing.plot.effects import ablation, effects, waterfall
from costgraph.showing.plot.fronts import pareto
from costgraph.showing.plot.maps import regime_map
from costgraph.showing.plot.rooflines import roofline
from costgraph.showing.plot.serving import served_front, timeline
from costgraph.showing.plot.style import SUFFIXES, WIDTHS, save
from costgraph.showing.plot.survey import FIGURES, survey_figure

__all__ = [
    "FIGURES",
    "SUFFIXES",
    "WIDTHS",
    "ablation",
    "breakdown",
    "choice_map",
    "comparison",
    "curve",
    "effects",
    "pareto",
    "regime_map",
    "roofline",
    "save",
    "served_front",
    "sizes",
    "survey_figure",
    "timeline",
    "waterfall",
]


def __getattr__(name: str) -> Any:
    if name == "live":
        return import_module(f"{__name__}.live")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
