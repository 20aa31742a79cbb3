"""A pipeline's text as the palette of passes shows it."""

from __future__ import annotations

from typing import Any

from costgraph.errors import CostgraphError
from costgraph.files import outside
from costgraph.rewriting import grammar
from costgraph.rewriting.pipeline import parse
from costgraph.showing.explorer.parts import shipped_folders


def pipeline_value(text: str) -> dict[str, Any]:
    """Passes with their options as they were written, and what is wrong, if anything."""
    from costgraph.passes import PASSES

    try:
        items = grammar.read(text)
    except CostgraphError as error:
        return {"items": [], "error": str(error)}
    value: dict[str, Any] = {
        "items": [
            [item.name, [[given.name, given.value] for given in item.options]] for item in items
        ],
        "error": "",
    }
    try:
        with outside.confined(*shipped_folders()):
            parse(text, PASSES)
    except CostgraphError as error:
        value["error"] = str(error)
    return value
