"""The shipped configurations and how names find them."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from costgraph.errors import ModelError, clip, nearest
from costgraph.models.hf import import_config, read_json
from costgraph.program import Program

#: Suffixes of files that hold a graph.
GRAPHS = (".onnx", ".pt2")
#: Options of the readers of exported graphs.
GRAPH_OPTIONS = {
    ".onnx": ("dims", "name", "mask", "recognise"),
    ".pt2": ("symbols", "name", "mask", "recognise"),
}
_USUAL = {
    name: parameter.default
    for name, parameter in signature(import_config).parameters.items()
    if parameter.kind is Parameter.KEYWORD_ONLY
}
#: Everything that says how a model is read.
OPTIONS = frozenset((*_USUAL, *(o for known in GRAPH_OPTIONS.values() for o in known)))
CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class Entry:
    """A shipped configuration.

    Attributes:
        name: short name.
        title: full name.
        hub: repository names on the model hub whose configuration it is.
        source: where the figures come from.
    """

    name: str
    title: str
    hub: tuple[str, ...]
    source: str


@cache
def entries() -> Mapping[str, Entry]:
    """Shipped configurations by short name."""
    with (CONFIGS / "INDEX.toml").open("rb") as file:
        index = tomllib.load(file)
    return {
        name: Entry(name, item["title"], tuple(item.get("hub", ())), item["source"])
        for name, item in sorted(index.items())
    }


def model_names() -> list[str]:
    """Short names of the shipped configurations."""
    return sorted(p.stem for p in CONFIGS.glob("*.json"))


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-").removesuffix("-hf")


def find(name: str) -> str:
    """The short name of the shipped configuration that ``name`` means.

    Accepts short names and hub names in any case.

    Raises:
        ModelError: no shipped configuration has that name.
    """
    wanted = _normal(name)
    if (CONFIGS / f"{wanted}.json").is_file() and "/" not in wanted and ".." not in wanted:
        return wanted
    known = {_normal(hub): e.name for e in entries().values() for hub in e.hub}
    tails = {hub.split("/")[-1]: short for hub, short in known.items()}
    if wanted in known:
        return known[wanted]
    if "/" not in wanted and wanted in tails:
        return tails[wanted]
    candidates = [*model_names(), *(h for e in entries().values() for h in e.hub)]
    raise ModelError(
        f"unknown model {clip(name)}{nearest(name, candidates) or '; see: costgraph models'}"
    )


def config_of(name: str) -> Mapping[str, Any]:
    """The shipped configuration that ``name`` means."""
    return read_json(CONFIGS / f"{find(name)}.json")


def load_model(
    spec: str | os.PathLike[str] | Mapping[str, Any] | Program, **options: Any
) -> Program:
    """A program from a shipped name, a path, a parsed configuration or a program.

    Args:
        spec: a shipped or hub name; a ``config.json`` or a directory holding
            one; the parsed object; an ``.onnx`` or ``.pt2`` file; a program, which
            passes through.
        options: see :func:`costgraph.models.hf.import_config`; for graphs
            :func:`costgraph.models.onnx_graph.from_onnx` and
            :func:`costgraph.models.torch_export.from_torch`.

    Raises:
        ModelError: the model cannot be found or read.
    """
    if isinstance(spec, Program):
        if options:
            raise ModelError(f"{spec.name} is read already: {', '.join(options)} changes nothing")
        return spec
    program = _load(spec, options)
    told = {k: v for k, v in options.items() if k != "name" and v != _USUAL.get(k)}
    told.pop("symbolic", None)  # formulas show it by their symbols
    return replace(program, reading=tuple((k, _told(v)) for k, v in told.items()))


def _told(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _load(spec: str | os.PathLike[str] | Mapping[str, Any], options: dict[str, Any]) -> Program:
    if isinstance(spec, Mapping):
        return import_config(spec, str(spec.get("_name_or_path") or "model"), **options)
    if not isinstance(spec, (str, os.PathLike)):
        raise ModelError(f"a model is a name, a path or a mapping, not {clip(spec)}")
    text = os.fspath(spec)
    if not text.strip() or "\0" in text:
        raise ModelError(f"{clip(text)} is not a model name or path")
    path = Path(text)
    if path.suffix.lower() in GRAPHS:
        return _graph(path, options)
    if isinstance(spec, os.PathLike) or text.endswith(".json") or _exists(path):
        label = path.parent.name if path.name == "config.json" else path.stem
        return import_config(read_json(path), label or "model", **options)
    name = find(text)
    return import_config(read_json(CONFIGS / f"{name}.json"), name, **options)


def _graph(path: Path, options: dict[str, Any]) -> Program:
    """A program from a file that holds a graph; its readers are loaded here only."""
    if options.get("symbolic", False):
        raise ModelError(
            f"{clip(str(path), 200)}: an exported graph has numbers for its dimensions, no symbols"
        )
    suffix = path.suffix.lower()
    known = GRAPH_OPTIONS[suffix]
    for key in options:
        if key not in known:
            raise ModelError(f"exported graphs have no option {clip(key)}{nearest(key, known)}")
    if suffix == ".onnx":
        from costgraph.models.onnx_graph import from_onnx

        return from_onnx(path, **options)
    from costgraph.models.torch_export import load_pt2

    return load_pt2(path, **options)


def _exists(path: Path) -> bool:
    try:
        return path.exists() and (path.is_file() or (path / "config.json").is_file())
    except OSError:
        return False
