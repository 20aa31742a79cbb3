"""Graphs with their regions written out, for checking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sympy import Integer

from costgraph.errors import VerifyError
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.regions import Region, Repeat
from costgraph.ir.tensor import Tensor
from costgraph.ops.views import Reshape, Slice, Stack

ONE = Integer(1)


def unrolled(graph: Graph) -> Graph:
    """The graph with every region of concrete count written out, for checking.

    Raises:
        VerifyError: a region's count is not a concrete number.
    """
    sources = dict.fromkeys(graph.sources)
    nodes: list[Node] = []
    renames: dict[str, str] = {}
    for node in graph.nodes:
        inputs = tuple(renames.get(i, i) for i in node.inputs)
        region = node.op
        if not isinstance(region, Region):
            nodes.append(replace(node, inputs=inputs))
            continue
        if not region.times.is_Integer:
            raise VerifyError(f"cannot write out {node.name!r}: its count is {region.times}")
        if isinstance(region, Repeat):
            made = _rounds(
                node,
                region,
                [t.renamed(i) for t, i in zip(graph.operands(node), inputs, strict=True)],
            )
        else:
            made = _side_by_side(node, region, inputs)
        sources.update(dict.fromkeys(made.sources))
        nodes.extend(made.nodes)
        renames.update(zip((t.name for t in node.outputs), made.outputs, strict=True))
    outputs = tuple(renames.get(o, o) for o in graph.outputs)
    return Graph(graph.name, tuple(sources), tuple(nodes), outputs)


def _rounds(node: Node, region: Repeat, operands: Sequence[Tensor]) -> Graph:
    """The rounds of a region one after another, with the views that cut and join parts."""
    sources: dict[Tensor, None] = {}
    nodes: list[Node] = []

    def view(name: str, op: Op, *inputs: Tensor) -> Tensor:
        (spec,) = op.infer(inputs)
        made = spec.named(name)
        nodes.append(Node(name, op, tuple(t.name for t in inputs), (made,)))
        return made

    body = unrolled(region.body)
    state = [t.name for t in operands]
    whole, once = len(operands) - region.parts, len(body.outputs) - region.gathered
    kept: list[list[Tensor]] = [[] for _ in range(region.gathered)]
    shared = tuple(t.name for t in body.persistent) if region.shared_instances == 1 else ()
    results: tuple[str, ...] = ()
    for index in range(int(region.count)):
        prefix = f"{node.name}[{index}]."
        for place, stacked in enumerate(operands[whole:], whole):
            cut = view(f"{prefix}part_{place}", Slice(0, Integer(index), ONE), stacked)
            state[place] = view(f"{prefix}round_{place}", Reshape(stacked.shape[1:]), cut).name
        made = _written_out(body, prefix, state, shared)
        sources.update(dict.fromkeys(made.sources))
        nodes.extend(made.nodes)
        results = made.outputs
        state[: region.carried] = results[: region.carried]
        for found, inner, name in zip(kept, body.outputs[once:], results[once:], strict=True):
            found.append(body.tensors[inner].renamed(name))
    for tensor, found in zip(node.outputs[once:], kept, strict=True):
        view(tensor.name, Stack(), *found)
    outputs = (*results[:once], *(t.name for t in node.outputs[once:]))
    return Graph(region.body.name, tuple(sources), tuple(nodes), outputs)


def _side_by_side(node: Node, region: Region, inputs: Sequence[str]) -> Graph:
    """The bodies of a region one after another."""
    sources: dict[Tensor, None] = {}
    nodes: list[Node] = []
    results: list[str] = []
    for index, (body, takes) in enumerate(zip(region.graphs, region.takes, strict=True)):
        made = _written_out(unrolled(body), f"{node.name}[{index}].", [inputs[i] for i in takes])
        sources.update(dict.fromkeys(made.sources))
        nodes.extend(made.nodes)
        results.extend(made.outputs)
    return Graph(node.name, tuple(sources), tuple(nodes), tuple(results))


def _written_out(
    body: Graph, prefix: str, given: Sequence[str], shared: Sequence[str] = ()
) -> Graph:
    """One run of a body: its names with a prefix but those ``shared``, its inputs those given."""
    local = dict(zip((t.name for t in body.inputs), given, strict=True))
    local.update(zip(shared, shared, strict=True))

    def rename(name: str) -> str:
        return local.get(name, prefix + name)

    nodes = (
        replace(
            inner,
            name=prefix + inner.name,
            inputs=tuple(rename(i) for i in inner.inputs),
            outputs=tuple(t.renamed(rename(t.name)) for t in inner.outputs),
        )
        for inner in body.nodes
    )
    persistent = tuple(t.renamed(rename(t.name)) for t in body.persistent)
    return Graph(body.name, persistent, tuple(nodes), tuple(rename(o) for o in body.outputs))
