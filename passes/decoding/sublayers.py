"""The target with layers, or attention and feed-forward blocks of layers, left out.

A draft made so shares weights and caches of what it keeps with the target (Draft & Verify,
Zhang et al., arXiv 2309.08168). In a layer, what is added to the stream that its input
flows along is a block of its own: leaving it out leaves the stream as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.errors import PipelineError, clip
from costgraph.ir.graph import Graph, Node
from costgraph.ir.presence import EVERYONE
from costgraph.ir.program import Phase, Program
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role
from costgraph.ops import Add
from costgraph.passes.precision.layers import in_order
from costgraph.rewriting.layers import patterned, written_out
from costgraph.rewriting.rewrite import live

ATTENTION, MLP = "attention", "mlp"
#: What a stream may pass and still be the stream: a norm behind the addition, a factor.
_PASSED = ("rms-norm", "layer-norm", "scale")
_LIST = re.compile(r"l(\d{1,6}(?:-\d{1,6})?(?:\|\d{1,6}(?:-\d{1,6})?)*)\Z")
_COUNT = re.compile(r"\d{1,6}\Z")


@dataclass(frozen=True)
class Skipped:
    """Blocks of one kind that are left out: so many, or those of the layers listed."""

    what: str
    count: int = 0
    listed: tuple[int, ...] | None = None

    def layers(self, having: Sequence[int]) -> frozenset[int]:
        """The layers that lose the block, of those ``having`` one.

        So many of them are spread evenly.

        Raises:
            PipelineError: there are not so many, or a layer has none.
        """
        if self.listed is not None:
            for layer in self.listed:
                if layer not in having:
                    raise PipelineError(f"skip-{self.what}: layer {layer} has no such block")
            return frozenset(self.listed)
        many = len(having)
        if self.count > many:
            raise PipelineError(f"skip-{self.what}: {self.count} blocks; the model has {many}")
        return frozenset(having[(2 * i + 1) * many // (2 * self.count)] for i in range(self.count))


def parse_skipped(what: str, text: str) -> Skipped:
    """A number of blocks (``10``), or layers from zero on (``l3|5|8-12``).

    Raises:
        PipelineError: it is neither.
    """
    if not text:
        return Skipped(what)
    if _COUNT.match(text):
        return Skipped(what, int(text))
    found = _LIST.match(text)
    if found is None:
        raise PipelineError(
            f"skip-{what}: {clip(text)} is neither a number of blocks nor layers such as l3|5|8-12"
        )
    layers: set[int] = set()
    for part in found[1].split("|"):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise PipelineError(f"skip-{what}: {clip(part)} ends before it starts")
        layers.update(range(int(first), int(last or first) + 1))
    return Skipped(what, listed=tuple(sorted(layers)))


@dataclass(frozen=True)
class Run:
    """``count`` layers of a region of the target, with what is left of their blocks (or all)."""

    region: Node
    count: Expr
    left: frozenset[str] | None = None


def first_layers(target: Program, step: Phase, layers: Expr) -> Program:
    """The target with fewer layers, the first ones; zero layers means half of them.

    Where layers stand together by kind, the kinds are kept in proportion.

    Raises:
        PipelineError: the number does not fit, or layers are no plain chain.
    """
    flat, regions, ordered = _regions(step.graph)
    counts = [_count(n) for n in regions]
    total = sum(counts, Integer(0))
    kept = layers
    if layers == 0:
        kept = total // 2 if total.is_Integer else total / 2
    if kept.is_number and not (kept.is_Integer and kept > 0):
        raise PipelineError(f"layers must be a whole number of layers, not {kept}")
    if kept.is_number and total.is_number and kept > total:
        raise PipelineError(f"layers: the model has only {total} layers")
    if len(regions) > 1 and not kept.is_Integer:
        raise PipelineError(f"layers: {kept} of layers that differ: state a number")
    name = f"{target.name}'s first layers"
    if not ordered:
        shares = _apportioned(int(kept), [int(c) for c in counts])
        runs = [Run(n, Integer(c)) for n, c in zip(regions, shares, strict=True) if c]
        made = _cut(flat, regions, runs, step, name)
        return made.assuming(_PROPORTION) if len(runs) > 1 else made
    runs, left = [], kept
    for index, (region, count) in enumerate(zip(regions, counts, strict=True)):
        ends = index == len(regions) - 1 or left <= count
        runs.append(Run(region, left if ends else count))
        left = left - count
        if ends:
            break
    return _cut(flat, regions, runs, step, name)


_PROPORTION = (
    "layers of the draft are kept in proportion to their kinds: equal layers of the model stand "
    "together"
)


def without_blocks(target: Program, step: Phase, attention: Skipped, mlp: Skipped) -> Program:
    """The target without some of its attention and feed-forward blocks.

    Raises:
        PipelineError: a layer or its block is not there, or nothing is left.
    """
    flat, regions, ordered = _regions(step.graph)
    counts = [_count(n) for n in regions]
    if not all(c.is_Integer for c in counts):
        raise PipelineError("skip-attention, skip-mlp: the number of layers must be a number")
    owner = [n for n, c in zip(regions, counts, strict=True) for _ in range(int(c))]
    blocks = {n.name: _blocks(n) for n in regions}
    lost: dict[str, frozenset[int]] = {}
    for skipped in (attention, mlp):
        if not ordered and skipped.listed is not None:
            raise PipelineError(
                f"skip-{skipped.what}: layers of {target.name} stand together by kind, and have no "
                "numbers: give a number of blocks"
            )
        having = [i for i, n in enumerate(owner) if skipped.what in blocks[n.name]]
        lost[skipped.what] = skipped.layers(having)
    # Their order changes nothing: those that are alike stand together.
    found: dict[tuple[Graph, tuple[str, ...]], Run] = {}
    for i, region in enumerate(owner):
        left = frozenset(b for b in blocks[region.name] if i not in lost[b])
        if left:
            one = Run(region, Integer(1), left)
            alike = found.get(key := _with_blocks(one))
            found[key] = one if alike is None else replace(alike, count=alike.count + 1)
    runs = list(found.values())
    if not runs:
        raise PipelineError("skip-attention, skip-mlp: nothing of the layers is left")
    name = f"{target.name} without {sum(map(len, lost.values()))} blocks"
    return _cut(flat, regions, runs, step, name)


def _regions(graph: Graph) -> tuple[Graph, tuple[Node, ...], bool]:
    """The graph, its layers as regions, and whether these stand in the model's order."""
    full = _all_present(graph)
    gathered = [n for n in full.nodes if isinstance(n.op, Repeat) and n.op.rounds == "gathered"]
    if not gathered:
        return (*in_order(full, "draft=skip"), True)
    flat = written_out(full) if patterned(full) else full
    # Any order is as good: number them as they stand.
    plain = replace(flat, nodes=tuple(_as_layers(n) for n in flat.nodes))
    return (*in_order(plain, "draft=skip"), False)


def _as_layers(node: Node) -> Node:
    if isinstance(node.op, Repeat) and node.op.rounds == "gathered":
        return replace(node, op=replace(node.op, rounds="layers"))
    return node


def _all_present(graph: Graph) -> Graph:
    """The graph without early exits: every layer runs for every token."""
    nodes = []
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            if node.op.rounds == "other":
                continue
            node = replace(node, op=replace(node.op, presence=EVERYONE))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _count(node: Node) -> Expr:
    assert isinstance(node.op, Repeat)
    return node.op.count


def _apportioned(kept: int, counts: Sequence[int]) -> list[int]:
    """``kept`` things shared out in proportion to ``counts``, by the largest remainders."""
    total = sum(counts)
    shares = [kept * c // total for c in counts]
    by_rest = sorted(range(len(counts)), key=lambda i: (-(kept * counts[i] % total), i))
    for i in by_rest[: kept - sum(shares)]:
        shares[i] += 1
    return shares


def _cut(
    flat: Graph, regions: Sequence[Node], runs: Sequence[Run], step: Phase, name: str
) -> Program:
    """The step graph with the runs in the place of the regions."""
    nodes, state = [], regions[0].inputs[0]
    used: dict[str, int] = {}
    for run in runs:
        region = run.region
        assert isinstance(region.op, Repeat)
        body, others = _with_blocks(run)
        label = region.name if region.name not in used else f"{region.name}.{used[region.name]}"
        used[region.name] = used.get(region.name, 0) + 1
        # What follows the layers takes the last one's result by its name.
        ends = run is runs[-1]
        outputs = regions[-1].outputs if ends else tuple(
            t.renamed(f"{label}.kept") for t in region.outputs
        )  # fmt: skip
        op = replace(region.op, body=body, count=run.count)
        nodes.append(Node(label, op, (state, *others), outputs, region.origin, region.unit))
        state = outputs[0].name
    there = {n.name for n in regions}
    listed = [n for n in flat.nodes if n.name not in there]
    first = next(i for i, n in enumerate(flat.nodes) if n.name == regions[0].name)
    ahead = len([n for n in flat.nodes[:first] if n.name not in there])
    graph = flat.with_nodes((*listed[:ahead], *nodes, *listed[ahead:]))
    return Program(name, (replace(step, graph=replace(graph, name=f"{flat.name}-draft")),))


def _with_blocks(run: Run) -> tuple[Graph, tuple[str, ...]]:
    """The body of a run, and the region's operands beside the state that it still reads."""
    region = run.region.op
    assert isinstance(region, Repeat)
    body = region.body
    if run.left is not None and (gone := _blocks(run.region) - run.left):
        body = _shortened(body, gone)
    given = zip(region.body.inputs, run.region.inputs, strict=True)
    kept = {t.name for t in body.inputs}
    return body, tuple(name for t, name in list(given)[1:] if t.name in kept)


def _blocks(node: Node) -> frozenset[str]:
    """The kinds of blocks that the layers of a region have."""
    assert isinstance(node.op, Repeat)
    return frozenset(what for _, what in _terms(node.op.body))


def _terms(body: Graph) -> list[tuple[str, str]]:
    """What a layer adds to its stream: (tensor, kind of block).

    Raises:
        PipelineError: the layer's result is not its input with something added.
    """
    stream = _stream(body)
    if body.outputs[0] not in stream:
        raise PipelineError(
            f"skip-attention, skip-mlp: layers of {body.name!r} do not add blocks to their input"
        )
    found = []
    for node in body.nodes:
        if isinstance(node.op, Add) and node.outputs[0].name in stream:
            found += [
                (leaf, _kind(body, leaf, stream))
                for name in node.inputs
                if name not in stream
                for leaf in _leaves(body, name)
            ]
    return found


def _stream(body: Graph) -> frozenset[str]:
    """Tensors that a layer's input flows along: sums with it, norms of these."""
    found = {body.inputs[0].name}
    for node in body.nodes:
        if isinstance(node.op, Add) or node.op.kind in _PASSED:
            within = node.inputs if isinstance(node.op, Add) else node.inputs[:1]
            if any(name in found for name in within):
                found.update(t.name for t in node.outputs)
    return frozenset(found)


def _leaves(body: Graph, name: str) -> Iterable[str]:
    """The terms of a sum beside the stream (blocks that run side by side), or the block.

    A sum of parts of one block (routed and shared experts) is taken apart as well.
    """
    node = body.producer.get(name)
    if node is None or not isinstance(node.op, Add):
        return (name,)
    return (leaf for i in node.inputs for leaf in _leaves(body, i))


def _kind(body: Graph, name: str, stream: frozenset[str]) -> str:
    """Attention (or a scan), which keeps something of earlier tokens, or a block per token."""
    todo, seen = [name], set()
    while todo:
        at = todo.pop()
        if at in seen or at in stream:
            continue
        seen.add(at)
        tensor = body.tensors[at]
        if tensor.role in (Role.KV, Role.STATE):
            return ATTENTION
        node = body.producer.get(at)
        if node is not None:
            todo += node.inputs
    return MLP


def _shortened(body: Graph, gone: frozenset[str]) -> Graph:
    """A layer without its blocks of these kinds."""
    dropped = {leaf for leaf, what in _terms(body) if what in gone}
    stands: dict[str, str] = {}
    nodes = []
    for node in body.nodes:
        if not isinstance(node.op, Add):
            inputs = tuple(stands.get(i, i) for i in node.inputs)
            nodes.append(replace(node, inputs=inputs))
            continue
        left = [stands.get(i, i) for i in node.inputs if i not in dropped]
        (made,) = node.outputs
        if not left:
            dropped.add(made.name)
        elif len(left) < len(node.inputs):
            stands[made.name] = left[0]
        else:
            nodes.append(replace(node, inputs=tuple(left)))
    outputs = tuple(stands.get(o, o) for o in body.outputs)
    return live(replace(body, nodes=tuple(nodes), outputs=outputs))
