"""The neutral form of a traced graph: what an exporter wrote down, and no more.

A :class:`Traced` lists calls of operators in execution order under the names of
their own dialect (``aten`` or ``onnx``). It can be written as JSON and read back,
so that an importer can be tested without the framework that made the trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sympy import Expr, Integer

#: Most values and calls of a traced graph.
MOST = 500_000


@dataclass(frozen=True)
class Ref:
    """An argument that is a value of the graph."""

    name: str


@dataclass(frozen=True)
class Source:
    """A value that no call makes.

    Attributes:
        name: unique in the graph.
        shape: dimensions, numbers or expressions.
        dtype: as in :data:`costgraph.models.traced.formats.FORMATS`.
        role: ``input``, ``weight`` (stored with the model) or ``table`` (a small
            array made when the model is loaded).
        values: elements in row-major order, where they are few and known.
    """

    name: str
    shape: tuple[Expr, ...]
    dtype: str
    role: str = "input"
    values: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class Result:
    """A result of a call; shape and format where the exporter states them."""

    name: str
    shape: tuple[Expr, ...] | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Call:
    """One operator applied.

    Attributes:
        name: unique in the graph.
        target: the operator, in the words of the dialect.
        args: values, numbers, texts, None, and tuples of these, by position.
        attributes: the same, by name.
        results: what it makes; an empty name stands for a result that is not used.
        scope: the module that the call belongs to (``layers.0.mlp``), if known.
    """

    name: str
    target: str
    args: tuple[Any, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    results: tuple[Result, ...] = ()
    scope: str = ""


@dataclass(frozen=True)
class Branch:
    """A graph inside an operator, which sees the values around it.

    Attributes:
        sources, calls, outputs: as in :class:`Traced`.
        inputs: names of what the operator hands in.
    """

    sources: tuple[Source, ...]
    calls: tuple[Call, ...]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Traced:
    """A traced graph.

    Attributes:
        name: the model.
        dialect: ``aten`` or ``onnx``.
        version: of the operator set, or 0.
        sources: inputs and stored values.
        calls: in execution order.
        outputs: names of the results.
        notes: remarks of the importer.
        bounds: dimensions and the largest value for which the graph was written down.
        buffers: names of stored values that are no parameters of the exporter's.
    """

    name: str
    dialect: str
    version: int
    sources: tuple[Source, ...]
    calls: tuple[Call, ...]
    outputs: tuple[str, ...]
    notes: tuple[str, ...] = ()
    bounds: tuple[tuple[Expr, int], ...] = ()
    buffers: tuple[str, ...] = ()


def used(call: Call) -> Iterator[str]:
    """Names of the values that a call uses, those of graphs inside it included."""
    yield from references(call.args)
    for item in call.attributes.values():
        if isinstance(item, Branch):
            for inner in item.calls:
                yield from used(inner)
            yield from item.outputs


def alternatives(traced: Traced) -> tuple[Traced, ...]:
    """Both graphs that the truth value of an input chooses between by an ``If``, or the only one.

    Exporters put the step that makes caches and the one that finds them into one file so.
    """
    chosen = {
        call.args[0].name
        for call in traced.calls
        if call.target == "If" and call.args and isinstance(call.args[0], Ref)
    }
    found = [s for s in traced.sources if s.role == "input" and s.name in chosen]
    if len(found) != 1 or found[0].dtype != "bool":
        return (traced,)
    return tuple(_said(traced, found[0], value) for value in (0, 1))


def _said(traced: Traced, source: Source, value: int) -> Traced:
    told = replace(source, role="table", values=(Integer(value),))
    sources = tuple(told if s is source else s for s in traced.sources)
    return replace(traced, sources=sources)


def around(branch: Branch) -> tuple[str, ...]:
    """Names of values around a graph that it uses, each once."""
    own = {s.name for s in branch.sources} | set(branch.inputs)
    own |= {r.name for call in branch.calls for r in call.results}
    inner = (name for call in branch.calls for name in used(call))
    return tuple(dict.fromkeys(n for n in (*inner, *branch.outputs) if n not in own))


def references(value: Any) -> Iterator[str]:
    """Names of the values in an argument."""
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from references(item)
