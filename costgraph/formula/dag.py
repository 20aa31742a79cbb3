"""Formulas lowered to a graph of small operations, shared by all that emit code.

Equal subexpressions become one node (hash-consing), so what several terms or
several formulas have in common is computed once. A node's operands stand before
it: the list of nodes is in an order of evaluation.

Operations and their operands:

``num`` a constant; ``sym`` a free symbol; ``var`` the running index of a ``loop``;
``add``, ``mul`` any number; ``div``; ``pow``; ``sqrt``, ``exp``, ``log``, ``abs``;
``max``, ``min`` two or more; ``ceildiv``, ``floordiv`` the rounded quotient of two;
``trunc`` the whole part; ``select`` condition, value, other value;
``lt``, ``le``, ``gt``, ``ge``, ``eq``, ``ne``, ``and``, ``or``, ``not``; ``bool``;
``envelope`` lower, upper, then (intercept, slope) of each arm: the sum of the
largest arm; ``loop`` lower, upper, index, summand: the sum of the summand. Its value
is ``smooth`` where the summand has no kinks or jumps, and may be integrated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

#: Longer sums are split, so that no reader of the code nests too deeply.
WIDEST = 32


@dataclass(frozen=True)
class Node:
    """An operation on earlier nodes; ``value`` is a constant's number or a name."""

    op: str
    args: tuple[int, ...] = ()
    value: Fraction | float | str | None = None


def _fraction(node: Node) -> Fraction:
    assert isinstance(node.value, Fraction)
    return node.value


class Dag:
    """Nodes without duplicates; built once, then read only."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.outputs: tuple[int, ...] = ()
        self._index: dict[tuple[str, tuple[int, ...], type, object], int] = {}

    def add_node(
        self, op: str, args: Sequence[int] = (), value: Fraction | float | str | None = None
    ) -> int:
        """The index of the node, a known one if it is equal."""
        key = (op, tuple(args), type(value), value)
        known = self._index.get(key)
        if known is None:
            known = self._index[key] = len(self.nodes)
            self.nodes.append(Node(op, tuple(args), value))
        return known

    def num(self, value: Fraction | int | float) -> int:
        """A constant; whole and rational numbers are kept exact."""
        return self.add_node("num", (), value if isinstance(value, float) else Fraction(value))

    def sum(self, args: Iterable[int]) -> int:
        """The sum of nodes; sums among them are opened."""
        parts: list[int] = []
        for index in args:
            node = self.nodes[index]
            parts += node.args if node.op == "add" else (index,)
        whole = [p for p in parts if isinstance(self.nodes[p].value, Fraction)]
        if len(whole) > 1:  # what bounds put in adds up
            parts = [p for p in parts if p not in set(whole)]
            constant = sum((_fraction(self.nodes[p]) for p in whole), Fraction(0))
            if constant or not parts:
                parts.insert(0, self.num(constant))
        while len(parts) > WIDEST:
            groups = [parts[i : i + WIDEST] for i in range(0, len(parts), WIDEST)]
            parts = [self.add_node("add", g) if len(g) > 1 else g[0] for g in groups]
        if len(parts) == 1:
            return parts[0]
        return self.add_node("add", parts) if parts else self.num(0)

    def product(self, a: int, b: int) -> int:
        """The product of two nodes; a factor one is left out."""
        one = Fraction(1)
        if self.nodes[a].value == one and self.nodes[a].op == "num":
            return b
        if self.nodes[b].value == one and self.nodes[b].op == "num":
            return a
        return self.add_node("mul", (a, b))

    def quotient(self, a: int, b: int) -> int:
        """The quotient of two nodes; a divisor one is left out."""
        if self.nodes[b].op == "num" and self.nodes[b].value == 1:
            return a
        return self.add_node("div", (a, b))

    def used(self, roots: Iterable[int] | None = None) -> list[int]:
        """How often each node is used by what the roots (the outputs) need."""
        starts = self.outputs if roots is None else tuple(roots)
        uses = [0] * len(self.nodes)
        for root in starts:
            uses[root] += 1
        for index in range(len(self.nodes) - 1, -1, -1):
            if uses[index]:
                for operand in self.nodes[index].args:
                    uses[operand] += 1
        return uses

    def depending_on(self, variable: int) -> set[int]:
        """The nodes whose value changes with the index of a loop.

        A loop over that index itself does not change with it.
        """
        found = {variable}
        for index, node in enumerate(self.nodes):
            operands = node.args
            if node.op == "loop" and node.args[2] == variable:
                operands = node.args[:2]
            if any(a in found for a in operands):
                found.add(index)
        return found
