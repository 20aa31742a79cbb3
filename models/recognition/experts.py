"""Experts written out: weights gathered per token, or rows sorted by expert."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer, Mul

from costgraph.hardware.machine import Machine
from costgraph.ir.graph import Node
from costgraph.ir.op import Op, same, same_shape
from costgraph.ir.tensor import Role
from costgraph.models.recognition.pieces import function, only_inside
from costgraph.ops import Combine, ExpertLinear
from costgraph.ops.arrays import Cast, Gather, Scatter
from costgraph.ops.maps import Cumulate, Reduce, TopK
from costgraph.ops.matmul import GroupedMatMul, MatMul
from costgraph.ops.tokens import Embedding
from costgraph.ops.views import Expand, Reshape, Slice, Transpose
from costgraph.rewriting.draft import Draft
from costgraph.rewriting.pipeline import Miss
from costgraph.rewriting.rewrite import Replacement

ONE = Integer(1)
#: Operations between the two products of an expert at most.
LONGEST = 24


class _Made:
    """New nodes under names of their own, results inferred."""

    def __init__(self, graph: Draft, prefix: str) -> None:
        self.tensors = dict(graph.tensors)
        self.nodes: list[Node] = []
        self.prefix = prefix

    def add(self, name: str, op: Op, *inputs: str) -> str:
        spec = op.infer(tuple(self.tensors[i] for i in inputs))[0]
        tensor = spec.named(f"{self.prefix}.{name}")
        self.tensors[tensor.name] = tensor
        self.nodes.append(Node(tensor.name, op, inputs, (tensor,)))
        return tensor.name

    def reshape(self, label: str, name: str, *shape: Expr) -> str:
        given = self.tensors[name].shape
        if same_shape(given, shape):
            return name
        return self.add(label, Reshape(tuple(shape)), name)

    def view(self, node: Node, name: str) -> Node:
        """The last new node: under the name and with the result of ``node``."""
        return Node(node.name, Reshape(node.outputs[0].shape), (name,), node.outputs)


def _stack(graph: Draft, name: str) -> tuple[str, bool] | None:
    """A stored stack of matrices ``(E, …, …)``, and whether it is turned, below ``name``."""
    turned = False
    node = graph.producer.get(name)
    while node is not None and isinstance(node.op, Transpose) and node.op.axes == (0, 2, 1):
        turned, name = not turned, node.inputs[0]
        node = graph.producer.get(name)
    tensor = graph.tensors[name]
    stored = node is None and tensor.role is Role.WEIGHT and len(tensor.shape) == 3
    return (name, turned) if stored else None


def _choice(graph: Draft, name: str) -> str:
    """The numbers ``(n, k)`` of chosen experts whose flat form ``name`` is, or ``name``."""
    at = name
    for _ in range(6):
        node = graph.producer.get(at)
        if node is None or not (isinstance(node.op, (Reshape, Cast)) or function(node) == "clip"):
            break
        at = node.inputs[0]
        shape = graph.tensors[at].shape
        if len(shape) == 2 and shape[1].is_Integer and shape[1] != 1:
            return at
    return name


def _below_views(graph: Draft, name: str) -> str:
    """The tensor that is no reshape of another."""
    node = graph.producer.get(name)
    while node is not None and isinstance(node.op, Reshape):
        name = node.inputs[0]
        node = graph.producer.get(name)
    return name


def _tokens(graph: Draft, name: str, n: Expr, k: Expr) -> str | None:
    """The tokens ``(n, …)`` that ``name`` repeats ``k`` times each, if it does."""
    for _ in range(6):
        node = graph.producer.get(name)
        if node is None or not isinstance(node.op, (Reshape, Expand)):
            return None
        name = node.inputs[0]
        if isinstance(node.op, Expand):
            wide, narrow = node.op.shape, graph.tensors[name].shape
            repeats = len(wide) == 3 and len(narrow) == 3 and narrow[1] == 1
            return name if repeats and same(wide[0], n) and same(wide[1], k) else None
    return None


@dataclass(frozen=True)
class GatheredExperts:
    """A row per chosen expert times a copy of its weights: a product grouped by expert."""

    name: str = "experts"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the batched product."""
        if not isinstance(node.op, MatMul) or len(node.outputs[0].shape) != 3:
            return None
        for side, rows in (node.inputs, node.inputs[::-1]):
            found = self._gathered(graph, side)
            if found is None:
                continue
            gather, turned = found
            stack = graph.tensors[gather.inputs[0]]
            # W·x keeps (oc, ic); x·W has it the other way round.
            right = side == node.inputs[1]
            one = graph.tensors[rows].shape[1 if right else 2]
            if one != 1 or graph.tensors[gather.inputs[1]].shape != (node.outputs[0].shape[0],):
                return None
            made = _Made(graph, node.name)
            weight = stack.name
            if turned != right:
                weight = made.add("weight", Transpose((0, 2, 1)), weight)
            result = _grouped(made, graph, rows, weight, gather.inputs[1])
            return Replacement((node,), made.view(node, result), tuple(made.nodes))
        return None

    def _gathered(self, graph: Draft, name: str) -> tuple[Node, bool] | None:
        """The node that copies experts' weights by number, and whether they are turned after."""
        turned = False
        node = graph.producer.get(name)
        while node is not None and isinstance(node.op, Transpose) and node.op.axes == (0, 2, 1):
            turned = not turned
            node = graph.producer.get(node.inputs[0])
        if node is None or not isinstance(node.op, Gather) or node.op.axis != 0:
            return None
        stack = graph.tensors[node.inputs[0]]
        stored = stack.role is Role.WEIGHT and stack.name not in graph.producer
        flat = len(graph.tensors[node.inputs[1]].shape) == 1
        return (node, turned) if stored and flat and len(stack.shape) == 3 else None


def _grouped(made: _Made, graph: Draft, rows: str, weight: str, flat: str) -> str:
    """Rows of the chosen experts ``(n, k, oc)``."""
    numbers = _choice(graph, flat)
    shape = graph.tensors[numbers].shape
    if len(shape) == 1:
        numbers = made.reshape("numbers", numbers, *shape, ONE)
        shape = (*shape, ONE)
    n, k = shape
    width = made.tensors[weight].shape[2]
    tokens = _tokens(graph, rows, n, k)
    if tokens is not None:
        x = made.reshape("tokens", _below_views(graph, tokens), n, width)
    else:
        x = made.reshape("rows", rows, n, k, width)
    return made.add("experts", ExpertLinear(), x, weight, numbers)


@dataclass(frozen=True)
class ExpertBias:
    """A row of biases looked up per chosen expert is the bias of the product grouped by expert."""

    name: str = "expert-bias"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the sum."""
        if function(node) != "add" or len(node.inputs) != 2:
            return None
        for rows, other in (node.inputs, node.inputs[::-1]):
            product = graph.producer.get(_below_views(graph, rows))
            looked_up = _rows_of_table(graph, other)
            if product is None or looked_up is None:
                continue
            made = _Made(graph, node.name)
            operand = self._operand(graph, product, looked_up, made)
            if operand is None:
                continue
            chain = [product, *_views(graph, rows), node]
            if not only_inside(graph, chain, node):
                return Miss(self.name, node.name, "the product is needed without its bias")
            op = replace(product.op, bias=True)  # type: ignore[type-var]
            result = made.add("biased", op, *product.inputs, operand)
            return Replacement(tuple(chain), made.view(node, result), tuple(made.nodes))
        return None

    def _operand(
        self, graph: Draft, product: Node, looked_up: tuple[str, str], made: _Made
    ) -> str | None:
        """The biases of all experts as the product takes them."""
        table, numbers = looked_up
        if type(product.op) is ExpertLinear and not product.op.bias:
            if _choice(graph, numbers) != product.inputs[2]:
                return None
            return made.reshape("bias", table, Mul(*graph.tensors[table].shape))
        sorting = graph.producer.get(numbers)
        grouped = isinstance(product.op, GroupedMatMul) and not product.op.bias
        return table if grouped and sorting and isinstance(sorting.op, TopK) else None


def _rows_of_table(graph: Draft, name: str) -> tuple[str, str] | None:
    """(table, numbers) if a tensor is rows of a stored matrix by numbers."""
    node = graph.producer.get(name)
    if node is None or not isinstance(node.op, (Gather, Embedding)):
        return None
    if isinstance(node.op, Gather) and node.op.axis != 0:
        return None
    table, numbers = node.inputs if isinstance(node.op, Gather) else node.inputs[::-1]
    stored = graph.tensors[table].role is Role.WEIGHT and len(graph.tensors[table].shape) == 2
    return (table, numbers) if stored else None


def _views(graph: Draft, name: str) -> list[Node]:
    found = []
    node = graph.producer.get(name)
    while node is not None and isinstance(node.op, Reshape):
        found.append(node)
        node = graph.producer.get(node.inputs[0])
    return found


@dataclass(frozen=True)
class WeightedSum:
    """Experts' rows times their weights, summed per token."""

    name: str = "combine"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the sum."""
        scaled = _summed(graph, node)
        if scaled is None:
            return None
        product, (n, k, d) = scaled
        for rows, factors in (product.inputs, product.inputs[::-1]):
            weights = _below_views(graph, factors)
            shape = graph.tensors[weights].shape
            fits = len(shape) == 2 and same(shape[0], n) and same(shape[1], k)
            maker = graph.producer.get(_below_views(graph, rows))
            if not fits or maker is None or not isinstance(maker.op, ExpertLinear):
                continue
            chain = [product, *_views(graph, node.inputs[0]), node]
            if not only_inside(graph, chain, node):
                return Miss(self.name, node.name, "weighted rows are needed elsewhere")
            made = _Made(graph, node.name)
            y = made.reshape("rows", _below_views(graph, rows), n, k, d)
            new = Node(node.name, Combine(), (y, weights), node.outputs)
            return Replacement(tuple(chain), new, tuple(made.nodes))
        return None


def _summed(graph: Draft, node: Node) -> tuple[Node, tuple[Expr, ...]] | None:
    """The product whose ``(n, k, d)`` form a node sums over ``k``, and that form."""
    if not isinstance(node.op, Reduce) or node.op.function != "sum" or node.op.keep:
        return None
    shape = graph.operands(node)[0].shape
    if len(shape) != 3 or node.op.axes != (1,):
        return None
    product = graph.producer.get(_below_views(graph, node.inputs[0]))
    if function(product) != "mul" or product is None or len(product.inputs) != 2:
        return None
    return product, shape


@dataclass(frozen=True)
class SortedExperts:
    """Rows sorted by expert, two grouped products, rows put back and weighed.

    An engine groups rows in the kernel of the product and adds them up by token: the
    same products, without rows that are copied into another order and back.
    """

    name: str = "sorted-experts"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the sum over a token's experts."""
        if not isinstance(node.op, Reduce) or node.op.function != "sum" or node.op.axes != (1,):
            return None
        shape = graph.operands(node)[0].shape
        back = graph.producer.get(_below_views(graph, node.inputs[0]))
        if len(shape) != 3 or back is None or not _reorders(graph, back):
            return None
        n, k, d = shape
        scaled = graph.producer.get(back.inputs[0])
        if scaled is None or function(scaled) != "mul":
            return None
        for rows, factors in (scaled.inputs, scaled.inputs[::-1]):
            order = graph.producer.get(_below_views(graph, factors))
            second = graph.producer.get(_below_views(graph, rows))
            if order is None or second is None or not isinstance(second.op, GroupedMatMul):
                continue
            if not isinstance(order.op, Gather):
                continue
            weights = _below_views(graph, order.inputs[0])
            middle = _middle(graph, second)
            if middle is None:
                return Miss(self.name, node.name, "what is between its products is not understood")
            first, inner = middle
            numbers = self._numbers(graph, first, second)
            taken = graph.producer.get(first.inputs[0])
            if numbers is None or taken is None or not isinstance(taken.op, Gather):
                return Miss(self.name, node.name, "its rows are not sorted by expert")
            chain = [taken, first, *inner, second, *_views(graph, rows), scaled, back,
                     *_views(graph, node.inputs[0]), node]  # fmt: skip
            if not only_inside(graph, chain, node):
                return Miss(self.name, node.name, "sorted rows are needed elsewhere")
            return self._experts(
                graph, node, chain, (taken, first, inner, second), numbers, weights, (n, k, d)
            )
        return None

    def _numbers(self, graph: Draft, first: Node, second: Node) -> str | None:
        """The chosen experts ``(n, k)`` by whose sorted numbers rows are grouped."""
        if first.inputs[2] != second.inputs[2]:
            return None
        at = first.inputs[2]
        for _ in range(8):
            node = graph.producer.get(at)
            if node is None:
                return None
            if isinstance(node.op, TopK):
                found = _choice(graph, node.inputs[0])
                return found if len(graph.tensors[found].shape) == 2 else None
            if not isinstance(node.op, (Cumulate, Scatter, Cast, Reshape)):
                return None
            at = node.inputs[-1]
        return None

    def _experts(
        self,
        graph: Draft,
        node: Node,
        chain: list[Node],
        parts: tuple[Node, Node, list[Node], Node],
        numbers: str,
        weights: str,
        shape: tuple[Expr, Expr, Expr],
    ) -> Replacement | None:
        taken, first, inner, second = parts
        n, k, _ = shape
        made = _Made(graph, node.name)

        def product(label: str, at: Node, x: str) -> str | None:
            stack = _stack(graph, at.inputs[1])
            if stack is None:
                return None
            weight, turned = stack
            if not turned:
                weight = made.add(f"{label}_weight", Transpose((0, 2, 1)), weight)
            biases = [made.reshape(f"{label}_bias", b, graph.tensors[b].numel)
                      for b in at.inputs[3:]]  # fmt: skip
            return made.add(label, ExpertLinear(bool(biases)), x, weight, numbers, *biases)

        width = graph.operands(first)[0].shape[1]
        x = made.reshape("tokens", _below_views(graph, taken.inputs[0]), n, width)
        one = product("first", first, x)
        if one is None:
            return None
        made.nodes.append(made.view(first, one))
        made.tensors[first.output] = first.outputs[0]
        for step in inner:
            made.nodes.append(step)
            made.tensors.update((t.name, t) for t in step.outputs)
        rows = made.reshape("rows", second.inputs[0], n, k, graph.operands(second)[0].shape[1])
        two = product("second", second, rows)
        if two is None:
            return None
        weighed = made.reshape("weights", weights, n, k)
        new = Node(node.name, Combine(), (two, weighed), node.outputs)
        return Replacement(tuple(chain), new, tuple(made.nodes))


def _reorders(graph: Draft, node: Node) -> bool:
    """True if a node puts sorted rows back: by numbers that were scattered by the order."""
    if not isinstance(node.op, Gather) or node.op.axis != 0:
        return False
    order = graph.producer.get(node.inputs[1])
    if order is None:
        return False
    sorting = graph.producer.get(order.inputs[1]) if isinstance(order.op, Scatter) else (
        graph.producer.get(order.inputs[0]) if isinstance(order.op, TopK) else None
    )  # fmt: skip
    return sorting is not None and isinstance(sorting.op, TopK)


def _middle(graph: Draft, second: Node) -> tuple[Node, list[Node]] | None:
    """The first grouped product, and the element-wise nodes from it to the second, in order."""
    found: dict[str, Node] = {}
    first: Node | None = None
    open_ = [second.inputs[0]]
    while open_:
        node = graph.producer.get(open_.pop())
        if node is None or len(found) > LONGEST:
            return None
        if isinstance(node.op, GroupedMatMul):
            if first is not None and first.name != node.name:
                return None
            first = node
            continue
        plain = node.op.kind in ("activation", "multiply", "add", "scale", "map", "cast")
        if not plain and not isinstance(node.op, (Slice, Reshape)):
            return None
        found[node.name] = node
        open_.extend(i for i in node.inputs if i in graph.producer)
    if first is None:
        return None
    return first, sorted(found.values(), key=graph.position)
