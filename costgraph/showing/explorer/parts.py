"""What the page of an explorer loads: scripts that hand over data and functions.

A part is a classic script, since browsers load nothing else from files that lie on a disk:
``costgraph.receive(KEY, VALUE)``, with data as JSON and formulas as printed JavaScript. So
nothing is evaluated from text, and the page's policy needs no exception.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any

from costgraph.compiling.compilation import compile
from costgraph.compiling.compiled import Compiled
from costgraph.errors import CostgraphError, InputError, clip, nearest
from costgraph.files import outside
from costgraph.ir.program import Program
from costgraph.models.catalog import config_of, find
from costgraph.showing.report.code import Scripts
from costgraph.showing.report.contents import Contents, formulas, metrics_of, pictures
from costgraph.showing.report.load import load_of
from costgraph.showing.report.page import bundle, json_text
from costgraph.showing.report.plans import plans_of
from costgraph.showing.report.starting import start

#: What a page shows at once, what it prints and draws when that is to be seen, and what it
#: writes to be copied.
KINDS = ("numbers", "formulas", "pictures", "written", "load", "plans")
#: Characters of a part; graphs of some thousand operations stay far below.
LARGEST = 64 * 2**20
_PACKAGES = ("costgraph.models", "costgraph.passes", "costgraph.hardware", "costgraph")

Source = Mapping[str, Any] | Program


@dataclass(frozen=True)
class Asked:
    """One part of one variant, as texts of a request.

    Attributes:
        kind: one of :data:`KINDS`.
        model: a shipped or hub name, or the name of a file that was dropped.
        on: a device or system as ``--on`` takes it.
        passes: a pipeline.
        fidelity: as ``--fidelity`` takes it.
        metric: of ``formulas``, the one to print; empty for all other kinds.
    """

    kind: str
    model: str
    on: str
    passes: str = ""
    fidelity: str = "ideal"
    metric: str = ""

    @property
    def key(self) -> str:
        """What the page calls the part: ``JSON.stringify`` of its texts."""
        texts = [self.kind, self.model, self.on, self.passes, self.fidelity]
        texts += [self.metric] if self.metric else []
        return json.dumps(texts, ensure_ascii=False, separators=(",", ":"))


def received(key: str, value: Any, functions: Sequence[str] = ()) -> str:
    """The script that hands a value to the page, with the functions that it refers to."""
    code = ",\n".join(functions)
    return f"costgraph.receive({json_text(key)}, {json_text(value)}, [\n{code}\n]);\n"


class Variants:
    """Compiled variants, those used last: each part of one asks for what the others derived."""

    MOST = 16

    def __init__(self) -> None:
        self._kept: OrderedDict[Asked, Compiled] = OrderedDict()
        self._lock = Lock()

    def get(self, asked: Asked, dropped: Mapping[str, Source]) -> Compiled:
        """The variant of a part; see :func:`compiled`."""
        key = replace(asked, kind="numbers", metric="")
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
                return known
        made = compiled(asked, dropped)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > self.MOST:
                self._kept.popitem(last=False)
        return made


def part(
    asked: Asked, dropped: Mapping[str, Source] | None = None, known: Variants | None = None
) -> str:
    """The script of a part; what is wrong with the input is a part that says so.

    No name in a request is the path of a file: only files of the package are read.

    Args:
        asked: what the page asks for.
        dropped: models that are no shipped ones, by the names of their files.
        known: variants that other parts have asked for.
    """
    known = known or Variants()
    try:
        with outside.confined(*shipped_folders()):
            if asked.kind == "plans":
                return _plans(asked, source(asked.model, dropped or {}))
            if asked.kind not in KINDS:
                wrong = f"unknown kind of part {clip(asked.kind)}{nearest(asked.kind, KINDS)}"
                raise InputError(wrong)
            return _made(asked, known.get(asked, dropped or {}))
    except CostgraphError as error:
        return received(asked.key, {"error": str(error)})


def compiled(asked: Asked, dropped: Mapping[str, Source]) -> Compiled:
    """The variant, over symbols for the device's figures.

    Raises:
        CostgraphError: anything that is wrong with the input, in one line.
    """
    return compile(
        source(asked.model, dropped),
        asked.on,
        asked.passes,
        symbolic_hardware=True,
        fidelity=asked.fidelity,
    )


def source(name: str, dropped: Mapping[str, Source]) -> Source:
    """The model that a name means: of a dropped file, or shipped.

    Raises:
        ModelError: neither.
    """
    return dropped[name] if name in dropped else named(config_of(name), find(name))


def named(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A configuration that says what it is called."""
    return {**config, "_name_or_path": name}


@cache
def shipped_folders() -> tuple[Path, ...]:
    """Where files of the package lie."""
    return tuple(Path(str(files(name))).resolve() for name in _PACKAGES)


def _plans(asked: Asked, model: Source) -> str:
    contents = Contents(later=True)
    found = plans_of(model, asked.on, asked.passes, contents, fidelity=asked.fidelity)
    return received(asked.key, found, contents.scripts.texts)


def _made(asked: Asked, variant: Compiled) -> str:
    if asked.kind == "pictures":
        return received(asked.key, {"pictures": pictures(variant)})
    if asked.kind == "formulas":
        contents = Contents()
        found = formulas(variant, contents, asked.metric)
        return received(asked.key, {"formulas": found, "texts": contents.texts})
    if asked.kind == "load":
        scripts = Scripts()
        return received(asked.key, load_of(variant, scripts), scripts.texts)
    if asked.kind == "written":
        return received(asked.key, written(variant))
    contents, data, _ = bundle([[variant]], start([variant], {}), Contents(later=True))
    made = received(asked.key, {"bundle": data, "texts": contents.texts}, contents.scripts.texts)
    if len(made) > LARGEST:
        raise InputError(f"{variant.program.name}: too large to show: {len(made)} characters")
    return made


def written(variant: Compiled) -> dict[str, dict[str, str]]:
    """Each metric as LaTeX and as a Python function, to be copied."""
    latex, python = {}, {}
    for name, formula in metrics_of(variant).items():
        with suppress(CostgraphError):
            latex[name] = formula.latex()
        with suppress(CostgraphError):
            python[name] = formula.code("python")
    return {"latex": latex, "python": python}
