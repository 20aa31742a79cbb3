"""Models for a reader: the list of what is shipped, and one model's structure and constants."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from sympy import Expr, Integer, Min, expand

from costgraph.errors import InputError
from costgraph.ir.graph import Graph
from costgraph.ir.op import Op
from costgraph.ir.program import Program
from costgraph.ir.regions import Region, Repeat
from costgraph.progress import counted
from costgraph.showing.export.records import print_data
from costgraph.showing.export.table import si
from costgraph.showing.export.terminal import print_table, width
from costgraph.showing.export.text import expr_text, sstr
from costgraph.symbols import MEANINGS, B, T, q, symbol


def cache_per_sequence(graph: Graph) -> Expr:
    """Bytes of caches of one sequence at context ``T``, after a step of one token."""
    from costgraph.counting.footprint import cache_bytes
    from costgraph.formula.least import folded

    return expand(folded(cache_bytes(graph).xreplace({q: Integer(1)})) / B)


def growth(cache: Expr) -> list[tuple[int, int | None]]:
    """(byte per token, context up to which it holds), None for no end."""
    window = {m: w for m in cache.atoms(Min) for w in m.args if w.is_Integer}
    ends = sorted({int(w) for w in window.values()})
    found: list[tuple[int, int | None]] = []
    for index, end in enumerate((*ends, None)):
        passed = ends[:index]
        values = {m: w if int(w) in passed else T for m, w in window.items()}
        found.append((int(expand(cache.xreplace(values)).coeff(T, 1)), end))
    return found


def growth_data(cache: Expr) -> dict[str, Any]:
    """Byte per token as a number, and by the end of each window what it is past that."""
    (first, end), *later = growth(cache)
    past = {}
    for slope, next_end in later:
        past[str(end)], end = slope, next_end
    return {"kv_bytes_per_token": first, "kv_bytes_per_token_past": past}


def growth_text(of: Mapping[str, Any]) -> str:
    """``507,904; 81,920 past 1,024`` byte per token, of :func:`growth_data`."""
    past = [f"{slope:,} past {int(end):,}" for end, slope in of["kv_bytes_per_token_past"].items()]
    return "; ".join([f"{of['kv_bytes_per_token']:,}", *past])


def context_text(of: Mapping[str, Any]) -> str:
    """Positions that a model's file states, ``131,072``; a dash where it states none."""
    return f"{of['context']:,}" if of["context"] else "–"


def _parameters(program: Program) -> int:
    from costgraph.counting.count import parameters

    return int(parameters(program))


def list_models(how: str) -> None:
    """Every shipped configuration with its size, cache and context, and the known families."""
    from costgraph.models import entries, load_model, model_names
    from costgraph.models.catalog import config_of
    from costgraph.models.families import FAMILIES
    from costgraph.models.positions import context_of

    index = entries()
    found: list[dict[str, Any]] = []
    for name in counted(model_names(), "models counted"):
        config = config_of(name)
        program = load_model(name)
        cache = cache_per_sequence(program.phases[-1].graph)
        found.append(
            {
                "name": name,
                "title": index[name].title,
                "family": config.get("model_type") or config.get("_class_name"),
                "parameters": _parameters(program),
                **growth_data(cache),
                "kv_bytes": sstr(cache),
                "context": context_of(config),
                "hub": list(index[name].hub),
                "source": index[name].source,
            }
        )
    if print_data(found, how):
        return
    cells = [
        (
            m["name"],
            m["title"],
            m["family"],
            si(m["parameters"]),
            growth_text(m),
            context_text(m),
        )
        for m in found
    ]
    head = ("name", "model", "family", "parameters", "KV byte/token", "context")
    print_table(head, cells, optional=("family", "model", "KV byte/token"))
    print()
    print(_wrapped("families: ", sorted(FAMILIES)))


def _wrapped(title: str, names: list[str]) -> str:
    return textwrap.fill(
        title + ", ".join(names),
        min(width() or 96, 96),
        subsequent_indent=" " * len(title),
        break_on_hyphens=False,
    )


def show_model(name: str, how: str, **options: Any) -> tuple[str, ...]:
    """One model: layers, derived constants as formulas, and the operations of its step.

    Returns:
        Remarks on how the configuration was read.
    """
    from costgraph.counting.count import rows
    from costgraph.models import load_model

    program = load_model(name, **options)
    # What generates tokens is the last phase's graph; encoders have only one.
    graph = program.phases[-1].graph
    cache = cache_per_sequence(graph)
    constants = derived(name)
    found = rows(graph)
    if how != "text":
        print_data(
            {
                "name": program.name,
                "parameters": _parameters(program),
                **growth_data(cache),
                "kv_bytes": sstr(cache),
                "constants": constants,
                "layers": list(structure(graph)),
                "assumptions": list(program.assumptions),
                "ops": [
                    {
                        "name": r.name,
                        "kind": r.kind,
                        "count": str(r.count),
                        "results": [str(t) for t in r.node.outputs],
                        "flops": str(r.cost.total_flops),
                        "bytes": str(r.cost.total_bytes),
                    }
                    for r in found
                ],
            },
            how,
            "ops",
        )
        return program.notes
    print(f"{program.name}: {_parameters(program):,} parameters")
    print("\nlayers")
    for line in structure(graph):
        print(f"    {line}")
    print("\nconstants")
    for line in constants or [f"caches = {expr_text(cache)} byte per sequence"]:
        print(f"    {line}")
    print()
    cells = [
        (
            r.name,
            r.kind,
            str(r.count),
            ", ".join(f"{t.dtype}[{', '.join(map(sstr, t.shape))}]" for t in r.node.outputs),
            sstr(r.cost.total_flops),
            sstr(r.cost.total_bytes),
        )
        for r in found
    ]
    head = ("op", "kind", "count", "result", "FLOP", "bytes")
    print_table(head, cells, optional=("kind", "result"))
    return program.notes


def structure(graph: Graph, depth: int = 0) -> Iterator[str]:
    """Regions of a graph, one a line: name, count, and what is special inside.

    Bodies that run at once are a line each under their region.
    """
    pad = "    " * depth
    for node in graph.nodes:
        if not isinstance(node.op, Region):
            continue
        on = f" on {node.unit}" if node.unit else ""
        if isinstance(node.op, Repeat):
            head = f"{node.name} × {sstr(node.op.count)}{on}"
            yield from _described(node.op.body, head, depth)
            continue
        yield f"{pad}{node.name}{on}: {len(node.op.graphs)} at once"
        for label, unit, body in zip(node.op.labels, node.op.units, node.op.graphs, strict=True):
            yield from _described(body, f"{label} on {unit}" if unit else label, depth + 1)


def _described(body: Graph, head: str, depth: int) -> Iterator[str]:
    """What a region's graph holds: its regions a line each, else the kinds of its operations."""
    pad = "    " * depth
    if any(isinstance(n.op, Region) for n in body.nodes):
        yield f"{pad}{head}:"
        yield from structure(body, depth + 1)
        return
    kinds = dict.fromkeys(f"{n.op.kind}{_told(n.op)}" for n in body.nodes)
    patterns = (getattr(n.op, "keeps", None) for n in body.nodes)
    dropping = sorted({str(p) for p in patterns if p is not None and p.drops})
    seen = f", {', '.join(dropping)}" if dropping else ""
    yield f"{pad}{head}{seen}: {', '.join(kinds)}"


def _told(op: Op) -> str:
    return f" ({op.told})" if op.told else ""


def derived(name: str) -> list[str]:
    """Dimensions, parameters and cache sizes as formulas with their values.

    Empty for models without symbolic dimensions.
    """
    from costgraph.counting.count import parameters
    from costgraph.models import load_model

    try:
        program = load_model(name, symbolic=True)
    except InputError:
        return []
    dims = dict(program.dims)
    lines = [
        f"{s.name} = {value} ({MEANINGS[s.name]})"
        for s, value in dims.items()
        if s.name in MEANINGS
    ]
    total = parameters(program.graph)
    lines.append(f"parameters = {_by_layer(total)} = {int(total.xreplace(dims)):,}")
    lines.extend(_cache_lines(program, dims))
    return lines


def _cache_lines(program: Program, dims: Mapping[Any, Expr]) -> Iterator[str]:
    cache = cache_per_sequence(program.graph)
    if cache == 0:
        return
    number = cache.xreplace(dict(dims))
    yield f"caches = {_by_layer(cache)} = {expr_text(number)} byte per sequence"
    yield f"caches grow by {growth_text(growth_data(number))} byte per token"


def _by_layer(expr: Expr) -> str:
    """A formula affine in the number of layers, what belongs to each layer together."""
    layers = symbol("L")
    whole = expand(expr)
    each = whole.coeff(layers, 1)
    rest = expand(whole - each * layers)
    if each == 0 or rest.has(layers):
        return expr_text(whole)
    body = expr_text(each)
    shown = f"L·({body})" if " " in body else f"L·{body}"
    if rest == 0:
        return shown
    text = expr_text(rest)
    return f"{shown} - {text[1:]}" if text.startswith("-") else f"{shown} + {text}"
