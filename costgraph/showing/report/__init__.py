"""Live reports: one HTML file that recomputes a model's cost as its reader moves sliders.

:func:`report` compiles every pipeline on every device over symbols for the device's
figures, writes the formulas as JavaScript and puts them, their MathML, the graph and
the page's own script into one file. The file needs no network and no server.
"""

from __future__ import annotations

from costgraph.showing.report.page import Report, report

__all__ = ["Report", "report"]
