"""Traced graphs as JSON, and back."""

from __future__ import annotations

from typing import Any

from sympy import Add, Expr, Integer, Max, Min, Mul, Pow, Symbol, floor

from costgraph.errors import ModelError, clip
from costgraph.models.traced.record import MOST, Branch, Call, Ref, Result, Source, Traced
from costgraph.quoting import visible
from costgraph.symbols import symbol

FORMAT = "costgraph-traced"
VERSION = 1
_FUNCTIONS: dict[str, Any] = {
    "add": Add,
    "mul": Mul,
    "pow": Pow,
    "max": Max,
    "min": Min,
    "floor": floor,
}
_DEPTH = 40


def to_json(graph: Traced) -> dict[str, Any]:
    """The graph as plain values."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": graph.name,
        "dialect": graph.dialect,
        "opset": graph.version,
        "notes": list(graph.notes),
        **({"bounds": [[_expr(e), most] for e, most in graph.bounds]} if graph.bounds else {}),
        **({"buffers": list(graph.buffers)} if graph.buffers else {}),
        "sources": [
            {
                "name": s.name,
                "shape": [_expr(d) for d in s.shape],
                "dtype": s.dtype,
                "role": s.role,
                **({} if s.values is None else {"values": [_plain(v) for v in s.values]}),
            }
            for s in graph.sources
        ],
        "calls": [
            {
                "name": c.name,
                "target": c.target,
                "args": [_plain(a) for a in c.args],
                **(
                    {"attributes": {k: _plain(v) for k, v in c.attributes.items()}}
                    if c.attributes
                    else {}
                ),
                "results": [
                    [
                        r.name,
                        None if r.shape is None else [_expr(d) for d in r.shape],
                        r.dtype,
                    ]
                    for r in c.results
                ],
                **({"scope": c.scope} if c.scope else {}),
            }
            for c in graph.calls
        ],
        "outputs": list(graph.outputs),
    }


def _expr(e: Expr) -> Any:
    if e.is_Integer:
        return int(e)
    if e.is_Rational:
        return {"ratio": [int(e.p), int(e.q)]}
    if isinstance(e, Symbol):
        return {"symbol": e.name}
    for name, function in _FUNCTIONS.items():
        if e.func is function:
            return {name: [_expr(a) for a in e.args]}
    raise ModelError(f"the dimension {clip(str(e))} cannot be written down")


def _plain(value: Any) -> Any:
    if isinstance(value, Ref):
        return {"ref": value.name}
    if isinstance(value, Expr):
        return {"expr": _expr(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, Branch):
        raise ModelError("a traced graph with graphs inside operators cannot be written down")
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return {"float": str(value)}
    return value


def from_json(value: Any) -> Traced:
    """The graph that :func:`to_json` wrote.

    Raises:
        ModelError: the value is not such a graph.
    """
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ModelError(f"not a traced graph: 'format' must be {FORMAT!r}")
    if value.get("version") != VERSION:
        raise ModelError(f"traced graph of version {clip(value.get('version'))}, not {VERSION}")
    try:
        if len(value["calls"]) > MOST or len(value["sources"]) > MOST:
            raise ModelError(f"a traced graph of more than {MOST} calls")
        return Traced(
            _text(value["name"]),
            _text(value["dialect"]),
            int(value["opset"]),
            tuple(
                Source(
                    _text(s["name"]),
                    _shape(s["shape"]),
                    _text(s["dtype"]),
                    _text(s["role"]),
                    None if "values" not in s else tuple(_read(v) for v in s["values"]),
                )
                for s in value["sources"]
            ),
            tuple(
                Call(
                    _text(c["name"]),
                    _text(c["target"]),
                    tuple(_read(a) for a in c["args"]),
                    {_text(k): _read(v) for k, v in c.get("attributes", {}).items()},
                    tuple(
                        Result(
                            _text(name),
                            None if shape is None else _shape(shape),
                            None if kind is None else _text(kind),
                        )
                        for name, shape, kind in c["results"]
                    ),
                    _text(c.get("scope", "")),
                )
                for c in value["calls"]
            ),
            tuple(_text(o) for o in value["outputs"]),
            tuple(_text(n) for n in value.get("notes", ())),
            tuple((_dimension(e), _whole(most)) for e, most in value.get("bounds", ())),
            tuple(_text(n) for n in value.get("buffers", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"not a traced graph: {type(error).__name__}: {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ModelError(f"not a traced graph: {clip(value)} should be a text")
    return visible(value)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ModelError(f"not a traced graph: {clip(value)} should be a whole number")
    return value


def _shape(value: Any) -> tuple[Expr, ...]:
    return tuple(_dimension(v) for v in value)


def _dimension(value: Any, depth: int = 0) -> Expr:
    if isinstance(value, bool) or depth > _DEPTH:
        raise ModelError(f"not a traced graph: {clip(value)} is no dimension")
    if isinstance(value, int):
        return Integer(value)
    if isinstance(value, dict) and len(value) == 1:
        ((kind, inner),) = value.items()
        if kind == "symbol":
            return symbol(_text(inner))
        if kind == "ratio":
            return Integer(int(inner[0])) / Integer(int(inner[1]))
        if kind in _FUNCTIONS:
            args = [_dimension(v, depth + 1) for v in inner]
            if kind == "pow" and not (len(args) == 2 and args[1].is_Integer and abs(args[1]) < 9):
                raise ModelError(f"not a traced graph: {clip(value)} is no dimension")
            made: Expr = _FUNCTIONS[kind](*args)
            return made
    raise ModelError(f"not a traced graph: {clip(value)} is no dimension")


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_read(v) for v in value)
    if isinstance(value, dict) and len(value) == 1:
        ((kind, inner),) = value.items()
        if kind == "ref":
            return Ref(_text(inner))
        if kind == "expr":
            return _dimension(inner)
        if kind == "float":
            return float(inner)
        raise ModelError(f"not a traced graph: {clip(value)} is no argument")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ModelError(f"not a traced graph: {clip(value)} is no argument")
