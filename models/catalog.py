"""The shipped configurations and how names find them."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from costgraph.errors import InputError, ModelError, clip, nearest
from costgraph.files import outside
from costgraph.ir.program import Program
from costgraph.models.hf import import_config, read_json
from costgraph.models.stored import NARROW_KEYS
from costgraph.models.tensor_index import compared, total_size
from costgraph.quoting import visible

#: Suffixes of files that hold a graph.
GRAPHS = (".onnx", ".pt2")
#: Options of the readers of exported graphs; ``symbols`` is another word for ``dims``.
GRAPH_OPTIONS = ("decoder", "dims", "mask", "name", "recognise", "symbols")
_USUAL = {
    name: parameter.default
    for name, parameter in signature(import_config).parameters.items()
    if parameter.kind is Parameter.KEYWORD_ONLY
}
#: Shown by other means: as the model's name, by the symbols of formulas.
_UNTOLD = ("name", "symbolic")
#: Everything that says how a model is read.
OPTIONS = frozenset((*_USUAL, *GRAPH_OPTIONS))
#: What modelopt says of a checkpoint, beside its configuration.
BESIDE = "hf_quant_config.json"
#: Types of options that say by themselves which program is meant.
_SIMPLE = (str, bool, int, type(None))
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
    index = tomllib.loads(outside.package_text(CONFIGS / "INDEX.toml"))
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
    plain = "/" not in wanted and ".." not in wanted
    if plain and os.path.isfile(CONFIGS / f"{wanted}.json"):  # False for a name too long
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
            one; the parsed object; a ``.gguf`` file, read by its header; an ``.onnx`` or
            ``.pt2`` file; an ``ExportedProgram`` of PyTorch; a program, which passes through.
        options: see :func:`costgraph.models.hf.import_config`; for graphs
            :func:`costgraph.models.onnx_graph.from_onnx` and
            :func:`costgraph.models.torch_export.from_torch`.

    Raises:
        ModelError: the model cannot be found or read; nothing in a file is ever run.
    """
    if isinstance(spec, Program):
        if options:
            raise ModelError(f"{spec.name} is read already: {', '.join(options)} changes nothing")
        return spec
    program = _load(spec, options)
    shown = {k: _told(v) for k, v in options.items() if k not in _UNTOLD}
    told = tuple((k, v) for k, v in shown.items() if v != _told(_USUAL.get(k)))
    return replace(program, reading=told)


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        value = ",".join(f"{k}={v}" for k, v in value.items())
    text = visible(str(value))
    return text if len(text) <= 60 else f"{text[:59]}…"


def _load(spec: str | os.PathLike[str] | Mapping[str, Any], options: dict[str, Any]) -> Program:
    if hasattr(spec, "graph_signature"):  # an ExportedProgram, without importing PyTorch
        from costgraph.models.torch_export import from_torch

        known = _graph_options("an exported program", options)
        return from_torch(spec, **_without_decoder(known))
    path = _path_of(spec)
    if path is not None and path.suffix.lower() in GRAPHS:
        return _graph(path, options)
    if path is not None and path.suffix.lower() == ".gguf":
        return _gguf(path, options)
    if options.get("decoder") is not None:
        raise ModelError(
            "decoder is for an encoder in an .onnx file: it names the rest of the model"
        )
    if "dims" in options:
        raise ModelError(
            f"dims are for exported graphs ({', '.join(GRAPHS)}); a configuration has "
            "numbers for its dimensions"
        )
    if isinstance(spec, Mapping):
        return import_config(spec, visible(str(spec.get("_name_or_path") or "model")), **options)
    if not isinstance(spec, (str, os.PathLike)):
        raise ModelError(f"a model is a name, a path or a mapping, not {clip(spec)}")
    shipped = _shipped_name(spec)
    if shipped is not None and all(type(value) in _SIMPLE for value in options.values()):
        return _shipped(shipped, **options)
    config, name = config_at(spec)
    program = replace(import_config(config, name, **options), origin=shipped or "")
    stated = total_size(path) if path is not None and _exists(path) else None
    given = options.get("weights") is not None or options.get("quantization", "read") != "read"
    return program if stated is None or given else compared(program, stated)


def config_at(spec: str | os.PathLike[str]) -> tuple[Mapping[str, Any], str]:
    """The configuration that a name or path means, and what to call it.

    Raises:
        ModelError: there is none.
    """
    path = _path_of(spec)
    if path is None:
        raise ModelError(f"{clip(os.fsdecode(spec))} is not a model name or path")
    name = _shipped_name(spec)
    if name is not None:
        return read_json(CONFIGS / f"{name}.json"), name
    label = path.parent.name if path.name == "config.json" else path.stem
    return _with_description(path), visible(label) or "model"


def _shipped_name(spec: str | os.PathLike[str]) -> str | None:
    """The shipped configuration that a name means; None for a path."""
    path, text = _path_of(spec), os.fsdecode(spec)
    if path is None or isinstance(spec, os.PathLike) or text.endswith(".json") or _exists(path):
        return None
    return find(text)


@lru_cache(maxsize=256, typed=True)
def _shipped(name: str, **options: Any) -> Program:
    """A shipped configuration as a program, read once: its file is part of the package."""
    program = import_config(read_json(CONFIGS / f"{name}.json"), name, **options)
    return replace(program, origin=name)


def _with_description(path: Path) -> Mapping[str, Any]:
    """A configuration, with the description of its formats that stands beside it.

    NVIDIA's modelopt writes ``hf_quant_config.json`` next to a ``config.json``.
    """
    config = read_json(path)
    beside = (path if outside.is_folder(path) else path.parent) / BESIDE
    own = outside.is_folder(path) or path.name == "config.json"
    if not own or any(key in config for key in NARROW_KEYS) or not outside.is_file(beside):
        return config
    return {**config, "quantization_config": {"quant_method": "modelopt", **read_json(beside)}}


def _gguf(path: Path, options: dict[str, Any]) -> Program:
    """A program from the header of a GGUF file, every weight in the type that it has there."""
    from costgraph.models.checkpoint.gguf import read_header
    from costgraph.models.checkpoint.gguf_model import Metadata, as_stored, config_of

    header = read_header(path)
    name, config = visible(path.stem) or "model", config_of(header)
    asked = {k: v for k, v in options.items() if k != "quantization"}
    how = options.get("quantization", "read")
    if how not in ("read", "ignore"):
        raise InputError(f"quantization must be 'read' or 'ignore', not {clip(how)}")
    program = replace(import_config(config, name, **asked), context=Metadata(header).context)
    if options.get("weights") is not None:
        return program
    if how == "ignore":
        return program.assuming("the 16-bit model is counted: types of the GGUF file are not read")
    return as_stored(program, header)


def _path_of(spec: Any) -> Path | None:
    """A name or path as a path; None for what is neither."""
    if not isinstance(spec, (str, os.PathLike)):
        return None
    text = os.fsdecode(spec)
    return Path(text) if text.strip() and "\0" not in text else None


def _graph(path: Path, options: Mapping[str, Any]) -> Program:
    """A program from a file that holds a graph; its readers are loaded here only."""
    known = _graph_options(clip(str(path), 200), options)
    if path.suffix.lower() == ".onnx":
        from costgraph.models.onnx_graph import from_onnx

        return from_onnx(path, **known)
    from costgraph.models.torch_export import load_pt2

    return load_pt2(path, **_without_decoder(known))


def _graph_options(shown: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an exported graph."""
    found = dict(options)
    if found.pop("symbolic", False):
        raise ModelError(f"{shown}: an exported graph has numbers for its dimensions, no symbols")
    if "symbols" in found:  # as from_torch calls them, too
        found["dims"] = {**found.pop("symbols"), **found.get("dims", {})}
    for key in found:
        if key not in GRAPH_OPTIONS:
            raise ModelError(
                f"exported graphs have no option {clip(key)}{nearest(key, GRAPH_OPTIONS)}"
            )
    return found


def _without_decoder(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a graph that is a program of ``torch.export``."""
    if options.get("decoder") is not None:
        raise ModelError("an encoder and its decoder are read from .onnx files")
    return {k: v for k, v in options.items() if k != "decoder"}


def _exists(path: Path) -> bool:
    return outside.is_file(path) or outside.is_file(path / "config.json")
