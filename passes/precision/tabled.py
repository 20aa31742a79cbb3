"""Products with weights of a few bits become look-ups in tables of sums."""

from __future__ import annotations

from collections.abc import Callable

from sympy import Expr, ceiling

from costgraph.ir.graph import Node
from costgraph.ir.op import Op
from costgraph.ir.program import Program
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.experts import ExpertLinear
from costgraph.ops.linear import Linear
from costgraph.ops.quant import QuantLinear
from costgraph.ops.tables import TableLinear
from costgraph.rewriting.rewrite import rebuild

#: Types of weights that are not stored narrow.
WIDE = ("fp16", "bf16", "tf32", "fp32")
Report = Callable[[str, str], None]


def tabled(program: Program, mu: Expr, hit: Callable[[str], None], miss: Report) -> Program:
    """``program`` with look-ups in place of products, where weights are stored narrow.

    Args:
        program: its tensors have their formats.
        mu: weights that are looked up at once.
        hit: told the name of each product that became look-ups.
        miss: told a product that did not, and why.
    """

    def looked_up(node: Node, operands: tuple[Tensor, ...]) -> Op:
        op = node.op
        if not isinstance(op, Linear) or isinstance(op, TableLinear):
            return op
        stored = operands[1].dtype
        if operands[1].role is not Role.WEIGHT or stored.compute in WIDE:
            return op
        if stored.planes is None:
            miss(node.name, f"{stored} is no sum of bits: it is converted, not looked up")
            return op
        if isinstance(op, ExpertLinear):
            miss(node.name, "products of experts are not looked up")
            return op
        hit(node.name)
        narrow = op if isinstance(op, QuantLinear) else QuantLinear()
        return TableLinear(
            op.bias,
            op.contract,
            op.split,
            narrow.result,
            sparse=narrow.sparse,
            planes=ceiling(stored.planes),
            mu=mu,
        )

    return program.rewritten(lambda graph: rebuild(graph, looked_up))
