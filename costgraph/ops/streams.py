"""Hyper-connections: how several streams of a hidden state are mixed, from a few numbers each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, Mul

from costgraph.ir.cost import Work
from costgraph.ir.op import Op, Spec, Tensors, require, require_same, vector_special
from costgraph.ops.elementwise import ACTIVATIONS

ONE = Integer(1)


@dataclass(frozen=True)
class StreamGates(Op):
    """Numbers for ``n`` streams, from products ``(B, q, (2 + n)·n)``: three results.

    ``apart``: streams are not mixed with one another. There are ``2·n`` products, two scales and
    two results; what a layer writes has a small number added, as what it reads has (``n`` more).

    ``n`` weights of what a layer reads and ``n`` of what it writes (sigmoids, the latter
    doubled), and a matrix ``(n, n)`` for the streams themselves: a softmax, made doubly
    stochastic by ``rounds`` of Sinkhorn's iterations. Further inputs: what is added, one for
    each, and three scales. Work per token: 2 for each of the products; sigmoids, and ``n``
    additions and ``n`` products; 5 per element of the matrix for its softmax and 1 to add; per
    round sums and quotients of rows and columns (``4n²``), of which the first has half.
    Source: manifold-constrained hyper-connections, arXiv 2512.24880; DeepSeek-V4's code.
    """

    kind: ClassVar[str] = "stream-gates"
    streams: Expr
    rounds: Expr
    apart: bool = False

    @property
    def numbers(self) -> Expr:
        """How many numbers it takes for a token."""
        return (2 + (0 if self.apart else self.streams)) * self.streams

    @property
    def scales(self) -> Expr:
        """How many scales there are, one for each result."""
        return Integer(2 if self.apart else 3)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 3, self, "takes products, what is added, scales")
        x, base, scale = inputs
        n = self.streams
        require_same(self, x.shape[-1], self.numbers, "numbers of {}", x)
        require_same(self, base.shape[0], self.numbers, "numbers of {}", base)
        require_same(self, scale.shape[0], self.scales, "numbers of {}", scale)
        lead = x.shape[:-1]
        shapes = ((n, ONE), (n, ONE), (n, n))[: int(self.scales)]
        return tuple(Spec((*lead, *shape), x.dtype) for shape in shapes)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        n, rows = self.streams, Mul(*inputs[0].shape[:-1])
        plain, special = ACTIVATIONS["sigmoid"]
        gates = 2 * self.numbers + 2 * n * plain + 2 * n
        if self.apart:
            return vector_special(rows * (gates + n), rows * 2 * n * special)
        matrix = 4 * n**2 + n**2 + (2 * self.rounds - 1) * 2 * n**2
        return vector_special(rows * (gates + matrix), rows * (2 * n * special + n**2))
