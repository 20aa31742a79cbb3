"""Programs of ``torch.export`` in the form in which PyTorch saves them.

PyTorch writes a program down as plain data, by the schema in
``torch/_export/serde/schema.py``: nodes with named arguments, and the shape of every
value. :func:`read_exported` makes a traced graph of that, without PyTorch. It serves
files (:mod:`costgraph.models.pt2_file`) as well as programs in memory, which PyTorch
writes down first (:mod:`costgraph.models.torch_export`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import InputError, ModelError, clip
from costgraph.models.traced.arithmetic import NotArithmetic, decided, size
from costgraph.models.traced.formats import LARGEST, DimensionError, Dimensions
from costgraph.models.traced.kinds import with_kinds
from costgraph.models.traced.record import MOST, Call, Ref, Result, Source, Traced
from costgraph.quoting import visible

#: Versions of the schema that are understood; a minor step adds what old readers may ignore.
MAJORS = (8,)
#: Formats by PyTorch's numbers (``ScalarType`` of the schema).
FORMATS: Mapping[int, str] = MappingProxyType(
    {
        1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32",
        8: "float64", 9: "complex32", 10: "complex64", 11: "complex128", 12: "bool",
        13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn", 30: "float8_e5m2",
        31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu", 34: "uint32",
        35: "uint64",
    }
)  # fmt: skip
#: Nodes without a result that only assert something or name a size.
_SILENT = ("_assert", "_functional_assert", "sym_constrain", "sym_size", "sym_numel", "sym_stride")
#: Arguments that say where and how a result is kept.
_PLACEMENT = frozenset({"device", "layout", "pin_memory", "memory_format", "generator"})
#: Calls of a graph of its own that change no value: which argument it is.
_WRAPPERS: Mapping[str, int] = MappingProxyType(
    {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
)
#: Arguments of which only the kind is kept; no rule reads them.
_NAMED_ONLY = frozenset(
    {"as_device", "as_layout", "as_memory_format", "as_operator", "as_graph", "as_custom_obj"}
)
#: Bounds of dimensions beyond this are none.
_UNBOUNDED = 2**31


def read_exported(
    document: Mapping[str, Any],
    dims: Dimensions,
    name: str,
    labels: Mapping[str, str] | None = None,
    shared: Mapping[str, str] | None = None,
) -> Traced:
    """The traced graph of a program that PyTorch wrote down.

    Args:
        document: ``ExportedProgram`` of the schema as plain dicts and lists.
        dims: what dimensions become.
        name: of the model.
        labels: names that ``torch.export.Dim`` gave to PyTorch's symbols; they are
            not part of the schema.
        shared: weights that are another's memory, to that other's name.

    Raises:
        ModelError: a part is missing or not understood, in one line.
    """
    _check_version(document, name)
    try:
        return _Reader(document, dims, name, labels or {}, shared or {}).read()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"{name}: not a program of torch.export: {clip(reason, 90)}") from None


def _check_version(document: Mapping[str, Any], name: str) -> None:
    version = document.get("schema_version") if isinstance(document, Mapping) else None
    major, minor = (
        (version.get("major"), version.get("minor"))
        if isinstance(version, Mapping)
        else (None, None)
    )
    if not isinstance(major, int) or not isinstance(minor, int):
        raise ModelError(f"{name}: not a program of torch.export: it states no version")
    by = clip(str(document.get("torch_version", "an unknown version")), 30)[1:-1]
    if major not in MAJORS:
        raise ModelError(
            f"{name}: written by PyTorch {by} in version {major}.{minor} of its schema; "
            f"{MAJORS[0]} is understood"
        )


@dataclass
class _Scope:
    """The values of one graph: the program's own, or of a graph that a node calls.

    Attributes:
        graph: the schema's ``Graph``.
        prefix: before the names of its nodes.
        names: of its tensors, to those of the traced graph.
        sizes: numbers that were handed in, by name.
    """

    graph: Mapping[str, Any]
    prefix: str = ""
    names: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)


class _Reader:
    def __init__(
        self,
        document: Mapping[str, Any],
        dims: Dimensions,
        name: str,
        labels: Mapping[str, str],
        shared: Mapping[str, str],
    ) -> None:
        module = document["graph_module"]
        self.ranges: Mapping[str, Any] = document.get("range_constraints") or {}
        self.signature: Mapping[str, Any] = module["signature"]
        self.top = _Scope(with_kinds(module["graph"]))
        self.dims = dims
        self.name = name
        self.shared = shared
        self.labels = dict(labels)
        self.guessed: dict[str, str] = {}
        self.calls: list[Call] = []
        self.taken: set[str] = set()
        self._sizes: dict[str, Expr] = {}
        self._symbols: dict[str, Expr] = {}

    def read(self) -> Traced:
        nodes = self.top.graph["nodes"]
        if len(nodes) > MOST or len(self.top.graph["inputs"]) > MOST:
            raise ModelError(f"{self.name}: more than {MOST} operators")
        self._guess()
        sources, buffers = self._sources()
        for index, node in enumerate(nodes):
            self._node(self.top, node, index)
        outputs = self._outputs()
        self.dims.check(self.name, self._symbols)
        notes = [
            f"the dimension {label} is taken as the {meaning}"
            for label, meaning in self.guessed.items()
        ]
        return Traced(
            self.name,
            "aten",
            0,
            tuple(sources.values()),
            tuple(self.calls),
            outputs,
            tuple(notes),
            self._bounds(),
            tuple(buffers),
        )

    # --- dimensions

    def _guess(self) -> None:
        """Names for symbols without one that can only be the batch or the sequence.

        The first axis of an operand of two axes or more, and the second of token ids: of
        the first whole numbers in two axes. Those after them may be longer (a mask of all
        keys beside the ids of a step).
        """
        ids = ""
        for item in self.top.graph["inputs"]:
            kind, value = _union(item)
            if kind != "as_tensor":
                continue
            meta = self.top.graph["tensor_values"][value["name"]]
            axes = meta["sizes"]
            if len(axes) < 2:
                continue
            if len(axes) == 2 and self._format(meta).startswith("int"):
                ids = ids or value["name"]
            for axis, text in enumerate(axes):
                kind, size_ = _union(text)
                label = _plain_symbol(size_["expr_str"]) if kind == "as_expr" else ""
                if not label or label in {**self.labels, **self.dims.given}:
                    continue
                if axis == 0 and "batch" not in self.guessed.values():
                    self.guessed[label] = self.labels[label] = "batch"
                elif axis == 1 and value["name"] == ids:
                    self.guessed[label] = self.labels[label] = "sequence"

    def _named(self, label: str) -> Expr:
        """PyTorch's symbol as one of ours."""
        if label not in self._symbols:
            known = label if label in self.dims.given else self.labels.get(label, label)
            self._symbols[label] = self.dims.named(known, self.name)
        return self._symbols[label]

    def _expression(self, text: str) -> Expr:
        if text not in self._sizes:
            try:
                self._sizes[text] = decided(size(text, self._named), self._span)
            except NotArithmetic as error:
                raise ModelError(
                    f"{self.name}: the dimension {clip(text)} cannot be expressed: {error}"
                ) from None
        return self._sizes[text]

    def _size(self, item: Any) -> Expr:
        kind, value = _union(item)
        if kind == "as_int":
            number = _int(value)
            if not 0 <= number <= LARGEST:
                raise ModelError(f"{self.name}: a dimension of {clip(number)}")
            return Integer(number)
        if kind == "as_expr":
            return self._expression(value["expr_str"])
        raise ModelError(f"{self.name}: a dimension of unknown kind {clip(kind)}")

    def _span(self, symbol: Expr) -> tuple[int, int | None]:
        """One, and the largest value for which the program was exported.

        PyTorch states lower bounds too, but of two where it only left out the case of
        one; formulas are asked for that case.
        """
        for label, own in self._symbols.items():
            if own == symbol:
                high = (self.ranges.get(label) or {}).get("max_val")
                return 1, high if isinstance(high, int) and high < _UNBOUNDED else None
        return 1, None

    def _bounds(self) -> tuple[tuple[Expr, int], ...]:
        """The largest values for which the program was exported."""
        found = []
        for label, bounds in self.ranges.items():
            most = bounds.get("max_val")
            own = self._symbols.get(_plain_symbol(label) or label)
            if own is None or not isinstance(most, int) or most >= _UNBOUNDED:
                continue
            if own.is_number and own > most:
                raise DimensionError(
                    f"{self.name}: the dimension {clip(label)} was exported up to {most}, not {own}"
                )
            found.append((own, most))
        return tuple(dict.fromkeys(found))

    # --- values

    def _format(self, meta: Mapping[str, Any]) -> str:
        found = FORMATS.get(_int(meta["dtype"]))
        if found is None:
            raise ModelError(f"{self.name}: elements of unknown type {clip(meta['dtype'])}")
        return found

    def _tensor(self, scope: _Scope, name: str) -> tuple[tuple[Expr, ...], str]:
        meta = scope.graph["tensor_values"][name]
        return tuple(self._size(d) for d in meta["sizes"]), self._format(meta)

    def _sources(self) -> tuple[dict[str, Source], list[str]]:
        """Inputs and stored values by name, and the names of persistent buffers."""
        specs = {}
        for item in self.signature["input_specs"]:
            kind, spec = _union(item)
            specs[_argument_name(spec)] = (kind, spec)
        sources: dict[str, Source] = {}
        buffers: list[str] = []
        for item in self.top.graph["inputs"]:
            kind, value = _union(item)
            if kind != "as_tensor":
                continue
            shape, form = self._tensor(self.top, value["name"])
            role, label = _role(*specs[value["name"]])
            stored = role != "input"
            label = self.shared.get(visible(label), visible(label)) if stored else visible(label)
            # A tensor under two names is one tensor: shared weights count once.
            known = stored and label in sources
            label = label if known else self._free(label)
            self.top.names[value["name"]] = label
            if known:
                continue
            sources[label] = Source(label, shape, form, role)
            if role == "weight" and specs[value["name"]][0] == "buffer":
                buffers.append(label)
        return sources, buffers

    def _outputs(self) -> tuple[str, ...]:
        """Results, and values that update a buffer or an input: these are results all the same."""
        found = []
        for item in self.signature["output_specs"]:
            kind, spec = _union(item)
            argument = spec["arg"]
            if kind == "user_output":
                inner, argument = _union(argument)
                if inner not in ("as_tensor", "as_tensors"):
                    continue
            elif not kind.endswith("_mutation"):
                continue
            listed = argument if isinstance(argument, list) else [argument]
            found += [self.top.names[a["name"]] for a in listed]
        return tuple(dict.fromkeys(found))

    # --- nodes

    def _node(self, scope: _Scope, node: Mapping[str, Any], index: int) -> None:
        library, operator = _operator(node["target"])
        if operator.startswith(_SILENT) and library == "aten":
            return
        outputs = [name for item in node["outputs"] for name in _tensors(item)]
        named = node.get("name") or next(filter(None, outputs), f"node_{index}")
        label = scope.prefix + visible(_text(named))
        if library == "higher_order" and operator in _WRAPPERS:
            self._inline(scope, node, operator, f"{label}_", outputs)
            return
        if not outputs and node["outputs"] and library in ("aten", "python"):
            return  # a number: its value stands in a table of the graph
        results = tuple(self._result(scope, name) for name in outputs)
        args, attributes = [], {}
        for item in node["inputs"]:
            key = _text(item["name"])
            if item["kind"] == 2:
                if key not in _PLACEMENT:
                    attributes[key] = self._argument(scope, item["arg"])
            else:
                args.append(self._argument(scope, item["arg"]))
        target = operator if library == "aten" else visible(_text(node["target"]))
        self.calls.append(Call(label, target, tuple(args), attributes, results, _module(node)))
        if len(self.calls) > MOST:
            raise ModelError(f"{self.name}: more than {MOST} operators")

    def _result(self, scope: _Scope, name: str | None) -> Result:
        if name is None or name not in scope.graph["tensor_values"]:
            return Result("")
        label = self._free(scope.prefix + visible(_text(name)))
        scope.names[name] = label
        return Result(label, *self._tensor(scope, name))

    def _free(self, label: str) -> str:
        """A name that no value has: a buffer may be called as the node that reads it."""
        while label in self.taken:
            label = f"{label}_"
        self.taken.add(label)
        return label

    def _inline(
        self,
        scope: _Scope,
        node: Mapping[str, Any],
        operator: str,
        prefix: str,
        outputs: Sequence[str | None],
    ) -> None:
        """The nodes of a graph that is called, in place of the call."""
        place = _WRAPPERS[operator]
        given = [item["arg"] for item in node["inputs"]]
        if operator == "wrap_with_autocast" and _union(given[2]) != ("as_bool", False):
            raise ModelError(
                f"{self.name}: a region of automatic mixed precision: its operators do not state "
                "their formats; export the model in the formats it runs in"
            )
        kind, value = _union(given[place])
        if kind != "as_graph":
            raise ModelError(f"{self.name}: {operator} without a graph")
        inner = _Scope(with_kinds(value["graph"]), prefix)
        for formal, actual in zip(inner.graph["inputs"], given[place + 1 :], strict=True):
            kind, value = _union(formal)
            if kind == "as_tensor":
                (name,) = _tensors(actual)
                inner.names[value["name"]] = scope.names[_text(name)]
            elif kind == "as_sym_int":
                inner.sizes[_text(value["as_name"])] = self._argument(scope, actual)
        for index, each in enumerate(inner.graph["nodes"]):
            self._node(inner, each, index)
        made = [name for item in inner.graph["outputs"] for name in _tensors(item)]
        for outer, name in zip(outputs, made, strict=True):
            if outer is not None and name is not None:
                scope.names[outer] = inner.names[name]

    # --- arguments

    def _argument(self, scope: _Scope, item: Any) -> Any:
        kind, value = _union(item)
        if kind == "as_none":
            return None
        if kind in ("as_tensor", "as_tensors", "as_optional_tensor", "as_optional_tensors"):
            names = [None if n is None else Ref(scope.names[n]) for n in _tensors(item)]
            return tuple(names) if kind.endswith("s") else names[0]
        if kind == "as_nested_tensors":
            return tuple(tuple(Ref(scope.names[t["name"]]) for t in row) for row in value)
        if kind in ("as_int", "as_bool", "as_string"):
            return _scalar(value)
        if kind == "as_float":
            return _float(value)
        if kind in ("as_ints", "as_bools", "as_strings"):
            return tuple(_scalar(v) for v in value)
        if kind == "as_floats":
            return tuple(_float(v) for v in value)
        if kind in ("as_int_lists", "as_float_lists"):
            read = _scalar if kind == "as_int_lists" else _float
            return tuple(tuple(read(v) for v in row) for row in value)
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            return self._number(scope, value)
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
            return tuple(self._number(scope, v) for v in value)
        if kind == "as_scalar_type":
            return f"torch.{FORMATS.get(_int(value), 'unknown')}"
        if kind in _NAMED_ONLY:
            return kind.removeprefix("as_")
        raise ModelError(f"{self.name}: an argument of kind {clip(kind)} is not understood")

    def _number(self, scope: _Scope, item: Any) -> Any:
        """A number that is stated, or named in a table of the graph."""
        kind, value = _union(item)
        if kind != "as_name":
            return _scalar(value)
        if value in scope.sizes:
            return scope.sizes[value]
        for table in ("sym_int_values", "sym_float_values", "sym_bool_values"):
            found = (scope.graph.get(table) or {}).get(value)
            if found is not None:
                kind, stated = _union(found)
                if kind == "as_expr":
                    return self._expression(stated["expr_str"])
                return _scalar(stated)
        raise ModelError(f"{self.name}: the number {clip(value)} is nowhere stated")


def _union(item: Any) -> tuple[str, Any]:
    """The kind and the value of a choice: a table with one key that is set."""
    found = [(k, v) for k, v in item.items() if v is not None]
    if len(found) != 1:
        raise ValueError(f"a choice of {len(found)} values")
    return found[0]


def _tensors(item: Any) -> Iterator[str | None]:
    """Names of the tensors in an argument or a result, in order; None where one is left out."""
    kind, value = _union(item)
    if kind in ("as_tensor", "as_optional_tensor"):
        kind, value = _union(value) if kind == "as_optional_tensor" else (kind, value)
        yield None if kind == "as_none" else _text(value["name"])
    elif kind == "as_tensors":
        for tensor in value:
            yield _text(tensor["name"])
    elif kind == "as_optional_tensors":
        for tensor in value:
            kind, inner = _union(tensor)
            yield None if kind == "as_none" else _text(inner["name"])
    elif kind == "as_none":
        yield None


def _argument_name(spec: Mapping[str, Any]) -> str:
    """The input that a specification is about."""
    if "name" in spec:
        return _text(spec["name"])
    argument = spec["arg"]
    if "name" in argument:
        return _text(argument["name"])
    _, value = _union(argument)
    named = isinstance(value, Mapping)
    return _text(value.get("name") or value.get("as_name") or "") if named else ""


def _role(kind: str, spec: Mapping[str, Any]) -> tuple[str, str]:
    """The role of an input and its name in the module."""
    if kind == "parameter":
        return "weight", _text(spec["parameter_name"])
    if kind == "buffer":
        return "weight" if spec["persistent"] else "table", _text(spec["buffer_name"])
    if kind == "tensor_constant":
        return "table", _text(spec["tensor_constant_name"])
    return "input", _argument_name(spec)


def _operator(target: Any) -> tuple[str, str]:
    """Library and operator: ``torch.ops.aten.add.Tensor`` is ``add`` of ``aten``."""
    parts = _text(target).split(".")
    if parts[:2] == ["torch", "ops"] and len(parts) > 3:
        return parts[2], parts[3]
    if parts[:2] == ["torch", "ops"] and len(parts) == 3:
        return "", parts[2]
    if parts[0] in ("_operator", "math") or parts[:2] == ["torch", parts[-1]]:
        return "python", parts[-1]
    return "", _text(target)


def _module(node: Mapping[str, Any]) -> str:
    """The module that a node belongs to: entries ``key,path,class``, outermost first."""
    stack = (node.get("metadata") or {}).get("nn_module_stack") or ""
    path = ""
    for entry in _text(stack).split(";"):
        parts = entry.split(",")
        if len(parts) >= 3 and not parts[0].startswith("_empty"):
            path = parts[1]
    return visible(path.removeprefix("L['self']."))


def _plain_symbol(text: str) -> str:
    """The name in a size that is a symbol alone; empty for any other."""
    found: list[str] = []

    def named(label: str) -> Expr:
        from costgraph.symbols import symbol

        found.append(label)
        return symbol(label)

    try:
        made = size(text, named)
    except (NotArithmetic, InputError):
        return ""
    return found[0] if made.is_Symbol and len(found) == 1 else ""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{clip(value, 30)} is no text")
    return value


def _int(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{clip(value, 30)} is no whole number")
    return value


def _float(value: Any) -> float:
    """A float; what JSON has no number for is written as a text."""
    if value in ("Infinity", "-Infinity", "NaN"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{clip(value, 30)} is no number")
    return float(value)


def _scalar(value: Any) -> Any:
    """A number or a text as an argument."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, (bool, float)):
        return value
    if abs(_int(value)) > 2**64:
        raise ValueError("a whole number of more than 64 bits")
    return value
