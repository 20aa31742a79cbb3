"""Importing ONNX files.

Only the graph is read: weights count by their shapes and formats, so a file
exported without them, or with them in files beside it, serves as well. Those
other files are never opened.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.files import outside
from costgraph.ir.program import Program
from costgraph.models.traced.answering import answering
from costgraph.models.traced.formats import LARGEST, Dimensions
from costgraph.models.traced.program import program_of
from costgraph.models.traced.record import MOST, Branch, Call, Ref, Result, Source, Traced
from costgraph.quoting import visible

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

#: Files of a decoder.
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
#: protobuf cannot hold more.
LARGEST_FILE = 2**31 - 1
#: Elements of small constants that are read.
MOST_READ = 64
#: Functions that call one another.
_DEEPEST = 50
_SCOPE = re.compile(r"'([^']*)'")
_INDEXED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*\Z")
_STANDARD = frozenset({"", "ai.onnx", "com.microsoft"})
#: Operators that mean different things in the standard and in ONNX Runtime's own set.
_OF_TWO_DOMAINS = frozenset({"Attention", "RotaryEmbedding"})
#: struct codes of element types by their number in TensorProto.DataType.
_CODES = {1: "f", 2: "B", 3: "b", 4: "H", 5: "h", 6: "i", 7: "q", 9: "?", 10: "e", 11: "d"}
_CODES |= {12: "I", 13: "Q"}


def from_onnx(
    path: str | os.PathLike[str],
    dims: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    mask: str = "skip",
    recognise: bool = True,
    decoder: Paths | None = None,
) -> Program:
    """A program of one ``forward`` phase from an ONNX file, or of an encoder–decoder model.

    Args:
        path: the file; files with weights beside it are not opened.
        dims: names of dynamic dimensions to a symbol, a number or a size such as ``T + 1``,
            for example ``{"batch": "B", "sequence": "S"}``. Usual names of the batch and of
            the sequence need no entry; any other becomes a symbol of its own name.
        name: what to call the model; the file's name if empty.
        mask: how causal attention counts, see
            :data:`costgraph.ops.pattern.COUNTED`.
        recognise: find attention, norms, rotary embedding and repeated layers
            (:class:`costgraph.models.recognition.recognise.Recognise`).
        decoder: where the file holds the encoder of an encoder–decoder model: the file or
            files of its decoder, see :mod:`costgraph.models.traced.answering`; a text may
            name several, with commas between.

    Raises:
        ModelError: the file cannot be read, or holds an operator without a rule.
    """
    from costgraph.models.traced.onnx_layers import DIALECT

    if decoder is None:
        traced = read_onnx(Path(path), Dimensions(dims), name)
        return program_of(traced, DIALECT, mask, recognise)
    if not recognise:
        raise ModelError("an encoder with its decoder is always recognised: leave recognise out")
    encoder, *decoders = read_files(path, decoder, Dimensions(dims), name)
    return answering(encoder, decoders, DIALECT, mask).program


def read_files(
    path: str | os.PathLike[str], decoder: Paths, dims: Dimensions, name: str = ""
) -> tuple[Traced, ...]:
    """The traced graphs of an encoder and of the files of its decoder.

    Raises:
        ModelError: one cannot be read, or a name in ``dims`` is in none.
    """
    if isinstance(decoder, str):
        decoder = decoder.split(",")
    elif isinstance(decoder, os.PathLike):
        decoder = (decoder,)
    files = [Path(path), *(Path(os.fsdecode(p)) for p in decoder)]
    found = [
        read_onnx(file, dims, name if index == 0 else "", check=False)
        for index, file in enumerate(files)
    ]
    dims.check(found[0].name)
    return tuple(found)


def read_onnx(path: Path, dims: Dimensions, name: str = "", check: bool = True) -> Traced:
    """The traced graph in a file; ``check`` refuses names of dimensions that it does not have.

    Raises:
        ModelError: it cannot be read.
    """
    model = _parsed(path)
    label = name or visible(path.stem) or "model"
    try:
        traced = _Reader(label, model, dims).read()
    except RecursionError:
        raise ModelError(f"{label}: nested too deeply") from None
    if check:
        dims.check(label)
    return traced


def _parsed(path: Path) -> ModelProto:
    try:
        import onnx
    except ImportError:
        raise ModelError("reading ONNX files needs: pip install 'costgraph[onnx]'") from None
    shown = outside.label_of(path)
    data = outside.read_bytes(path, LARGEST_FILE, "an ONNX graph", ModelError)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (OSError, ValueError) as error:
        raise ModelError(f"{shown}: {_line(error)}") from None
    except Exception as error:
        # protobuf's DecodeError derives from its own Error class, which moved over time.
        if type(error).__name__ != "DecodeError":
            raise
        raise ModelError(f"{shown}: not an ONNX file: {_line(error)}") from None
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{shown}: not an ONNX file, or one without operators")
    if len(model.functions):
        _check_functions(model, shown)
        model = _inlined(model, shown)
    return model


def _check_functions(model: ModelProto, shown: str) -> None:
    """Refuses functions that call each other in a circle, or write out to very much."""
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    counts: dict[tuple[str, str], int] = {}
    open_: set[tuple[str, str]] = set()

    def count(nodes: Iterable[NodeProto]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += of(key) if key in bodies else 1
            for item in node.attribute:
                total += sum(count(g.node) for g in (item.g, *item.graphs))
            if total > MOST:
                raise ModelError(f"{shown}: its functions write out to more than {MOST} operators")
        return total

    def of(key: tuple[str, str]) -> int:
        if key not in counts:
            if key in open_ or len(open_) > _DEEPEST:
                raise ModelError(f"{shown}: its functions call each other without end")
            open_.add(key)
            counts[key] = count(bodies[key])
            open_.discard(key)
        return counts[key]

    count(model.graph.node)
    for key in bodies:
        of(key)


def _inlined(model: ModelProto, where: str) -> ModelProto:
    """The model with functions of its own written out."""
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        # A checker in C++ reports what is wrong with the file by several unrelated classes.
        raise ModelError(f"{where}: its functions: {_line(error)}") from None


def _line(error: Exception) -> str:
    text = str(error).strip()
    return clip(text.splitlines()[0] if text else type(error).__name__, 120)[1:-1]


class _Reader:
    """Reads one file's graph."""

    def __init__(self, name: str, model: ModelProto, dims: Dimensions) -> None:
        self.name = name
        self.model = model
        self.dims = dims
        self.formats = _type_names()

    def read(self) -> Traced:
        graph: GraphProto = self.model.graph
        if len(graph.node) > MOST or len(graph.initializer) > MOST:
            raise ModelError(f"{self.name}: more than {MOST} operators")
        if len(graph.sparse_initializer):
            raise ModelError(f"{self.name}: sparse weights are not supported")
        sources: dict[str, Source] = {}
        for tensor in graph.initializer:
            self._add(sources, self._stored(tensor))
        weights = set(sources)
        for value in graph.input:
            if self._text(value.name) not in weights:
                self._add(sources, self._input(value))
        calls = self._calls(graph, sources, {})
        outputs = tuple(self._text(o.name) for o in graph.output)
        if not outputs:
            raise ModelError(f"{self.name}: the graph has no outputs")
        return Traced(
            self.name,
            "onnx",
            self._version(),
            tuple(sources.values()),
            tuple(calls),
            outputs,
            self.dims.notes,
        )

    def _calls(
        self, graph: GraphProto, sources: dict[str, Source], around: Mapping[str, Source]
    ) -> list[Call]:
        """Operators of a graph; constants among them pass into ``sources``."""
        calls = []
        for index, node in enumerate(graph.node):
            constant = self._constant(node)
            if constant is not None:
                self._add(sources, constant)
            else:
                calls.append(self._call(index, node, {**around, **sources} if around else sources))
        return self._with_stored_fills(calls, sources)

    def _version(self) -> int:
        found = [o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")]
        return int(found[0]) if found else 0

    def _text(self, value: Any) -> str:
        """A text of the file; protobuf hands out bytes where one is not UTF-8."""
        if not isinstance(value, str):
            raise ModelError(f"{self.name}: the text {clip(value)} is not UTF-8")
        return visible(value)

    def _add(self, sources: dict[str, Source], source: Source) -> None:
        if source.name in sources:
            raise ModelError(f"{self.name}: two values are called {clip(source.name)}")
        sources[source.name] = source

    # --- values

    def _input(self, value: Any) -> Source:
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"{self.name}: input {clip(value.name)} is not a tensor")
        kind = value.type.tensor_type
        if not kind.HasField("shape"):
            raise ModelError(f"{self.name}: input {clip(value.name)} has no stated shape")
        shape = []
        for axis, dim in enumerate(kind.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value >= 0:
                shape.append(self._size(dim.dim_value, value.name))
            else:
                # Negative numbers and marks such as "?" are no names; nor is nothing.
                stated = self._text(dim.dim_param)
                named = any(c.isalnum() for c in stated)
                label = stated if named else f"{self._text(value.name)}_{axis}"
                shape.append(self.dims.named(label, f"{self.name}: input {clip(value.name)}"))
        name = self._text(value.name)
        return Source(name, tuple(shape), self._type(kind.elem_type, name))

    def _size(self, size: int, where: str) -> Expr:
        if not 0 <= size <= LARGEST:
            raise ModelError(f"{self.name}: {clip(where)} has a dimension of {size}")
        return Integer(size)

    def _type(self, number: int, where: str) -> str:
        found = self.formats.get(number)
        if found is None:
            raise ModelError(f"{self.name}: {clip(where)} has elements of unknown type {number}")
        return found

    def _stored(self, tensor: TensorProto, name: str = "") -> Source:
        label = name or self._text(tensor.name)
        shape = tuple(self._size(d, label) for d in tensor.dims)
        size = math.prod(int(d) for d in shape)
        kind = self._type(tensor.data_type, label)
        values = self._values(tensor, size) if size <= MOST_READ else None
        is_number = kind in ("float32", "float16", "bfloat16", "float64")
        # Single numbers are constants of the graph; arrays of numbers are weights.
        # Whole numbers index and shape, unless they are the weights of a quantised model.
        weight = size > 1 and (is_number or kind in ("int8", "uint8", "int4", "uint4"))
        role = "weight" if weight else "table"
        return Source(label, shape, kind, role, values)

    def _values(self, tensor: TensorProto, size: int) -> tuple[Any, ...] | None:
        """The elements; None where they are kept elsewhere or do not fit."""
        if tensor.data_location == 1:  # EXTERNAL: never opened
            return None
        kind = tensor.data_type
        found: list[Any]
        if tensor.HasField("raw_data"):
            code = _CODES.get(kind)
            if code is None or len(tensor.raw_data) != size * struct.calcsize("<" + code):
                return None
            found = list(struct.unpack(f"<{size}{code}", tensor.raw_data))
        else:
            fields = {1: "float_data", 11: "double_data", 7: "int64_data"}
            fields |= dict.fromkeys((12, 13), "uint64_data")
            fields |= dict.fromkeys((2, 3, 4, 5, 6, 9), "int32_data")
            if kind not in fields:
                return None
            found = list(getattr(tensor, fields[kind]))
            if len(found) != size:
                return None
        if any(isinstance(v, float) and math.isnan(v) for v in found):
            return None
        return tuple(Integer(int(v)) if isinstance(v, int) else v for v in found)

    def _constant(self, node: NodeProto) -> Source | None:
        """A node that is nothing but a stored tensor."""
        if node.op_type != "Constant" or node.domain not in _STANDARD or not node.output:
            return None
        for item in node.attribute:
            if item.name == "value":
                return self._stored(item.t, self._text(node.output[0]))
        return None

    def _with_stored_fills(self, calls: list[Call], sources: dict[str, Source]) -> list[Call]:
        """Arrays of floating-point numbers filled in a known shape are stored weights.

        Test models keep their structure so, without the weights; an engine folds
        what is constant, too.
        """
        kept = []
        for call in calls:
            shape = sources.get(call.args[0].name) if _fills(call) else None
            kind = str(call.attributes.get("dtype", "float32"))
            sizes = None if shape is None else shape.values
            if sizes is None or not kind.startswith(("float", "bfloat")):
                kept.append(call)
                continue
            if not all(isinstance(s, Integer) and 0 <= s <= LARGEST for s in sizes):
                raise ModelError(f"{self.name}: {clip(call.name)} has sizes {clip(sizes)}")
            if math.prod(int(s) for s in sizes) <= 1:
                kept.append(call)
                continue
            self._add(sources, Source(call.results[0].name, tuple(sizes), kind, "weight"))
        return kept

    # --- calls

    def _call(self, index: int, node: NodeProto, sources: Mapping[str, Source]) -> Call:
        target = self._text(node.op_type)
        domain = self._text(node.domain)
        if domain not in _STANDARD or (domain and target in _OF_TWO_DOMAINS):
            target = f"{node.domain}::{target}"
        inputs, outputs = ([self._text(v) for v in names] for names in (node.input, node.output))
        label = self._text(node.name) or (outputs[0] if outputs else "") or f"{target}_{index}"
        attributes = {self._text(a.name): self._attribute(a, sources) for a in node.attribute}
        if target == "ConstantOfShape":
            attributes = self._fill(node)
        elif target == "Cast":
            kind = attributes.get("to")
            attributes["to"] = self._type(kind if isinstance(kind, int) else 0, label)
        elif target == "QuantizeLinear" and attributes.get("output_dtype"):
            kind = attributes["output_dtype"]
            attributes["output_dtype"] = self._type(kind if isinstance(kind, int) else 0, label)
        elif target == "Constant":
            named = [v for k, v in attributes.items() if k.startswith("value")]
            attributes = {"value": named[0] if named else None}
        return Call(
            label,
            target,
            tuple(Ref(i) if i else None for i in inputs),
            {k: v for k, v in attributes.items() if v is not None},
            tuple(Result(o) for o in outputs),
            self._scope(node, sources),
        )

    def _fill(self, node: NodeProto) -> dict[str, Any]:
        for item in node.attribute:
            if item.name == "value":
                values = self._values(item.t, 1) or (0,)
                return {"dtype": self._type(item.t.data_type, node.name), "fill": values[0]}
        return {"dtype": "float32", "fill": 0}

    def _branch(self, graph: GraphProto, around: Mapping[str, Source]) -> Branch:
        """A graph inside an operator."""
        sources: dict[str, Source] = {}
        for tensor in graph.initializer:
            self._add(sources, self._stored(tensor))
        calls = self._calls(graph, sources, around)
        inputs, outputs = (
            tuple(self._text(v.name) for v in values) for values in (graph.input, graph.output)
        )
        return Branch(tuple(sources.values()), tuple(calls), outputs, inputs)

    def _attribute(self, item: AttributeProto, around: Mapping[str, Source]) -> Any:
        kind = item.type
        if kind == 5:
            return self._branch(item.g, around)
        if kind == 1:
            return float(item.f)
        if kind == 2:
            return int(item.i)
        if kind == 3:
            return item.s.decode("utf-8", "replace")
        if kind == 6:
            return tuple(float(v) for v in item.floats)
        if kind == 7:
            return tuple(int(v) for v in item.ints)
        if kind == 8:
            return tuple(s.decode("utf-8", "replace") for s in item.strings)
        return None

    def _scope(self, node: NodeProto, sources: Mapping[str, Source]) -> str:
        """The module of a call: stated, or that of the weight it uses, or from its name."""
        for item in node.metadata_props:
            if item.key == "pkg.torch.onnx.name_scopes":
                found = _SCOPE.findall(self._text(item.value))
                return found[-2] if len(found) > 1 and _INDEXED.match(found[-2]) else ""
        for name in node.input:
            source = sources.get(name)
            if source is not None and source.role == "weight" and name.endswith(".weight"):
                module = name.removesuffix(".weight")
                return module if _INDEXED.match(module) else ""
        parts = [p for p in node.name.split("/") if p]
        module = ".".join(parts[:-1])
        return module if len(parts) > 1 and _INDEXED.match(module) else ""


def _fills(call: Call) -> bool:
    return (
        call.target == "ConstantOfShape"
        and len(call.args) == 1
        and isinstance(call.args[0], Ref)
        and len(call.results) == 1
    )


def _type_names() -> dict[int, str]:
    from onnx import TensorProto

    names = {number: name.lower() for name, number in TensorProto.DataType.items()}
    names.pop(0, None)
    return {n: {"float": "float32", "double": "float64"}.get(t, t) for n, t in names.items()}
