"""Operator fusion: kernels that keep their intermediates on the chip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from sympy import Add, Expr, Integer, Mul, Symbol, ceiling, true

from costgraph.hardware.machine import Machine
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op, same
from costgraph.ir.program import Program
from costgraph.ir.tensor import Role
from costgraph.ops import Add as Sum
from costgraph.ops import (
    Alibi,
    AttentionScores,
    AttentionValues,
    SoftCap,
    Softmax,
    SplitScores,
)
from costgraph.ops.bias import ScoreBias
from costgraph.ops.flash import FlashAttention
from costgraph.ops.fused import Fused
from costgraph.ops.image import WindowMask
from costgraph.ops.latent import SplitFlash
from costgraph.ops.maps import Map
from costgraph.ops.quant import NarrowResult, QuantizeTo, plain
from costgraph.rewriting.draft import Draft
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import Replacement, Rule, rewrite_program

#: Rows and columns of an output tile of a matrix product, and its accumulator's bytes.
TILE = Integer(128)
ACCUMULATOR = Integer(4)

ELEMENTWISE = frozenset(
    {
        "activation", "multiply", "add", "scale", "soft-cap", "row-scale",
        "batch-norm", "add-channels", "modulate", "gate", "map", "cast", "score-bias",
    }
)  # fmt: skip
#: Matrix products; those of experts, or of many adapters, are one kernel grouped by them.
MATRIX_PRODUCTS = frozenset({"linear", "expert-linear", "adapter-linear"})
#: Kernels that take element-wise work behind them: convolutions run as implicit products.
PRODUCTS = MATRIX_PRODUCTS | {"conv"}
#: Sums over a token's experts: they start a kernel, but need whole rows of all products.
SUMS = frozenset({"combine"})
NORMS = frozenset({"rms-norm", "layer-norm"})
MOVES = frozenset({"rope", "kv-append", "paged-kv-append", "quantize", "split", "select"})
GATHERS = frozenset({"embedding"})


@dataclass(frozen=True)
class Fuse(Pass):
    """Merges producers into consumers, siblings into one kernel, attention into tiles."""

    name: ClassVar[str] = "fuse"
    title: ClassVar[str] = "merge operations into kernels that keep intermediates on the chip"
    formula: ClassVar[str] = (
        "bytes' = bytes_p + bytes_c - 2·|intermediate|, FLOP' = FLOP_p + FLOP_c (+ recomputation)"
    )
    source: ClassVar[str] = (
        "survey arXiv 2402.16363, section 5.1; FlashAttention-2, arXiv 2307.08691; "
        "DeepFusion, arXiv 2207.00032"
    )
    assumptions: ClassVar[tuple[str, ...]] = ("fused kernels reach the same peaks as their parts",)
    stage: ClassVar[Stage] = Stage.KERNELS

    attention: str = option(
        "word", "flash", "tiled attention, or scores in memory", choices=("flash", "none")
    )
    split: Expr = option(
        "number",
        Integer(1),
        "pieces of the context (Flash-Decoding)",
        minimum=1,
        under=("attention=flash",),
    )
    causal: str = option(
        "word", "skip", "key blocks past the diagonal are skipped or read",
        choices=("skip", "full"), under=("attention=flash",),
    )  # fmt: skip
    reuse: str = option(
        "word", "cache", "blocks of attention share K and V in a cache, or read them each",
        choices=("cache", "none"),
    )  # fmt: skip
    siblings: bool = option("flag", True, "products of one operand as one kernel")
    epilogue: bool = option("flag", True, "element-wise work behind a matrix product")
    elementwise: bool = option("flag", True, "chains of element-wise work and norms")
    prologue: bool = option("flag", False, "a norm in front of a product, recomputed per tile")

    def run(self, program: Program, system: System) -> Outcome:
        machine = system.device
        made, hits, misses = rewrite_program(program, self.rules(program.dims), machine, self.name)
        if machine.onchip is None and hits:
            made = made.assuming("the on-chip buffer is not stated: taken as large enough")
        return Outcome(made, hits, misses)

    def rules(self, dims: tuple[tuple[Symbol, Expr], ...] = ()) -> tuple[Rule, ...]:
        """The rules that the options ask for, in the order in which they run.

        ``dims`` are values of symbolic model dimensions, to decide conditions with.
        """
        found: list[Rule] = []
        if self.attention == "flash":
            found.append(Flash(self.causal == "skip", self.split, self.reuse == "cache", dims))
        if self.siblings:
            found.append(Siblings())
        if self.epilogue:
            found.append(Chain("epilogue", frozenset({"product"}), ELEMENTWISE | MOVES, dims))
        if self.elementwise:
            light = frozenset({"elementwise", "norm", "move", "gather"})
            found.append(Chain("elementwise", light, ELEMENTWISE | NORMS | MOVES, dims))
        if self.prologue:
            found.append(Chain("prologue", frozenset({"norm"}), frozenset({"linear"}), dims))
        return tuple(found)


def kinds(node: Node) -> frozenset[str]:
    """Kinds of the operations in a node, opened if it is fused."""
    if isinstance(node.op, Fused):
        return frozenset(plain(n.op).kind for n in node.op.body.nodes)
    return frozenset({plain(node.op).kind})


def _row_wise(node: Node) -> str:
    """What of a node needs a whole row before it can start: a norm, a scale; or nothing."""
    inside = node.op.body.nodes if isinstance(node.op, Fused) else (node,)
    for inner in inside:
        if plain(inner.op).kind in NORMS:
            return "a norm"
        if isinstance(inner.op, QuantizeTo):
            group = inner.op.format.group
            if group is None or (group <= TILE) is not true:
                return "a scale found at run time"
    return ""


def family(node: Node) -> str:
    """What a node is to the rules: the heaviest thing inside it."""
    inside = kinds(node)
    light = ELEMENTWISE | SUMS
    if inside <= light:
        return "elementwise"
    if inside & PRODUCTS:
        return "product" if inside <= ELEMENTWISE | NORMS | MOVES | PRODUCTS else "other"
    if inside <= GATHERS | light | NORMS | MOVES and inside & GATHERS:
        return "gather"
    if inside <= NORMS | light | MOVES and inside & NORMS:
        return "norm"
    if inside <= MOVES | light:
        return "move"
    return "other"


@dataclass(frozen=True)
class Chain:
    """A producer and one of its consumers become one kernel.

    Conditions (survey, section 5.1): the intermediate is not needed elsewhere, or
    stays a result of the kernel; the tile's working set fits on the chip; the
    pair is one that kernels support.
    """

    name: str
    producers: frozenset[str]
    consumers: frozenset[str]
    dims: tuple[tuple[Symbol, Expr], ...] = ()

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Try to merge ``node`` into what makes one of its operands."""
        takes = (
            family(node) == "product"
            if self.name == "prologue"
            else (kinds(node) <= self.consumers)
        )
        if not takes:
            return None
        reason: str | None = None
        for operand in node.inputs:
            producer = graph.producer.get(operand)
            if producer is None:
                continue
            if family(producer) == "product" and (what := _row_wise(node)):
                reason = f"{what} needs whole rows, {producer.name!r} makes tiles"
                continue
            if family(producer) not in self.producers:
                continue
            if graph.tensors[operand].role is Role.KV:
                reason = f"{operand!r} is a cache: its earlier rows lie in memory"
                continue
            reason = self._refusal(graph, producer, node, machine)
            if reason is None:
                recompute = _recompute(producer, node) if self.name == "prologue" else ()
                return merge(graph, (producer, node), recompute)
        return None if reason is None else Miss(self.name, node.name, reason)

    def _refusal(self, graph: Draft, p: Node, c: Node, machine: Machine) -> str | None:
        made = [t.name for t in p.outputs]
        if self.name == "prologue":
            if not kinds(p) <= NORMS:
                return f"{p.name!r} is more than a norm"
            others = {u.name for n in made for u in graph.consumers[n]} - {c.name}
            if others:
                return f"the result of {p.name!r} is also needed by {', '.join(sorted(others))}"
        if _indirect(graph, p, c):
            return f"another path leads from {p.name!r} to {c.name!r}"
        need = working_set(p, c).xreplace(dict(self.dims))
        room = machine.onchip
        # An undecided comparison of symbols is a refusal, too.
        if room is not None and (need <= room) is not true:
            return f"working set of {need} B does not provably fit the on-chip buffer of {room} B"
        return None


def _indirect(graph: Draft, p: Node, c: Node) -> bool:
    """True if a path besides the direct edges leads from ``p`` to ``c``: a cycle if merged."""
    made = {t.name for t in p.outputs}
    return graph.made_from((i for i in c.inputs if i not in made), made, p)


@dataclass(frozen=True)
class Siblings:
    """Matrix products of one operand become one kernel that reads it once."""

    name: str = "siblings"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Merge ``node`` with earlier products of its first operand."""
        kind = plain(node.op).kind
        if kind not in MATRIX_PRODUCTS:
            return None
        x, alike = node.inputs[0], frozenset({kind})
        grouped_by = node.inputs[2:3] if kind == "expert-linear" else ()
        group = tuple(
            u
            for u in graph.consumers[x]
            if u.inputs[0] == x
            and kinds(u) == alike
            and (not grouped_by or u.inputs[2:3] == grouped_by)
            and not _depends(graph, u, node)
        )
        if len(group) < 2:
            return None
        return merge(graph, group)


def _depends(graph: Draft, a: Node, b: Node) -> bool:
    """True if one of two nodes uses what the other makes, however far."""
    first, second = sorted((a, b), key=graph.position)
    return graph.made_from(second.inputs, {t.name for t in first.outputs}, first)


@dataclass(frozen=True)
class Flash:
    """Scores, softmax and values become tiled attention."""

    causal_traffic: bool
    splits: Expr
    cached: bool
    dims: tuple[tuple[Symbol, Expr], ...] = ()
    name: str = "flash"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the scores."""
        if not isinstance(node.op, AttentionScores):
            return None
        chain = self._chain(graph, node)
        if isinstance(chain, Miss):
            return chain
        steps = [n.op for n in chain]
        values = chain[-1]
        query, keys = graph.operands(node)[0], graph.operands(node)[len(node.inputs) // 2]
        # Queries and keys in two parts (latent attention) are as wide as both together.
        parts = graph.operands(node)[: len(node.inputs) // 2]
        head = Add(*(t.shape[3] for t in parts)).xreplace(dict(self.dims))
        width = query.dtype.bytes_per_element
        rows = tile_rows(head, width, machine.shared)
        if rows is None:
            return Miss(self.name, node.name, "no tile fits the shared memory")
        pattern = node.op.pattern
        if not self.cached and pattern.tiled(query.shape[1], keys.shape[1], rows) is None:
            why = f"what blocks read on their own is not counted: {pattern}"
            return Miss(self.name, node.name, why)
        if isinstance(node.op, SplitScores):
            key_bytes = head * keys.dtype.bytes_per_element
            return self._split(graph, node, tuple(chain), key_bytes, rows, width)
        if not self._saves(head * keys.dtype.bytes_per_element, rows, width):
            return Miss(self.name, node.name, _SMALL)
        biases = tuple(
            i for a, b in pairwise(chain[:-1]) for i in _put_on_scores(graph, b, a.output)
        )
        op = FlashAttention(
            node.op.pattern,
            None if self.cached else rows,
            self.causal_traffic,
            any(isinstance(s, SoftCap) for s in steps),
            self.splits,
            node.op.paging,
            any(isinstance(s, Alibi) for s in steps),
            len(biases),
        )
        sinks = tuple(i for n in chain if isinstance(n.op, Softmax) for i in n.inputs[1:])
        index = node.inputs[-1:] if pattern.indexed else ()
        inputs = (node.inputs[0], keys.name, values.inputs[1], *sinks, *biases, *index)
        name = _attention_name(graph, node)
        return Replacement(tuple(chain), Node(name, _stored(op, values), inputs, values.outputs))

    def _chain(self, graph: Draft, node: Node) -> list[Node] | Miss:
        """Everything from the scores to the values."""
        chain: list[Node] = [node]
        while not isinstance(plain(chain[-1].op), AttentionValues):
            scores = chain[-1].output
            users = graph.consumers[scores]
            if len(users) != 1 or scores in graph.outputs:
                return Miss(self.name, node.name, "an intermediate is needed elsewhere")
            (user,) = users
            last = isinstance(plain(user.op), AttentionValues)
            inside = last or isinstance(user.op, _IN_ATTENTION)
            if not ((inside and user.inputs[0] == scores) or _put_on_scores(graph, user, scores)):
                return Miss(self.name, node.name, f"{user.op.kind} between scores and values")
            chain.append(user)
        return chain

    def _split(
        self,
        graph: Draft,
        node: Node,
        chain: tuple[Node, ...],
        key_bytes: Expr,
        rows: Expr,
        width: Expr,
    ) -> Replacement | Miss:
        """Latent attention as one kernel."""
        name = "attention" if _is_free(graph, "attention") else _attention_name(graph, node)
        assert isinstance(node.op, SplitScores)
        values = chain[-1].inputs[1]
        for inner in chain[1:-1]:
            if not isinstance(inner.op, Softmax) or len(inner.inputs) > 1:
                why = f"no kernel with {inner.op.kind} takes queries in two parts"
                return Miss(self.name, node.name, why)
        # Latent vectors that are keys and values at once serve all heads of a position:
        # where few positions are processed, as this form is made for, they are read once.
        shared = values == node.inputs[2]
        if not shared and not self._saves(key_bytes, rows, width):
            return Miss(self.name, node.name, _SMALL)
        op = SplitFlash(
            node.op.pattern,
            None if self.cached else rows,
            self.causal_traffic,
            False,
            self.splits,
            node.op.paging,
        )
        inputs = (*node.inputs[:4], values, *node.inputs[4:])
        return Replacement(chain, Node(name, _stored(op, chain[-1]), inputs, chain[-1].outputs))

    def _saves(self, key_bytes: Expr, rows: Expr, width: Expr) -> bool:
        """Reading K and V again per block must cost no more than the scores it saves.

        ``2·dh·(kv bytes)/rows`` per pair against ``4·(activation bytes)``.
        """
        return self.cached or (key_bytes <= 2 * rows * width) is true


def _stored(op: Op, values: Node) -> Op:
    """Attention whose result is stored as that of ``values`` is."""
    return replace(values.op, inner=op) if isinstance(values.op, NarrowResult) else op


#: What tiled attention does to its scores, beside what is put on them.
_IN_ATTENTION = (Softmax, SoftCap, Alibi, ScoreBias)


def _put_on_scores(graph: Draft, node: Node, scores: str) -> tuple[str, ...]:
    """Operands that a node adds to scores, or by which it hides pairs; () if it does neither."""
    op = node.op
    adds = isinstance(op, (Sum, WindowMask, ScoreBias))
    if not adds and not (isinstance(op, Map) and op.function == "add"):
        return ()
    others = tuple(i for i in node.inputs if i != scores)
    kept = len(others) == len(node.inputs) - 1
    shape = graph.tensors[scores].shape
    wide = len(shape) == len(node.outputs[0].shape) and all(
        same(a, b) for a, b in zip(shape, node.outputs[0].shape, strict=True)
    )
    return others if kept and wide else ()


_SMALL = "tiles this small read K and V more than scores would move"


def _attention_name(graph: Draft, node: Node) -> str:
    """``attention`` under the prefix of the scores, or after them where that is taken."""
    prefix = node.name.removesuffix("qk_matmul")
    # Scores under another name are no prefix: ``scores`` becomes ``scores.attention``.
    name = f"{prefix}attention" if prefix != node.name else f"{node.name}.attention"
    count = 1
    while not _is_free(graph, name):
        count += 1
        name = f"{node.name}.attention" if count == 2 else f"{node.name}.attention_{count}"
    return name


def _is_free(graph: Draft, name: str) -> bool:
    return graph.node(name) is None


def tile_rows(head: Expr, width: Expr, shared: Expr | None) -> Expr | None:
    """Query rows of a tile: ``(rows·dh + 2·c·dh + rows·c)·a <= shared``, ``c`` key columns.

    The largest of 128, 64, 32, 16 rows that leaves room for at least 16 columns.
    Without a stated or decidable size: 128.
    """
    for rows in (128, 64, 32, 16):
        need = (rows * head + 2 * 16 * head + rows * 16) * width
        if shared is None or not need.is_number or need <= shared:
            return Integer(rows)
    return None


def working_set(p: Node, c: Node) -> Expr:
    """Bytes on the chip for one tile of a fused pair.

    A product keeps an accumulator tile of 128 × 128 in FP32 and a tile of each
    further operand of the consumer; row-wise work keeps one row of every
    tensor it touches.
    """
    if family(p) == "product" or family(c) == "product":
        # A batch norm's weight and bias are two rows, not tiles.
        extra = len(c.inputs) - 2 * (c.op.kind == "batch-norm")
        return TILE * TILE * ACCUMULATOR * (1 + extra)
    row = [t.shape[-1] * ACCUMULATOR for t in (*p.outputs, *c.outputs) if t.shape]
    return sum(row, Integer(0)) * 2


def merge(
    graph: Draft, nodes: tuple[Node, ...], recompute: tuple[tuple[str, Expr], ...] = ()
) -> Replacement:
    """``nodes`` as one :class:`Fused` node; fused ones are opened first.

    What only they use disappears from memory; what others use too stays a result.
    """
    inner: list[Node] = []
    factors = list(recompute)
    names = {n.name for n in nodes}
    for node in sorted(nodes, key=graph.position):
        if isinstance(node.op, Fused):
            inner.extend(node.op.body.nodes)
            factors.extend(node.op.recompute)
        else:
            inner.append(node)
    made = {t.name for n in inner for t in n.outputs}
    tensors = {t.name: t for n in inner for t in n.outputs}
    needed = tuple(
        name
        for name in dict.fromkeys(t.name for n in nodes for t in n.outputs)
        if name in graph.outputs
        or tensors[name].role in (Role.KV, Role.STATE)  # later steps read it
        or any(u.name not in names for u in graph.consumers[name])
    )
    sources = dict.fromkeys(i for n in inner for i in n.inputs if i not in made)
    body = Graph(
        "+".join(n.name for n in inner),
        tuple(graph.tensors[name] for name in sources),
        tuple(inner),
        needed,
    )
    new = Node(
        _label(inner),
        Fused(body, tuple(factors)),
        tuple(sources),
        tuple(tensors[name] for name in needed),
    )
    return Replacement(nodes, new)


def _label(inner: list[Node]) -> str:
    return "+".join(n.name for n in inner)


def _recompute(p: Node, c: Node) -> tuple[tuple[str, Expr], ...]:
    """A norm in front of a product is redone for each column of output tiles."""
    columns = [Mul(*t.shape[2:]) for t in c.outputs]
    factor = ceiling(sum(columns, Integer(0)) / TILE)
    inner = p.op.body.nodes if isinstance(p.op, Fused) else (p,)
    return tuple((n.name, factor) for n in inner)
