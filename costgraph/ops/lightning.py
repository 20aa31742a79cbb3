"""Lightning attention: linear attention with a fixed decay per head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, ceiling, floor

from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Work
from costgraph.ir.dtypes import compute_type
from costgraph.ir.op import Op, Spec, Tensors, merged, require, vector
from costgraph.ops.scan import check_form, check_shape, check_state, chunk_pairs, kept


@dataclass(frozen=True)
class Lightning(Op):
    """Lightning attention (Qin et al., arXiv 2401.04658; MiniMax-01, arXiv 2501.08313).

    Inputs queries and keys ``(B, q, H, K)``, values ``(B, q, H, V)``, state ``(B, H, K, V)``;
    results ``(B, q, H, V)`` and the state. Decays are constants of the kernel.

    ``recurrent``, per token and state element: decay (1), rank-1 update (2), contraction with
    the query (2) = 5.

    Chunks of ``C`` positions, per head: ``Q·Kᵀ`` (``2·K`` per pair), its decay (1), times values
    (``2·V``); queries times the state and its update (``2·K·V`` per token each). Element-wise:
    decays of queries and keys, the sum of both results, the state's decay and sum per chunk.
    ``chunked`` counts useful pairs, ``dense`` and ``reference`` whole squares; the last chunk is
    as long as it is in each.

    Attributes:
        form: one of :data:`costgraph.ops.scan.FORMS`.
        chunk: positions per chunk.
    """

    kind: ClassVar[str] = "lightning"
    form: str = "recurrent"
    chunk: Expr = Integer(256)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        check_form(self.form)
        require(len(inputs) == 4, self, "takes q, k, v and a state")
        query, key, value, state = inputs
        require(len(key.shape) == 4 and len(value.shape) == 4, self, "{}, {}: 4 axes", key, value)
        batch, tokens, heads, wide = key.shape
        check_shape(self, query, *key.shape)
        check_shape(self, value, batch, tokens, heads, value.shape[3])
        check_state(self, state, batch, heads, wide, value.shape[3])
        return (Spec(value.shape, value.dtype), kept(state))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        _, key, value = inputs[:3]
        batch, tokens, heads, wide = key.shape
        deep = value.shape[3]
        elements = batch * tokens * heads * wide * deep
        if self.form == "recurrent":
            return vector(5 * elements)
        pairs = batch * heads * self._pairs(tokens)
        chunks = ceiling(tokens / self.chunk)
        passed = 2 * batch * heads * wide * deep * chunks
        other = pairs + 2 * key.numel + value.numel + passed
        product = 2 * (wide + deep) * pairs + 4 * elements
        engine = (Engine.TENSOR, compute_type(key.dtype, value.dtype))
        return merged(vector(other), {engine: product})

    def _pairs(self, tokens: Expr) -> Expr:
        if self.form == "chunked":
            return chunk_pairs(tokens, self.chunk, self.form)
        whole = floor(tokens / self.chunk)
        return whole * self.chunk**2 + (tokens - whole * self.chunk) ** 2
