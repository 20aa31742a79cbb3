"""The exact work and traffic of what a vertex stands for, as texts for files for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sympy import Add, Expr

from costgraph.ir.cost import ByteKey, Cost
from costgraph.ir.op import same
from costgraph.ir.tensor import MEMORY
from costgraph.showing.draw.scene import clean

if TYPE_CHECKING:
    from costgraph.counting.count import Row


def work_texts(rows: Sequence[Row]) -> dict[str, str]:
    """FLOP and bytes of all executions in a step, as expressions over the graph's own symbols.

    ``flops_expression`` and ``bytes_expression`` are totals; ``traffic`` says which bytes those
    are, a line each: ``read activation hidden: 8192*B*q``. Of one operation lines are of its
    operands and results, of several of their roles. Nothing of what is no operation.
    """
    if not rows:
        return {}
    amounts: dict[str, list[Expr]] = {}
    for row in rows:
        for name, amount in _operands(row) if len(rows) == 1 else _roles(row):
            amounts.setdefault(name, []).append(row.count * amount)
    return {
        "flops_expression": str(Add(*(r.count * r.cost.total_flops for r in rows))),
        "bytes_expression": str(Add(*(r.count * r.cost.total_bytes for r in rows))),
        "traffic": "\n".join(f"{name}: {Add(*parts)}" for name, parts in amounts.items()),
    }


def _operands(row: Row) -> Iterator[tuple[str, Expr]]:
    """Bytes of one execution by operand and result; by role where those are not what counts.

    So it is under a convention that has rules of its own, and in partial regions within others.
    """
    made = []
    for access in row.node.op.accesses(row.graph.operands(row.node), row.node.outputs):
        key = (access.level, access.role, access.direction)
        cost = row.presence.expected(Cost(bytes={key: access.bytes}))
        made.append((f"{_way(key)} {clean(access.tensor)}", cost.total_bytes))
    if same(Add(*(amount for _, amount in made)), row.cost.total_bytes):
        yield from made
    else:
        yield from _roles(row)


def _roles(row: Row) -> Iterator[tuple[str, Expr]]:
    return ((_way(key), amount) for key, amount in row.cost.bytes.items())


def _way(key: ByteKey) -> str:
    """A key of a cost in words: ``read kv``, with the level of memory where it is a farther one."""
    level, role, direction = key
    where = "" if level == MEMORY else f" in {level}"
    return clean(f"{direction.value} {role.value}{where}")
