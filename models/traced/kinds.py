"""Which arguments of a saved program stand by position, where the file does not say.

PyTorch before 2.7 saved arguments by name only. An operator's schema tells: arguments
stand by position until one is left out or may only be given by name. PyTorch is
asked for the schemas of its own operators by their names; nothing of a file is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from costgraph.errors import ModelError

POSITIONAL, BY_NAME = 1, 2
_OPERATOR = re.compile(r"torch\.ops\.aten\.([A-Za-z0-9_]{1,80})\.([A-Za-z0-9_]{1,80})\Z")


def with_kinds(graph: Mapping[str, Any]) -> Mapping[str, Any]:
    """A graph of the schema with the kind of every argument stated.

    Raises:
        ModelError: they are not stated, and PyTorch is not installed.
    """
    if all(i.get("kind") for n in graph["nodes"] for i in n["inputs"]):
        return graph
    nodes = [{**n, "inputs": _stated(n["target"], n["inputs"])} for n in graph["nodes"]]
    return {**graph, "nodes": nodes}


def _stated(target: str, inputs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    names = _positional(target)
    made, left_out = [], False
    for place, item in enumerate(inputs):
        if names is None:  # calls of graphs name only what they take by name
            left_out = bool(item["name"])
        else:
            left_out = left_out or names[place : place + 1] != (item["name"],)
        kind = BY_NAME if left_out else POSITIONAL
        made.append(item if item.get("kind") else {**item, "kind": kind})
    return made


@cache
def _positional(target: str) -> tuple[str, ...] | None:
    """Names of an operator's arguments that can stand by position; None for others."""
    try:
        import torch
    except ImportError:
        raise ModelError(
            "a program saved by PyTorch before 2.7 does not say which argument is which; "
            "to read it: pip install 'costgraph[torch]', or save it with a later PyTorch"
        ) from None
    match = _OPERATOR.match(target)
    if match is None:
        return None
    try:
        schema = torch._C._get_schema(
            f"aten::{match[1]}", "" if match[2] == "default" else match[2]
        )
    except RuntimeError:  # this PyTorch has no such operator
        return None
    return tuple(a.name for a in schema.arguments if not a.kwarg_only)
