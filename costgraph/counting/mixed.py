"""What a mix of sequences costs in one step, exactly.

One rule for every operation, read off its cost as a function of ``B`` sequences, ``q`` new
tokens and ``T`` positions:

===================================  =======================================
part of a cost                       in a mix of groups ``(b, q, T)``
===================================  =======================================
without ``B``: weights, launches     once
of ``B·q`` alone: experts touched    at the tokens of all groups together
``B·f(q, T)``: rows, attention       added up over the groups
===================================  =======================================

A part without ``B`` that depends on ``q`` or ``T`` (a table's rows of positions) counts once
for each ``(q, T)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from sympy import Add, Dummy, Expr, Integer, Mul, expand

from costgraph.counting.count import Item, Overlap, Row, flat
from costgraph.errors import InputError, MissingRuleError
from costgraph.formula.least import bound
from costgraph.hardware.links import Messages
from costgraph.ir.cost import Cost
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.attending import pattern_of
from costgraph.ops.collectives import AllToAll, Exchange, Received
from costgraph.ops.fused import Fused
from costgraph.symbols import B, T, q

if TYPE_CHECKING:
    from costgraph.ir.program import Phase

ONE = Integer(1)
TOKENS = Dummy("tokens", positive=True)


@dataclass(frozen=True)
class Part:
    """A group as a graph sees it: values of its symbols, and the phase that it is in.

    Attributes:
        steps: its sequences decode, one token at a time or by verifying several.
        mean: where the part is what the fullest of several replicas has of a group, what each
            has of it on average: rows that come from all of them are as many.
    """

    sequences: Expr
    new: Expr
    context: Expr
    phase: Phase
    steps: bool = True
    mean: Part | None = None

    @property
    def values(self) -> dict[Expr, Expr]:
        """What the graph's symbols stand for."""
        return {
            **self.phase.substitution, B: self.sequences, q: self.new, T: self.context,
        }  # fmt: skip


@dataclass(frozen=True)
class MixedRow(Row):
    """An operation in a mix: its cost is final, its sizes are those of ``phase``.

    ``phase`` has all its groups as equal sequences of their mean length, which is what
    their tokens and sequences add up to; contexts are means over sequences. ``beside`` is
    true of what decoding groups do apart from others in the same step; ``steps`` of what only
    groups that decode do, whichever others there are.
    """

    phase: Phase | None = None
    beside: bool = False
    steps: bool = False


#: A group as an amount sees it: its sequences, their new tokens, and values of symbols.
Sizes = tuple[Expr, Expr, tuple[tuple[Expr, Expr], ...]]


def mixed(expr: Expr, parts: Sequence[Part]) -> Expr:
    """An amount of one operation, over all groups of a step.

    Raises:
        MissingRuleError: it depends on the batch in a way that no rule covers.
    """
    return _mixed(expr, tuple((p.sequences, p.new, tuple(p.values.items())) for p in parts),
                  tuple(parts[0].phase.substitution.items()))  # fmt: skip


@lru_cache(maxsize=4096)
def _mixed(expr: Expr, groups: tuple[Sizes, ...], first: tuple[tuple[Expr, Expr], ...]) -> Expr:
    """The same for groups as plain sizes: stages and shares of a model have many amounts alike."""
    tokens = Add(*(sequences * new for sequences, new, _ in groups))
    terms = Add.make_args(expand(expr))
    return Add(*(_term(t, groups, dict(first), tokens) for t in terms))


def _term(term: Expr, groups: Sequence[Sizes], first: dict[Expr, Expr], tokens: Expr) -> Expr:
    if not term.has(B):
        if not term.has(q, T):
            return bound(term, first)
        distinct = {(values[q], values[T]): values for values in (dict(g[2]) for g in groups)}
        return Add(*(bound(term, values) for values in distinct.values()))
    once = Mul(*(f for f in Mul.make_args(term) if not f.has(B, q, T)))
    rest = Mul(*(f for f in Mul.make_args(term) if f.has(B, q, T)))
    if not rest.has(T):
        together = rest.xreplace({q: TOKENS / B})
        if not together.has(B):
            return bound(once * together, {**first, TOKENS: tokens})
    each = term / B
    if each.has(B):
        raise MissingRuleError(f"no rule for mixes of a cost that depends on B as {rest}")
    return Add(*(sequences * bound(each, dict(values)) for sequences, _, values in groups))


def mixed_cost(cost: Cost, parts: Sequence[Part]) -> Cost:
    """The cost vector of one operation over all groups of a step."""

    def messages(m: Messages) -> Messages:
        return m.mapped(lambda e: mixed(e, parts))

    return Cost(
        {k: mixed(v, parts) for k, v in cost.flops.items()},
        {k: mixed(v, parts) for k, v in cost.bytes.items()},
        mixed(cost.launches, parts),
        {k: messages(m) for k, m in cost.links.items()},
    )


def looks_back(row: Row) -> bool:
    """True of operations that look at earlier positions: they run group by group.

    What multiplies earlier positions by a matrix of the model (Transformer-XL's states of its
    memory, blocks of rows that become one) looks at rows as any product does: one for all.
    """
    if pattern_of(row.node.op) is None and any(_is_matrix(t) for t in _read(row)):
        return False
    amounts = (*row.cost.flops.values(), *row.cost.bytes.values())
    return any(a.has(T) for a in amounts)


def _of_all(row: Row) -> bool:
    """True of operations on rows that all replicas sent: not of the exchanges themselves."""
    sent = row.graph.once(_sent)
    return any(i in sent for i in row.node.inputs) and not _exchanges(row.node)


def _sent(graph: Graph) -> frozenset[str]:
    """Tensors whose rows come from all replicas: between the exchanges to experts and back."""
    found: set[str] = set()
    for node in graph.nodes:
        sent = any(i in found for i in node.inputs)
        there = any(isinstance(op, AllToAll | Received) for op in _operations(node))
        if sent != there:
            found.update(t.name for t in node.outputs)
    return frozenset(found)


def _exchanges(node: Node) -> bool:
    return any(isinstance(op, Exchange) for op in _operations(node))


def _operations(node: Node) -> tuple[Op, ...]:
    body = node.op.body.nodes if isinstance(node.op, Fused) else (node,)
    return tuple(n.op for n in body)


def _read(row: Row) -> tuple[Tensor, ...]:
    return row.graph.operands(row.node)


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.role is Role.WEIGHT and len(tensor.shape) > 1


def mixed_items(
    decode: Sequence[Item], others: Sequence[Item], parts: Sequence[Part]
) -> tuple[Item, ...]:
    """The operations of a step in which several groups run.

    Those that only look at tokens run once for all. Those that look at earlier positions
    run once for the groups that decode, and once for the others: kernels for either differ.
    What only one of two graphs has (absorbed and expanded latent attention) runs for its
    own groups.

    Args:
        decode, others: the counted operations of decode steps, and of groups with several
            new tokens; the same where both run one graph.
        parts: the groups.

    Raises:
        InputError: two different graphs with operations that overlap, or that share tokens
            in different ways.
        MissingRuleError: as :func:`mixed`.
    """
    stepping = [p for p in parts if p.steps]
    longer = [p for p in parts if not p.steps]
    if not stepping or not longer:
        own = decode if stepping else others
        return tuple(_item(item, parts) for item in own)
    if decode is others or tuple(decode) == tuple(others):
        return tuple(made for item in decode for made in _both(item, stepping, longer))
    return tuple(_matched(decode, others, stepping, longer))


def aside(
    items: Sequence[Item], parts: Sequence[Part], label: str, times: Expr = ONE
) -> tuple[Item, ...]:
    """Operations of another graph that runs in the same step, so many times, under a name."""
    rows = (_row(row, parts, label) for row in flat(items))
    return tuple(replace(row, count=row.count * times) for row in rows)


def _both(item: Item, stepping: Sequence[Part], longer: Sequence[Part]) -> tuple[Item, ...]:
    if isinstance(item, Overlap):
        bodies = tuple(
            (name, tuple(made for i in inner for made in _both(i, stepping, longer)))
            for name, inner in item.bodies
        )
        return (Overlap(item.name, item.count, bodies, item.unit, item.aside),)
    if looks_back(item):
        return (_beside(item, stepping), _row(item, longer, "prompt"))
    return (_row(item, (*stepping, *longer)),)


def _matched(
    decode: Sequence[Item],
    others: Sequence[Item],
    stepping: Sequence[Part],
    longer: Sequence[Part],
) -> list[Item]:
    if any(isinstance(item, Overlap) for item in (*decode, *others)):
        raise InputError(
            "prompts and decode steps run different graphs with overlapping operations: "
            "their mixes are not counted"
        )
    rest = {row.name: row for row in flat(others)}
    made: list[Item] = []
    for row in flat(decode):
        twin = rest.get(row.name)
        same = [] if looks_back(row) else _layers_of(row, rest.values())
        if same:
            made.append(_row(row, (*stepping, *longer)))
            for one in same:
                del rest[one.name]
        elif twin is not None and not looks_back(row) and _of_last(row, twin):
            # Weights once; of a group without drafts the last positions alone.
            last = [replace(p, new=ONE, mean=None) for p in longer]
            made.append(_row(row, (*stepping, *last)))
            del rest[row.name]
        elif twin is not None and _shapes(row, ONE) == _shapes(twin):
            made.append(_beside(row, stepping))
        elif twin is not None and not looks_back(row) and _shapes(row) != _shapes(twin):
            raise InputError(
                f"prompts and decode steps share the tokens of {row.name!r} among devices in "
                "different ways (cp splits prompts by position): their mixes are not counted"
            )
        else:
            made.append(_beside(row, stepping))
    return [*made, *(_row(row, longer, "prompt") for row in rest.values())]


def _layers_of(row: Row, others: Iterable[Row]) -> list[Row]:
    """The rows of another graph that are ``row``: one, or one of each run of layers.

    A graph may cut the layers that the other repeats (image features are added between some
    of Qwen3-VL's in a prompt); together they are as many.
    """
    last = row.name.rpartition(".")[2]
    found = [r for r in others if r.name.rpartition(".")[2] == last and _alike(row, r)]
    exact = [r for r in found if (r.name, r.count) == (row.name, row.count)]
    return exact or (found if Add(*(r.count for r in found)) == row.count else [])


def _alike(a: Row, b: Row) -> bool:
    """Whether two graphs have one operation: activations may come from elsewhere.

    How often it runs may differ.
    """
    same = (a.kind, a.cost, a.presence) == (b.kind, b.cost, b.presence)
    return same and _operands(a) == _operands(b)


def _operands(row: Row) -> list[Tensor]:
    """What it reads and makes, activations without their names."""
    found = (*row.graph.operands(row.node), *row.node.outputs)
    return [replace(t, name="") if t.role is Role.ACTIVATION else t for t in found]


def _shapes(row: Row, new: Expr = q) -> list[tuple[Expr, ...]]:
    """Shapes of what it makes, of so many new tokens."""
    return [tuple(x.xreplace({q: new}) for x in t.shape) for t in row.node.outputs]


def _of_last(row: Row, twin: Row) -> bool:
    """Whether ``row`` does for every new token what ``twin`` does for the last ones."""
    one = row.cost.mapped(lambda e: e.xreplace({q: ONE}))
    return _shapes(row, ONE) == _shapes(twin) and one == twin.cost


def _item(item: Item, parts: Sequence[Part]) -> Item:
    if isinstance(item, Row):
        return _row(item, parts)
    bodies = tuple((name, tuple(_item(i, parts) for i in inner)) for name, inner in item.bodies)
    return Overlap(item.name, item.count, bodies, item.unit, item.aside)


def _beside(row: Row, parts: Sequence[Part]) -> MixedRow:
    """What decoding groups do while others do the same."""
    return replace(_row(row, parts), beside=True)


def _row(row: Row, parts: Sequence[Part], label: str = "") -> MixedRow:
    if any(p.mean for p in parts) and _of_all(row):
        parts = [p.mean or p for p in parts]
    sequences = Add(*(p.sequences for p in parts))
    tokens = Add(*(p.sequences * p.new for p in parts))
    positions = Add(*(p.sequences * p.context for p in parts))
    first = parts[0].phase
    sizes = {B: sequences, q: tokens / sequences, T: positions / sequences}
    seen = replace(first, bindings=tuple({**first.substitution, **sizes}.items()), span=None)
    name = f"{label}.{row.name}" if label else row.name
    return MixedRow(
        name, row.kind, seen.bind(row.count), mixed_cost(row.cost, parts), row.node, row.graph,
        row.region, row.unit, row.presence, row.aside, seen, steps=all(p.steps for p in parts),
    )  # fmt: skip
