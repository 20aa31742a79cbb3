"""Importing programs of ``torch.export``.

A program is first written down as a neutral traced graph: one in memory by
:func:`trace`, one in a ``.pt2`` file by :func:`costgraph.models.pt2_file.read_pt2`, which
needs no PyTorch. Both come by the same form, in which PyTorch itself saves programs.
Weights count by their shapes and formats; their values are never looked at.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

from costgraph.errors import ModelError, clip
from costgraph.files import outside
from costgraph.ir.program import Program
from costgraph.models.pt2_file import read_pt2, shared_places
from costgraph.models.traced.codec import from_json
from costgraph.models.traced.exported import read_exported
from costgraph.models.traced.formats import DimensionError, Dimensions
from costgraph.models.traced.inplace import functional
from costgraph.models.traced.lowering import UnknownOperators
from costgraph.models.traced.program import program_of
from costgraph.models.traced.record import Traced

LARGEST_JSON = 64 * 2**20
#: Rounds of decomposing what has no rule, before everything is decomposed.
_ROUNDS = 4

Symbols = Mapping[str, Any]


def from_torch(
    exported: Any,
    dims: Symbols | None = None,
    *,
    symbols: Symbols | None = None,
    name: str = "model",
    mask: str = "skip",
    recognise: bool = True,
) -> Program:
    """A program of one ``forward`` phase from an ``ExportedProgram``.

    Operators without a rule are decomposed by PyTorch (``run_decompositions``), those
    first and, if that does not do, all; a note says so.

    Args:
        exported: what ``torch.export.export`` returned, or a
            :class:`~costgraph.models.traced.Traced` made from it.
        dims: dynamic dimensions to a symbol, a number or a size such as ``T + 1``, for
            example ``{"batch": "B", "seq": "S"}``: by the name given to
            ``torch.export.Dim``, or by PyTorch's own name (``s0``). As for
            :func:`costgraph.models.onnx_graph.from_onnx`, usual names need no entry.
        symbols: another name of ``dims``.
        name: what to call the model.
        mask, recognise: see there.

    Raises:
        ModelError: the program holds an operator without a rule.
    """
    from costgraph.models.traced.aten import DIALECT

    def read(traced: Traced) -> Program:
        return program_of(traced, DIALECT, mask, recognise)

    if isinstance(exported, Traced):
        return read(exported)
    return _readable(exported, {**(dims or {}), **(symbols or {})}, name, read)


#: The same under the name that other loaders follow.
load_traced = from_torch


def read_traced(path: Path, name: str = "") -> Traced:
    """A traced graph written as JSON (:func:`costgraph.models.traced.codec.to_json`).

    Raises:
        ModelError: the file cannot be read or holds something else.
    """
    return from_json(outside.read_json(path, LARGEST_JSON, "a traced graph", ModelError))


def load_pt2(path: str | os.PathLike[str], dims: Symbols | None = None, **options: Any) -> Program:
    """A program from a file written by ``torch.export.save``; nothing in it is run.

    Arguments as for :func:`from_torch`; dimensions go by PyTorch's names (``s0``), since a
    file holds no others.

    Raises:
        ModelError: the file is not such a program, or holds an operator without a rule.
    """
    given = {**(dims or {}), **(options.pop("symbols", None) or {})}
    traced = read_pt2(path, Dimensions(given), options.pop("name", ""))
    try:
        return from_torch(traced, **options)
    except UnknownOperators as error:
        raise ModelError(
            f"{error}; a file is not decomposed: save exported.run_decompositions() instead"
        ) from None


def trace(exported: Any, dims: Symbols | None = None, name: str = "model") -> Traced:
    """The neutral form of an ``ExportedProgram``.

    Raises:
        ModelError: a dimension cannot be expressed, or the program is of no known form.
    """
    if not hasattr(exported, "graph_signature") or not hasattr(exported, "graph"):
        raise ModelError(f"{clip(type(exported).__name__)} is not a program of torch.export")
    document = _written_down(exported, name)
    labels, shared = _stated_names(exported), _shared(exported)
    return functional(read_exported(document, Dimensions(dims), name, labels, shared))


def _readable(
    exported: Any, given: Symbols, name: str, read: Callable[[Traced], Program]
) -> Program:
    """What ``read`` makes of the program, after decompositions where it cannot without.

    PyTorch first decomposes only what has no rule, so that the other operators keep what
    they say by being whole; in the end it decomposes all.
    """
    first: ModelError | None = None
    missing: frozenset[str] | None = frozenset()
    for step in range(_ROUNDS + 2):
        try:
            program = _decomposed(exported, missing) if step else exported
            made = read(trace(program, given, name))
        except DimensionError:
            raise
        except ModelError as error:
            first = first or error
            if missing is None:
                break
            new = missing | error.targets if isinstance(error, UnknownOperators) else missing
            # The first repetition may decompose nothing: PyTorch only writes the program anew.
            missing = new if step < _ROUNDS and (new != missing or not step) else None
            continue
        if first is not None:
            how = "all operators" if missing is None else ", ".join(sorted(missing)) or "nothing"
            note = f"read after PyTorch decomposed {how}, since: {clip(str(first), 200)[1:-1]}"
            made = dataclasses.replace(made, notes=(*made.notes, note))
        return made
    assert first is not None
    raise first


def _decomposed(exported: Any, operators: Collection[str] | None) -> Any:
    """The program, written anew by PyTorch with these operators decomposed, or with all.

    Raises:
        ModelError: PyTorch cannot do it.
    """
    from torch.export import default_decompositions

    table = None
    if operators is not None:
        names = {*operators, *(f"{o}_" for o in operators)}
        known: Any = default_decompositions() if operators else {}
        table = {op: how for op, how in known.items() if _operator_name(op) in names}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return exported.run_decompositions(table)
    except Exception as error:
        # PyTorch traces the program anew, and whatever it cannot trace has its own error.
        reason = clip(f"{type(error).__name__}: {error}".splitlines()[0], 120)[1:-1]
        raise ModelError(f"PyTorch cannot decompose the program: {reason}") from None


def _operator_name(operator: Any) -> str:
    """``aten.diff.default`` as ``diff``; operators of other libraries by their whole name."""
    library, _, rest = str(operator).partition(".")
    return rest.partition(".")[0] if library == "aten" else f"torch.ops.{operator}"


def _written_down(exported: Any, name: str) -> dict[str, Any]:
    """The program as PyTorch saves it, without weights and sample inputs."""
    try:
        from torch._export.serde import schema, serialize
    except ImportError:
        raise ModelError("exported programs need: pip install 'costgraph[torch]'") from None
    try:
        writer = serialize.GraphModuleSerializer(exported.graph_signature, [])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = writer.serialize(exported.graph_module)
            ranges = serialize.serialize_range_constraints(exported.range_constraints)
    except Exception as error:
        # PyTorch wraps what it cannot write in one class, with a traceback as its text.
        cause = error.__cause__ or error
        reason = clip(f"{type(cause).__name__}: {cause}".splitlines()[0], 160)[1:-1]
        raise ModelError(f"{name}: PyTorch cannot write the program down: {reason}") from None
    import torch

    major, minor = schema.SCHEMA_VERSION
    return {
        "graph_module": _plain(module),
        "range_constraints": _plain(ranges),
        "schema_version": {"major": major, "minor": minor},
        "torch_version": str(torch.__version__),
    }


def _plain(value: Any) -> Any:
    """Objects of the schema as what JSON holds."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        choice: Any = value
        if hasattr(type(value), "create"):
            return {str(choice.type): _plain(choice.value)}
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return int(value) if isinstance(value, IntEnum) else value


def _stated_names(exported: Any) -> dict[str, str]:
    """PyTorch's symbols and the names that ``torch.export.Dim`` gave them."""
    found: dict[str, str] = {}
    for size in _dynamic(exported):
        environment = size.node.shape_env
        given = getattr(environment, "source_name_to_debug_name", None) or {}
        places = getattr(environment, "var_to_sources", None) or {}
        for place in places.get(size.node.expr, ()):
            label = place.name if isinstance(place.name, str) else place.name()
            if label in given:
                found.setdefault(str(size.node.expr), str(given[label]))
    return found


def _dynamic(exported: Any) -> Iterator[Any]:
    """The sizes of operands that are symbols."""
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and hasattr(value, "shape"):
            for size in value.shape:
                if not isinstance(size, int) and size.node.expr.is_Symbol:
                    yield size


def _shared(exported: Any) -> dict[str, str]:
    """Weights that are another's memory, to the first of that memory."""
    return shared_places(
        (name, (tensor.untyped_storage()._cdata, tensor.storage_offset(), tuple(tensor.shape)))
        for name, tensor in exported.state_dict.items()
        if hasattr(tensor, "untyped_storage")
    )
