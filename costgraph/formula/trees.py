"""Functions as data: what :mod:`.evaluate` compiles, as lists that JSON holds, and their value.

A tree is a number, or a list: the name of an operation and its operands. It comes from the
syntax of a function's text and is computed here operation by operation, in the same order
with the same arithmetic, so that its value is the function's to the last bit. Nothing of it
reaches ``eval``; what is none of the operations listed here is refused.

Neither writing nor reading one needs sympy.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from costgraph.formula import runtime

#: A number, or a list of an operation and its operands.
Tree = Any

_OPERATORS: Mapping[type, tuple[str, Callable[..., Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Pow: ("**", operator.pow),
    ast.USub: ("neg", operator.neg),
    ast.UAdd: ("pos", operator.pos),
}
#: Functions that a compiled formula may call, by the name that its text has.
CALLED: Mapping[str, Callable[..., Any]] = {
    "Fraction": Fraction,
    "max": max,
    "min": min,
    "int": int,
    "float": float,
    "ceil": math.ceil,
    "floor": math.floor,
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
    "power": runtime.power,
    "sum_affine": runtime.sum_affine,
    "sum_max": runtime.sum_max,
    "sum_loop": runtime.sum_loop,
    "sum_smooth": runtime.sum_smooth,
    "sum_pieces": runtime.sum_pieces,
    "norm": runtime.norm,
    "pair": runtime.pair,
}
_APPLIED: Mapping[str, Callable[..., Any]] = {**dict(_OPERATORS.values()), **CALLED}
#: What a tree holds besides: a place of the arguments, the index of a sum, several in one,
#: a summand, the summands at several indices, a body with values behind the arguments, and
#: one of two by whether the third is at least the fourth.
_ARGUMENT, _INDEX, _SEVERAL, _EACH, _ALL, _WITH, _IF_FROM = (
    "x", "t", "(", "each", "all", "with", "if>="
)  # fmt: skip


class Unknown(ValueError):
    """A text or a tree holds what is no operation."""


def tree_of(source: str) -> Tree:
    """The body of a function ``lambda x0, x1: …`` as a tree.

    Raises:
        Unknown: it holds something else than the operations of formulas.
    """
    parsed = ast.parse(source, mode="eval").body
    if not isinstance(parsed, ast.Lambda):
        raise Unknown(source[:40])
    return _tree(parsed.body, {a.arg: i for i, a in enumerate(parsed.args.args)})


def _tree(node: ast.expr, places: Mapping[str, int]) -> Tree:
    def inner(*nodes: ast.expr) -> list[Tree]:
        return [_tree(n, places) for n in nodes]

    match node:
        case ast.Constant(value=int() | float()):
            return node.value
        case ast.Name(id="t"):
            return [_INDEX]
        case ast.Name() if node.id in places:
            return [_ARGUMENT, places[node.id]]
        case ast.BinOp() if type(node.op) in _OPERATORS:
            return [_OPERATORS[type(node.op)][0], *inner(node.left, node.right)]
        case ast.UnaryOp() if type(node.op) in _OPERATORS:
            return [_OPERATORS[type(node.op)][0], *inner(node.operand)]
        case ast.Call(func=ast.Name() as called, keywords=[]) if called.id in CALLED:
            return [called.id, *inner(*node.args)]
        case ast.Call(func=ast.Attribute(value=ast.Name(id="math")) as called, keywords=[]) if (
            called.attr in CALLED
        ):
            return [called.attr, *inner(*node.args)]
        case ast.Call(func=ast.Lambda() as body, keywords=[]):
            named = {a.arg: i for i, a in enumerate(body.args.args, len(places))}
            return [_WITH, _tree(body.body, {**places, **named}), *inner(*node.args)]
        case ast.Lambda(body=ast.ListComp() as several):
            return [_ALL, *inner(several.elt)]
        case ast.Tuple():
            return [_SEVERAL, *inner(*node.elts)]
        case ast.Lambda():
            return [_EACH, *inner(node.body)]
        case ast.IfExp(test=ast.Compare(ops=[ast.GtE()]) as test):
            return [_IF_FROM, *inner(node.body, node.orelse, test.left, *test.comparators)]
    raise Unknown(type(node).__name__)


def value_of(tree: Tree, arguments: Sequence[Any], index: Any = None) -> Any:
    """The value of a tree.

    Args:
        tree: see the module.
        arguments: a number for each place.
        index: where a sum is.

    Raises:
        Unknown: it holds what is no operation.
        ArithmeticError: there is no finite value.
    """
    if isinstance(tree, (int, float)):
        return tree
    if not isinstance(tree, list) or not tree:
        raise Unknown(type(tree).__name__)
    head, *rest = tree
    if head == _ARGUMENT:
        return arguments[rest[0]]
    if head == _INDEX:
        return index
    if head == _EACH:
        return lambda t: value_of(rest[0], arguments, t)
    if head == _ALL:
        return lambda ts: [value_of(rest[0], arguments, t) for t in ts]
    if head == _WITH:
        body, *values = rest
        behind = [value_of(v, arguments, index) for v in values]
        return value_of(body, [*arguments, *behind], index)
    if head == _IF_FROM:
        body, other, left, right = rest
        held = value_of(left, arguments, index) >= value_of(right, arguments, index)
        return value_of(body if held else other, arguments, index)
    found = [value_of(part, arguments, index) for part in rest]
    if head == _SEVERAL:
        return tuple(found)
    if head not in _APPLIED:
        raise Unknown(str(head)[:40])
    return _APPLIED[head](*found)
