"""How objects show themselves: the printer of each view, by name.

Graphs, formulas and answers have methods that print them. Printers stand above them, so
that they are named here alone and loaded when a view is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

_EXPORT = "costgraph.showing.export"
#: The function of each view, as ``module:name``.
VIEWS = {
    "breakdown_html": f"{_EXPORT}.table:breakdown_html",
    "breakdown_text": f"{_EXPORT}.table:breakdown_text",
    "comparison_html": f"{_EXPORT}.comparison:comparison_html",
    "comparison_text": f"{_EXPORT}.comparison:comparison_text",
    "compiled_html": f"{_EXPORT}.notebook:compiled_html",
    "console": f"{_EXPORT}.terminal:console",
    "draw": "costgraph.showing.draw:draw",
    "end_text": f"{_EXPORT}.regimes:end_text",
    "explain": "costgraph.asking.explaining:explain",
    "explanation_html": f"{_EXPORT}.notebook:explanation_html",
    "explanation_text": f"{_EXPORT}.explanation:explanation_text",
    "expr_text": f"{_EXPORT}.text:expr_text",
    "formula_code": f"{_EXPORT}.code:source",
    "formula_html": f"{_EXPORT}.notebook:formula_html",
    "formula_latex": f"{_EXPORT}.latex:formula_latex",
    "formula_text": f"{_EXPORT}.text:formula_text",
    "graph_html": f"{_EXPORT}.table:graph_html",
    "graph_networkx": f"{_EXPORT}.dag:to_networkx",
    "machine_html": f"{_EXPORT}.notebook:machine_html",
    "named_html": f"{_EXPORT}.readable:named_html",
    "named_latex": f"{_EXPORT}.page:named_latex",
    "named_text": f"{_EXPORT}.readable:named_text",
    "program_html": f"{_EXPORT}.notebook:program_html",
    "regimes_html": f"{_EXPORT}.notebook:regimes_html",
    "regimes_text": f"{_EXPORT}.regimes:regimes_text",
    "region_map_html": f"{_EXPORT}.notebook:region_map_html",
    "region_map_text": f"{_EXPORT}.regimes:region_map_text",
    "reliability_text": f"{_EXPORT}.reliability:reliability_text",
    "search_text": f"{_EXPORT}.search:search_text",
    "solution_text": f"{_EXPORT}.regimes:solution_text",
    "text_html": f"{_EXPORT}.notebook:text_html",
    "timeline_chrome": f"{_EXPORT}.chrome:timeline_chrome",
    "trace_text": f"{_EXPORT}.trace:trace_text",
}


def view(name: str) -> Callable[..., Any]:
    """The function that makes a view."""
    module, _, function = VIEWS[name].partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def view_text(name: str, /, *given: Any, **options: Any) -> str:
    """A view that is a text."""
    text: str = view(name)(*given, **options)
    return text
