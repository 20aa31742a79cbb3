"""The invariants that every graph and program holds."""

from __future__ import annotations

from sympy import Expr, Symbol

from costgraph.errors import VerifyError
from costgraph.formula.envelope import dominates
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Tensors, same, same_shape
from costgraph.ir.program import Phase, Program
from costgraph.ir.regions import Parallel, Region, Repeat
from costgraph.symbols import SIZES, T, q


def verify_program(program: Program) -> None:
    """Check every phase's graph, and that phases and names make sense.

    A step's new positions are part of its context: ``q <= T`` for all sizes within the
    program's limits, or pairs would be counted that are not there.

    Raises:
        VerifyError: an invariant is broken; the text says where.
    """
    names = [p.name for p in program.phases]
    if len(set(names)) != len(names):
        raise VerifyError(f"{program.name}: two phases share a name: {', '.join(names)}")
    if not names:
        raise VerifyError(f"{program.name}: a program needs a phase")
    checked: set[int] = set()
    # Sizes that limits keep above one, counted from their least value.
    least = {
        x.bound: x.bound + x.expr - 1
        for x in program.limits
        if isinstance(x.bound, Symbol) and x.bound not in x.expr.free_symbols
    }
    for phase in program.phases:
        if id(phase.graph) not in checked:
            verify(phase.graph)
            checked.add(id(phase.graph))
        new, context = (
            _from_one(_reached(phase, phase.bind(symbol)).xreplace(least)) for symbol in (q, T)
        )
        if not dominates(context, new) and _attends(phase.graph):
            raise VerifyError(
                f"{program.name}: phase {phase.name!r} processes {phase.bind(q)} positions at a "
                f"context of {phase.bind(T)}, which may be shorter"
            )


def _reached(phase: Phase, length: Expr) -> Expr:
    """A length with contexts counted from where the phase's steps begin."""
    span = phase.span
    return length if span is None else length.xreplace({span.symbol: span.lower - 1 + span.symbol})


def _from_one(length: Expr) -> Expr:
    """A length with the symbols of options, drafted tokens say, taken to be at least one."""
    options = [s for s in length.free_symbols if s.name not in SIZES]
    return length.xreplace({s: s + 1 for s in options})


def _attends(graph: Graph) -> bool:
    """True if some tensor of the graph is as long as the context."""
    tensors = (t for inner in graph.walk() for t in inner.tensors.values())
    return any(T in size.free_symbols for t in tensors for size in t.shape)


def verify(graph: Graph) -> None:
    """Check one graph, regions included.

    Invariants: each tensor has one producer; producers come before consumers
    (hence no cycles); every operand exists; stated results are what the
    operation infers; outputs exist; a region's carried operands match its
    carried results.

    A graph never changes, so it is checked once: passes hand on most bodies as they are.

    Raises:
        VerifyError: an invariant is broken; the text names the node.
    """
    graph.once(_check)


def _check(graph: Graph) -> None:
    made: set[str] = set()
    for tensor in graph.sources:
        if tensor.name in made:
            raise VerifyError(f"{graph.name}: source {tensor.name!r} is declared twice")
        made.add(tensor.name)
    nodes: set[str] = set()
    for node in graph.nodes:
        if node.name in nodes:
            raise VerifyError(f"{graph.name}: two nodes are called {node.name!r}")
        nodes.add(node.name)
        for name in node.inputs:
            if name not in made:
                raise VerifyError(
                    f"{graph.name}: node {node.name!r} uses {name!r} before anything makes it"
                )
        for tensor in node.outputs:
            if tensor.name in made:
                raise VerifyError(f"{graph.name}: tensor {tensor.name!r} has two producers")
            made.add(tensor.name)
        _check_results(graph, node)
        if isinstance(node.op, Region):
            _check_region(graph, node, node.op)
    for name in graph.outputs:
        if name not in made:
            raise VerifyError(f"{graph.name}: output {name!r} is never made")


def _check_results(graph: Graph, node: Node) -> None:
    try:
        specs = node.op.infer(graph.operands(node))
    except VerifyError as error:
        raise VerifyError(f"{graph.name}: node {node.name!r}: {error}") from error
    if len(specs) != len(node.outputs):
        raise VerifyError(
            f"{graph.name}: node {node.name!r} states {len(node.outputs)} results, "
            f"its operation makes {len(specs)}"
        )
    for spec, tensor in zip(specs, node.outputs, strict=True):
        if (
            not same_shape(spec.shape, tensor.shape)
            or spec.dtype != tensor.dtype
            or spec.role is not tensor.role
        ):
            raise VerifyError(
                f"{graph.name}: node {node.name!r} states {tensor}, its operation makes "
                f"{spec.named(tensor.name)}"
            )


def _check_region(graph: Graph, node: Node, region: Region) -> None:
    operands = graph.operands(node)
    used: set[int] = set()
    for body, takes in zip(region.graphs, region.takes, strict=True):
        verify(body)
        if len(takes) != len(body.inputs) or max(takes, default=-1) >= len(operands):
            raise VerifyError(
                f"{graph.name}: region {node.name!r} takes {len(body.inputs)} operands, "
                f"not {min(len(takes), len(operands))}"
            )
        used |= set(takes)
    if used != set(range(len(operands))):
        raise VerifyError(
            f"{graph.name}: region {node.name!r} takes {len(used)} operands, not {len(operands)}"
        )
    if isinstance(region, Repeat):
        _check_rounds(graph, node, region, operands)
    for body, seen in zip(region.graphs, region.given(operands), strict=True):
        for given, wanted in zip(seen, body.inputs, strict=True):
            if not same_shape(given.shape, wanted.shape):
                raise VerifyError(
                    f"{graph.name}: region {node.name!r} is given {given} for {wanted}"
                )
    if isinstance(region, Parallel):
        _check_bodies(graph, node, region)


def _check_rounds(graph: Graph, node: Node, region: Repeat, operands: Tensors) -> None:
    body = region.body
    if region.carried > min(len(body.inputs) - region.parts, len(body.outputs) - region.gathered):
        raise VerifyError(f"{graph.name}: region {node.name!r} carries more than it makes")
    if region.places and len(region.places) != region.count:
        raise VerifyError(
            f"{graph.name}: region {node.name!r} has {len(region.places)} places for "
            f"{region.count} layers"
        )
    for stacked in operands[len(operands) - region.parts :]:
        if not stacked.shape or not same(stacked.shape[0], region.count):
            raise VerifyError(
                f"{graph.name}: region {node.name!r} needs {region.count} parts of {stacked}"
            )
    for index in range(region.carried):
        start, result = body.inputs[index], body.tensors[body.outputs[index]]
        if not same_shape(start.shape, result.shape):
            raise VerifyError(
                f"{graph.name}: region {node.name!r} carries {result} back as {start}"
            )


def _check_bodies(graph: Graph, node: Node, region: Parallel) -> None:
    names = [b.name for b in region.bodies]
    if len(set(names)) < len(names):
        raise VerifyError(f"{graph.name}: region {node.name!r} has two bodies of one name")
    made = {t: b.name for b in region.bodies for t in b.graph.producer}
    for body in region.bodies:
        for tensor in body.graph.sources:
            maker = made.get(tensor.name)
            if maker is not None:
                raise VerifyError(
                    f"{graph.name}: region {node.name!r}: body {body.name!r} reads "
                    f"{tensor.name!r}, which body {maker!r} makes: it has to wait for it"
                )
