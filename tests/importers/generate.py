"""Makes the files in ``data/`` anew; needs ``costgraph[torch,onnx]`` and ``onnxscript``.

    python tests/importers/generate.py

The ONNX and .pt2 files keep their structure only: arrays of numbers are left out, as in
a file whose weights lie beside it. ``tiny-conv-2.6.pt2`` was saved by PyTorch 2.6, in the
layout that PyTorch had before 2.8.
"""

from __future__ import annotations

import io
import json
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from costgraph.models.torch_export import trace
from costgraph.models.traced.codec import to_json
from tests.importers import tiny_llama
from tests.importers.tiny_models import ConvNet, Encoder

DATA = Path(__file__).parent / "data"


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its arrays of numbers declared and not held, and no traces of files."""
    for tensor in model.graph.initializer:
        size = 1
        for d in tensor.dims:
            size *= d
        if tensor.data_type == TensorProto.FLOAT and size > 1:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.data_location = TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", "left-out.bin"
    for node in model.graph.node:
        scopes = [m for m in node.metadata_props if m.key == "pkg.torch.onnx.name_scopes"]
        kept = [(m.key, m.value) for m in scopes]
        del node.metadata_props[:]
        for key, value in kept:
            node.metadata_props.add(key=key, value=value)
        node.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    return model


def save_onnx(name: str, module: nn.Module, example: torch.Tensor, names: dict[int, str]) -> None:
    """Exports a module with dynamic axes."""
    program = torch.onnx.export(
        module, (example,), dynamo=True, dynamic_shapes=(names,), verbose=False
    )
    path = DATA / f"{name}.onnx"
    program.save(str(path))
    model = without_weights(onnx.load(path, load_external_data=False))
    path.write_bytes(model.SerializeToString(deterministic=True))


def save_trace(name: str, exported: torch.export.ExportedProgram) -> None:
    """Writes the neutral form of an exported program."""
    text = json.dumps(to_json(trace(exported, name=name)), separators=(",", ":"))
    (DATA / f"{name}.traced.json").write_text(text + "\n", encoding="utf-8")


def save_program(name: str, exported: torch.export.ExportedProgram) -> None:
    """Saves a program without its weights, and without where its lines stand."""
    whole = io.BytesIO()
    torch.export.save(exported, whole)
    kept = (".json", "archive_format", "archive_version", "byteorder", "version")
    with (
        zipfile.ZipFile(whole) as source,
        zipfile.ZipFile(DATA / f"{name}.pt2", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in sorted(source.namelist()):
            if not member.endswith(kept):
                continue
            data = source.read(member)
            if "/models/" in member or member.startswith("serialized_"):
                data = without_lines(json.loads(data))
            about = zipfile.ZipInfo("/".join(["archive", *member.split("/")[1:]]) or member)
            about.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(about, data)


def without_lines(document: Any) -> bytes:
    """A saved program whose nodes keep their modules only."""
    module = document["graph_module"]
    module["module_call_graph"] = []
    for node in module["graph"]["nodes"]:
        node["metadata"] = {k: v for k, v in node["metadata"].items() if k == "nn_module_stack"}
    return json.dumps(document, separators=(",", ":")).encode()


def main() -> None:
    warnings.simplefilter("ignore")
    DATA.mkdir(exist_ok=True)
    llama, ids = tiny_llama.made(), tiny_llama.example()
    exported = tiny_llama.exported(llama, ids)
    save_trace("tiny-llama", exported)
    save_program("tiny-llama", exported)
    save_trace("tiny-llama-core", exported.run_decompositions())
    save_onnx("tiny-llama", llama, ids, {0: "batch", 1: "seq"})
    torch.manual_seed(0)
    encoder = Encoder().eval()
    save_trace("tiny-encoder", tiny_llama.exported(encoder, ids))
    save_onnx("tiny-encoder", encoder, ids, {0: "batch", 1: "seq"})
    torch.manual_seed(0)
    convolutions, image = ConvNet().eval(), torch.zeros((2, 3, 32, 32))
    shapes = ({0: torch.export.Dim("batch")},)
    save_trace("tiny-conv", torch.export.export(convolutions, (image,), dynamic_shapes=shapes))
    save_onnx("tiny-conv", convolutions, image, {0: "batch"})


if __name__ == "__main__":
    main()
