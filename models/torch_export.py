"""Importing programs of ``torch.export``.

An exported program is first written down as a neutral traced graph
(:func:`trace`), which needs no PyTorch to be read again. Weights count by their
shapes and formats; their values are never looked at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sympy import Add, Expr, Integer, Max, Min, Mul, Pow, Rational, floor

from costgraph.errors import ModelError, clip, nearest
from costgraph.models.traced.codec import from_json
from costgraph.models.traced.formats import Dimensions
from costgraph.models.traced.program import program_of
from costgraph.models.traced.record import Call, Ref, Result, Source, Traced
from costgraph.program import Program

LARGEST_FILE = 2**36
LARGEST_JSON = 64 * 2**20
#: Calls that only assert or name sizes.
_SILENT = ("_assert", "sym_constrain", "sym_size", "sym_numel", "sym_stride")


def from_torch(
    exported: Any,
    symbols: Mapping[str, str | int] | None = None,
    *,
    name: str = "model",
    mask: str = "skip",
    recognise: bool = True,
) -> Program:
    """A program of one ``forward`` phase from an ``ExportedProgram``.

    Args:
        exported: what ``torch.export.export`` returned, or a
            :class:`~costgraph.models.traced.Traced` made from it.
        symbols: dynamic dimensions to a symbol or a number, for example
            ``{"batch": "B", "seq": "S"}``: by the name given to ``torch.export.Dim``,
            or by PyTorch's own name (``s0``). As for
            :func:`costgraph.models.onnx_graph.from_onnx`, usual names need no entry.
        name: what to call the model.
        mask, recognise: see there.

    Raises:
        ModelError: the program holds an operator without a rule.
    """
    traced = exported if isinstance(exported, Traced) else trace(exported, symbols, name)
    from costgraph.models.traced.aten import DIALECT

    return program_of(traced, DIALECT, mask, recognise)


#: The same under the name that other loaders follow.
load_traced = from_torch


def read_traced(path: Path, name: str = "") -> Traced:
    """A traced graph written as JSON (:func:`costgraph.models.traced.codec.to_json`).

    Raises:
        ModelError: the file cannot be read or holds something else.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ModelError(f"{clip(str(path), 200)}: too large for a traced graph")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{clip(str(path), 200)}: not readable as JSON") from None
    return from_json(value)


def load_pt2(
    path: str | os.PathLike[str], symbols: Mapping[str, str | int] | None = None, **options: Any
) -> Program:
    """A program from a file written by ``torch.export.save``.

    Raises:
        ModelError: PyTorch is missing, or the file is not such a program.
    """
    where = Path(path)
    shown = clip(str(where), 200)
    try:
        import torch
    except ImportError:
        raise ModelError(
            "reading exported programs needs: pip install 'costgraph[torch]'"
        ) from None
    try:
        if not where.is_file():
            raise ModelError(f"no such file: {shown}")
        if where.stat().st_size > LARGEST_FILE:
            raise ModelError(f"{shown}: too large")
        exported = torch.export.load(where)
    except ModelError:
        raise
    except Exception as error:
        # Archives, JSON and PyTorch's own checks each have error classes of their own.
        text = str(error).strip().splitlines()
        reason = clip(text[0] if text else type(error).__name__, 120)[1:-1]
        raise ModelError(f"{shown}: not a program of torch.export: {reason}") from None
    options.setdefault("name", where.stem or "model")
    return from_torch(exported, symbols, **options)


def trace(
    exported: Any, symbols: Mapping[str, str | int] | None = None, name: str = "model"
) -> Traced:
    """The neutral form of an ``ExportedProgram``.

    Raises:
        ModelError: a dimension cannot be expressed, or the program is of no known form.
    """
    if not hasattr(exported, "graph_signature") or not hasattr(exported, "graph"):
        raise ModelError(f"{clip(type(exported).__name__)} is not a program of torch.export")
    if any(_in_place(n) for n in exported.graph.nodes):
        exported = exported.run_decompositions({})  # the same program without mutation
    return _Tracer(exported, Dimensions(symbols), name).read()


def _in_place(node: Any) -> bool:
    operator = _operator(str(node.target))
    return node.op == "call_function" and operator.endswith("_") and not operator.endswith("__")


class _Tracer:
    def __init__(self, exported: Any, dims: Dimensions, name: str) -> None:
        self.exported = exported
        self.dims = dims
        self.name = name
        self.names: dict[str, str] = {}
        self.labels = _stated_names(exported)
        self.guessed = _guessed_names(exported, {**self.labels, **dims.given})
        self.labels.update(self.guessed)

    def read(self) -> Traced:
        specs = {s.arg.name: s for s in self.exported.graph_signature.input_specs}
        sources: dict[str, Source] = {}
        calls: list[Call] = []
        outputs: list[str] = []
        buffers = 0
        for node in self.exported.graph.nodes:
            value = node.meta.get("val")
            if node.op == "placeholder":
                if not hasattr(value, "shape"):
                    continue
                spec = specs[node.name]
                role = _role(spec)
                label = node.name if role == "input" else str(spec.target)
                self.names[node.name] = label
                source = Source(label, self._shape(value), _kind(value), role)
                # A tensor under two names is one tensor: shared weights count once.
                sources.setdefault(label, source)
                if role == "weight" and "BUFFER" in str(spec.kind):
                    buffers += int(value.numel())
            elif node.op == "call_function":
                call = self._call(node, value)
                if call is not None:
                    calls.append(call)
            elif node.op == "output":
                outputs = self._outputs(node)
            else:
                raise ModelError(f"{self.name}: a node of kind {clip(node.op)}")
        unused = self.dims.unused()
        if unused:
            raise ModelError(
                f"{self.name}: no dimension is called {clip(unused[0])}"
                f"{nearest(unused[0], self.dims.used)}"
            )
        notes = tuple(
            f"the dimension {label} is taken as the {meaning}"
            for label, meaning in self.guessed.items()
        )
        if buffers:
            notes = (*notes, f"{buffers} elements of buffers count as parameters")
        return Traced(
            self.name, "aten", 0, tuple(sources.values()), tuple(calls), tuple(outputs), notes
        )

    def _outputs(self, node: Any) -> list[str]:
        kinds = {
            getattr(s.arg, "name", ""): str(s.kind)
            for s in self.exported.graph_signature.output_specs
        }
        found = []
        for item in _flat(node.args):
            if hasattr(item, "meta") and hasattr(item.meta.get("val"), "shape"):
                label = self.names[item.name]
                # A result that updates a buffer is a result all the same.
                if kinds.get(item.name, "").endswith(("USER_OUTPUT", "MUTATION")) or not kinds:
                    found.append(label)
        return list(dict.fromkeys(found))

    def _call(self, node: Any, value: Any) -> Call | None:
        target = str(node.target)
        label = node.name
        if "getitem" in target:
            base, index = node.args
            self.names[node.name] = f"{self.names[base.name]}.{index}"
            return None
        operator = _operator(target)
        if operator.startswith(_SILENT) or not _has_tensor(value):
            return None
        self.names[node.name] = label
        results: tuple[Result, ...]
        if hasattr(value, "shape"):
            results = (Result(label, self._shape(value), _kind(value)),)
        else:
            results = tuple(
                Result(f"{label}.{i}", self._shape(v), _kind(v))
                if hasattr(v, "shape")
                else Result("")
                for i, v in enumerate(value)
            )
        attributes = {
            key: self._argument(v)
            for key, v in node.kwargs.items()
            if key not in ("device", "layout", "pin_memory", "memory_format", "generator")
        }
        arguments = tuple(self._argument(a) for a in node.args)
        return Call(label, operator, arguments, attributes, results, _scope(node))

    def _argument(self, item: Any) -> Any:
        if hasattr(item, "meta") and hasattr(item, "op"):
            value = item.meta.get("val")
            if value is None or hasattr(value, "shape") or isinstance(value, (list, tuple)):
                return Ref(self.names[item.name])
            return self._argument(value)
        if item is None or isinstance(item, (bool, int, float, str)):
            return item
        if isinstance(item, (list, tuple)):
            return tuple(self._argument(i) for i in item)
        if hasattr(item, "node"):
            return self._size(item)
        # Formats, layouts and devices are told by their names.
        return str(item)

    def _shape(self, value: Any) -> tuple[Expr, ...]:
        return tuple(self._size(d) for d in value.shape)

    def _size(self, size: Any) -> Expr:
        if isinstance(size, int):
            return Integer(size)
        return self._expression(size.node.expr)

    def _expression(self, e: Any) -> Expr:
        """PyTorch's expression in our symbols."""
        if e.is_Integer:
            return Integer(int(e))
        if e.is_Rational:
            return Rational(int(e.p), int(e.q))
        if e.is_Symbol:
            label = self.labels.get(str(e), str(e))
            if str(e) in self.dims.given:
                label = str(e)
            return self.dims.named(label, self.name)
        args = [self._expression(a) for a in e.args]
        kind = type(e).__name__
        if kind in ("FloorDiv", "CleanDiv", "IntTrueDiv"):
            quotient = args[0] / args[1]
            return quotient if kind != "FloorDiv" else _floored(quotient)
        known: dict[str, Any] = {"Add": Add, "Mul": Mul, "Pow": Pow, "Max": Max, "Min": Min}
        known |= {"floor": floor, "FloorToInt": floor}
        if kind in known:
            made: Expr = known[kind](*args)
            return made
        raise ModelError(f"{self.name}: the dimension {clip(str(e))} cannot be expressed")


def _floored(quotient: Expr) -> Expr:
    from costgraph.ops.conv import whole_floor

    return whole_floor(quotient)


def _stated_names(exported: Any) -> dict[str, str]:
    """PyTorch's symbols and the names that ``torch.export.Dim`` gave them."""
    found: dict[str, str] = {}
    for _, _, size in _dynamic(exported):
        environment = size.node.shape_env
        given = getattr(environment, "source_name_to_debug_name", None) or {}
        places = getattr(environment, "var_to_sources", None) or {}
        for place in places.get(size.node.expr, ()):
            label = place.name if isinstance(place.name, str) else place.name()
            if label in given:
                found.setdefault(str(size.node.expr), str(given[label]))
    return found


def _guessed_names(exported: Any, known: Mapping[str, Any]) -> dict[str, str]:
    """Symbols without a name that can only be the batch or the sequence.

    The first axis of an operand of two axes or more, and the second of token ids.
    """
    found: dict[str, str] = {}
    for value, axis, size in _dynamic(exported):
        label = str(size.node.expr)
        if label in known or label in found or len(value.shape) < 2:
            continue
        if axis == 0 and "batch" not in found.values():
            found[label] = "batch"
        elif axis == 1 and len(value.shape) == 2 and _kind(value).startswith("int"):
            found[label] = "sequence"
    return found


def _dynamic(exported: Any) -> Iterator[tuple[Any, int, Any]]:
    """(operand, axis, size) of each dynamic axis of an operand."""
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and hasattr(value, "shape"):
            for axis, size in enumerate(value.shape):
                if not isinstance(size, int) and size.node.expr.is_Symbol:
                    yield value, axis, size


def _operator(target: str) -> str:
    """``aten.add.Tensor`` as ``add``; operators of other libraries keep their whole name."""
    library, _, rest = target.partition(".")
    return rest.partition(".")[0] if library == "aten" else target


def _role(spec: Any) -> str:
    kind = str(spec.kind)
    if "PARAMETER" in kind:
        return "weight"
    if "BUFFER" in kind:
        return "weight" if spec.persistent else "table"
    return "table" if "CONSTANT" in kind else "input"


def _kind(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _has_tensor(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(hasattr(v, "shape") for v in value)
    return hasattr(value, "shape")


def _scope(node: Any) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = ""
    for entry in stack.values():
        if isinstance(entry, tuple) and entry and isinstance(entry[0], str):
            path = entry[0]
    return path.removeprefix("L['self'].") if not path.startswith("_empty") else ""


def _flat(items: Any) -> list[Any]:
    if isinstance(items, (list, tuple)):
        return [x for i in items for x in _flat(i)]
    return [items]
