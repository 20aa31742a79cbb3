"""Saved programs that would run something when they are loaded, made for tests.

Each makes a file, a canary, wherever a loader unpickles or evaluates the part in
question. The crafted part is added to a program that is otherwise whole.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class _Canary:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.place),))


def pickled(place: Path) -> bytes:
    """A pickle that makes the directory ``place`` when it is loaded."""
    return pickle.dumps(_Canary(place))


def members(data: bytes) -> dict[str, bytes]:
    """The contents of an archive by member."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        return {name: source.read(name) for name in source.namelist()}


def packed(contents: Mapping[str, bytes]) -> bytes:
    """An archive of these members."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as target:
        for name, data in contents.items():
            target.writestr(zipfile.ZipInfo(name), data)
    return whole.getvalue()


def _root(contents: Mapping[str, bytes]) -> str:
    return next(name for name in contents if name.endswith("models/model.json")).removesuffix(
        "models/model.json"
    )


def _payload(contents: dict[str, bytes], folder: str, place: Path) -> None:
    """The first entry of a table of payloads becomes a pickle."""
    root = _root(contents)
    table = f"{root}data/{folder}/model_{folder}_config.json"
    value = json.loads(contents[table])
    entry = next(iter(value["config"].values()))
    entry["use_pickle"] = True
    contents[table] = json.dumps(value).encode()
    contents[f"{root}data/{folder}/{entry['path_name']}"] = pickled(place)


def _weight(contents: dict[str, bytes], place: Path) -> None:
    _payload(contents, "weights", place)


def _constant(contents: dict[str, bytes], place: Path) -> None:
    _payload(contents, "constants", place)


def _sample(contents: dict[str, bytes], place: Path) -> None:
    contents[f"{_root(contents)}data/sample_inputs/model.pt"] = pickled(place)


def _expression(contents: dict[str, bytes], place: Path) -> None:
    name = f"{_root(contents)}models/model.json"
    value = json.loads(contents[name])
    code = f"__import__('os').mkdir({str(place)!r})"
    tensors = value["graph_module"]["graph"]["tensor_values"]
    for meta in tensors.values():
        for size in meta["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = code
    contents[name] = json.dumps(value).encode()


def _legacy(contents: dict[str, bytes], place: Path) -> None:
    """The layout before PyTorch 2.8, its three pickles armed."""
    program = contents[f"{_root(contents)}models/model.json"]
    contents.clear()
    contents["serialized_exported_program.json"] = program
    contents["version"] = b"8.20"
    for part in ("state_dict", "constants", "example_inputs"):
        contents[f"serialized_{part}.pt"] = pickled(place)


CRAFTS: Mapping[str, Callable[[dict[str, bytes], Path], None]] = {
    "a pickled weight": _weight,
    "a pickled constant": _constant,
    "pickled sample inputs": _sample,
    "code for a size": _expression,
    "pickles of the old layout": _legacy,
}


def crafted(kind: str, data: bytes, place: Path) -> bytes:
    """The saved program ``data`` with one part that makes ``place`` where it is loaded."""
    contents = members(data)
    CRAFTS[kind](contents, place)
    return packed(contents)
