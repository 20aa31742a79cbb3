"""Reading ``.pt2`` files, as ``torch.export.save`` writes them, without PyTorch.

Such a file is a ZIP archive. One member holds the program as JSON; it is read as data
(:mod:`costgraph.models.traced.exported`). The others hold weights, sample inputs and
objects, some of them as pickles, which may run anything when they are loaded: they
are never opened. What is needed of a weight, its shape and format, stands in the JSON.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from costgraph.errors import ModelError, clip
from costgraph.files.archive import Archive, archive
from costgraph.files.outside import json_value
from costgraph.models.traced.exported import read_exported
from costgraph.models.traced.formats import Dimensions
from costgraph.models.traced.inplace import functional
from costgraph.models.traced.record import Traced
from costgraph.quoting import visible

#: Bytes of an archive, weights included, and of the JSON of its program.
LARGEST_FILE, LARGEST_JSON = 2**42, 2**27
#: Where PyTorch keeps the program: since 2.8 below a folder of the archive's name.
_PROGRAM = re.compile(r"(?:[^/]+/)?models/([^/]+)\.json\Z")
_BEFORE = "serialized_exported_program.json"
_WHAT = "a program of torch.export"


def read_pt2(path: str | os.PathLike[str], dims: Dimensions, name: str = "") -> Traced:
    """The traced graph of a program in a file; nothing in the file is run.

    Args:
        path: the file.
        dims: what dimensions become. A file does not hold the names that were given
            to ``torch.export.Dim``; dimensions are called by PyTorch's symbols.
        name: what to call the model; the file's name if empty.

    Raises:
        ModelError: there is no such file, or it holds something else.
    """
    with archive(path, LARGEST_FILE, _WHAT, ModelError) as found:
        member = _program_of(found)
        shown = f"{found.shown}: {clip(member, 100)}"
        document = json_value(found.read(member, LARGEST_JSON), shown, ModelError)
        if not isinstance(document, dict):
            raise ModelError(f"{found.shown}: not {_WHAT}")
        shared = _shared(found, member)
    label = name or visible(Path(os.fsdecode(path)).stem) or "model"
    return functional(read_exported(document, dims, label, shared=shared))


def _program_of(found: Archive) -> str:
    """The member that holds the program."""
    programs = {m[1]: name for name in found.names if (m := _PROGRAM.match(name))}
    if _BEFORE in found.names:
        programs.setdefault("", _BEFORE)
    if len(programs) == 1:
        return next(iter(programs.values()))
    if "model" in programs and "" not in programs:
        return programs["model"]
    if programs:
        names = ", ".join(clip(n) for n in sorted(programs)[:8])
        raise ModelError(f"{found.shown}: holds several programs: {names}")
    if any("data/aotinductor/" in name for name in found.names):
        raise ModelError(
            f"{found.shown}: holds compiled code only; save the exported program "
            "(torch.export.save)"
        )
    raise ModelError(f"{found.shown}: not {_WHAT}: no member models/….json")


def _shared(found: Archive, member: str) -> Mapping[str, str]:
    """Weights that are kept in another's bytes, to the first of that place."""
    match = _PROGRAM.match(member)
    if match is None:
        return {}
    root = member[: match.start(1) - len("models/")]
    place = f"{root}data/weights/{match[1]}_weights_config.json"
    if place not in found.names:
        return {}
    shown = f"{found.shown}: {clip(place, 100)}"
    table = json_value(found.read(place, LARGEST_JSON), shown, ModelError)
    return shared_places(
        (str(name), (entry.get("path_name"), str(entry.get("tensor_meta"))))
        for name, entry in _entries(table).items()
        if isinstance(entry, dict)
    )


def _entries(table: Any) -> Mapping[str, Any]:
    inner = table.get("config") if isinstance(table, dict) else None
    return inner if isinstance(inner, dict) else {}


def shared_places(places: Any) -> dict[str, str]:
    """Names whose place another name has already, to the first such name."""
    first: dict[Any, str] = {}
    shared = {}
    for name, place in places:
        if first.setdefault(place, name) != name:
            shared[visible(name)] = visible(first[place])
    return shared
