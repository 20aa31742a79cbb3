"""Products with one matrix of a stack per request: low-rank adapters of many tasks at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Mul

from costgraph.formula.least import least
from costgraph.ir.cost import ONE, Access, Work
from costgraph.ir.op import Spec, Tensors, expansion, merged, read, require, require_same, write
from costgraph.ops.experts import BALANCED, Routing
from costgraph.ops.linear import Linear

#: How the adapters of the requests of a batch differ: none alike, each drawn, all alike.
MIXES = ("distinct", "drawn", "identical")


@dataclass(frozen=True)
class AdapterLinear(Linear):
    """``y_b = x_b W_{a(b)}ᵀ``: each request ``b`` of the batch with the matrix of its adapter.

    Inputs ``x (B, …, ic…)`` and a stack ``W (N, oc, ic)``. Result ``(B, …, oc…)``, as wide
    as the matrices. One request is one row of the first dimension: all its tokens have the
    same adapter. An adapter is two of these, :class:`AdapterIn` and :class:`AdapterOut`.

    Work: ``2·rows·ic·oc`` FLOP, as with one matrix, and the conversion of an operand that is
    narrower. Of the stack only the matrices that the batch needs are read, each once (grouped
    kernels: Punica, arXiv 2310.18547; S-LoRA, arXiv 2311.03285). The table that says which
    request has which adapter, 4 byte a request, is not counted.

    Attributes:
        mix: ``drawn``: each request draws its adapter by ``routing``, independently, so
            that ``N·(1 − (1 − 1/N)^B)`` equally likely ones are read on average;
            ``distinct``: as many as there are requests; ``identical``: one.
        routing: how likely each adapter is; one is chosen.
    """

    kind: ClassVar[str] = "adapter-linear"
    mix: str = "drawn"
    routing: Routing = BALANCED

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2 and not self.bias, self, "takes two operands")
        require(self.mix in MIXES, self, "unknown mix {!r}", self.mix)
        x, w = inputs
        require(len(w.shape) == 3, self, "weight {} is not a stack of matrices", w)
        require(len(x.shape) > self.contract, self, "{} has no dimension of requests", x)
        _, oc, ic = w.shape
        require_same(self, Mul(*x.shape[-self.contract :]), ic, "contraction of {} and {}", x, w)
        tail = self.split or (oc,)
        require_same(self, Mul(*tail), oc, "split and output width")
        self.touched(inputs)  # refuses a popularity of other adapters
        return (Spec((*x.shape[: -self.contract], *tail), w.dtype),)

    def touched(self, inputs: Tensors) -> Expr:
        """Adapters whose matrices are read in one execution."""
        x, w = inputs[:2]
        if self.mix == "identical":
            return ONE
        if self.mix == "distinct":
            return least(w.shape[0], x.shape[0])
        return self.routing.touched(w.shape[0], ONE, x.shape[0])

    def gemm(self, inputs: Tensors) -> tuple[Expr, Expr, Expr, Expr]:
        """(groups, rows of each on average, ic, oc), as a grouped product sees them."""
        x, w = inputs[:2]
        groups = self.touched(inputs)
        return groups, Mul(*x.shape[: -self.contract]) / groups, w.shape[2], w.shape[1]

    def product(self, inputs: Tensors, outputs: Tensors) -> Expr:
        return 2 * outputs[0].numel * inputs[1].shape[2]

    def loaded(self, inputs: Tensors) -> Expr:
        w = inputs[1]
        return self.touched(inputs) * w.shape[1] * w.shape[2]

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return merged(super().work(inputs, outputs), expansion(inputs[0], inputs[1]))

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        x, w = inputs[:2]
        return (read(x), read(w, w.of_matrices(self.loaded(inputs))), write(outputs[0]))


@dataclass(frozen=True)
class AdapterIn(AdapterLinear):
    """The first matrix of an adapter: from the width of the model to the rank."""


@dataclass(frozen=True)
class AdapterOut(AdapterLinear):
    """The second matrix of an adapter: from the rank to the width of the result."""
