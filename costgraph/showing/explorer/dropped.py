"""Models in files that were dropped on the page: read from memory, kept for one run."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import chain, count
from pathlib import Path, PurePosixPath

from costgraph.errors import CostgraphError, InputError, ModelError, clip
from costgraph.files import outside
from costgraph.models.catalog import model_names
from costgraph.models.hf import import_config
from costgraph.models.tensor_index import INDEX, compared, stated_size
from costgraph.quoting import visible
from costgraph.showing.explorer.parts import Source, named, shipped_folders

#: The largest file of each kind, in bytes, by the end of its name.
LARGEST = {".index.json": 64 * 2**20, ".json": 4 * 2**20, ".onnx": 256 * 2**20}
#: Files that are kept; the oldest goes first.
MOST = 16
_TAKEN = "a config.json, beside it a model.safetensors.index.json, or an .onnx file"


class Dropped(Mapping[str, Source]):
    """The models that were dropped, by the names that the page calls them.

    A name means one model as long as the server runs: what is still being derived, or kept
    somewhere, of one can never be taken for another's.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Source] = OrderedDict()
        self._names: set[str] = set()

    def __getitem__(self, name: str) -> Source:
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, file: str, data: bytes, beside: str = "") -> str:
        """Reads a file and keeps its model.

        Args:
            file: its name; only its last part is used, and only to call it by.
            data: its bytes.
            beside: for an index of tensors: the name of the configuration that it belongs to.

        Returns:
            The name of the model.

        Raises:
            CostgraphError: what is wrong with it, in one line.
        """
        label = visible(PurePosixPath(file.replace("\\", "/")).name)[:80]
        if len(data) > largest(label):
            raise InputError(f"{clip(label)}: larger than {outside.size_text(largest(label))}")
        if label.lower().endswith(".index.json"):
            return self._indexed(label, data, beside)
        stem = label.rpartition(".")[0] or "model"
        name = self._free(stem)
        made = (
            _graph(data, label, name)
            if label.lower().endswith(".onnx")
            else _config(data, label, name)
        )
        self.keep(name, made)
        return name

    def keep(self, name: str, model: Source) -> None:
        """Keeps a model by a name that no other had."""
        self._kept[name] = model
        self._names.add(name)
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)

    def _indexed(self, label: str, data: bytes, beside: str) -> str:
        known = self._kept.get(beside)
        if not isinstance(known, Mapping):
            raise ModelError(
                f"{label} says how many bytes the tensors of a model take, not what they are: "
                "drop it together with its config.json"
            )
        found = outside.json_value(data, label, ModelError)
        name = self._free(f"{beside} with its index")
        self.keep(name, compared(import_config(known, name), stated_size(found, label)))
        return name

    def _free(self, stem: str) -> str:
        taken = {*model_names(), *self._names}
        tries = chain((stem,), (f"{stem} ({i})" for i in count(2)))
        return next(name for name in tries if name.lower() not in taken and name not in taken)


def largest(label: str) -> int:
    """Bytes that a file of this name may have.

    Raises:
        InputError: no such file is read.
    """
    for end, size in LARGEST.items():
        if label.lower().endswith(end):
            return size
    raise InputError(f"{clip(label)}: what can be read is {_TAKEN}")


def _config(data: bytes, label: str, name: str) -> Source:
    config = outside.json_value(data, label, ModelError)
    if not isinstance(config, dict):
        raise ModelError(f"{label}: holds {type(config).__name__}, not a JSON object")
    if "weight_map" in config:
        raise ModelError(f"{label} is an index of tensors: call it {INDEX}, beside a config.json")
    config = named(config, name)
    with outside.confined(*shipped_folders()):
        import_config(config, name)  # what is wrong with it is said now
    return config


def _graph(data: bytes, label: str, name: str) -> Source:
    from costgraph.models.onnx_graph import from_onnx

    with tempfile.TemporaryDirectory(prefix="costgraph-") as folder:
        path = Path(folder).resolve() / "model.onnx"  # its own name reaches no disk
        path.write_bytes(data)
        with outside.confined(path.parent, *shipped_folders()):
            try:
                return from_onnx(path, name=name)
            except CostgraphError as error:
                raise ModelError(str(error).replace(str(path), label)) from None
