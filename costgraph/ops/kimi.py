"""Kimi delta attention: the gated delta rule with a decay for each channel of the keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, ceiling

from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Work
from costgraph.ir.dtypes import compute_type
from costgraph.ir.op import Op, Spec, Tensors, merged, require, same, vector, vector_special
from costgraph.ops.scan import (
    check_form,
    check_shape,
    check_state,
    chunk_pairs,
    computed_tokens,
    kept,
)


@dataclass(frozen=True)
class KimiDelta(Op):
    """Kimi delta attention (Kimi Linear, arXiv 2510.26692, section 3).

    Inputs queries and keys ``(B, q, H, K)``, values ``(B, q, H, V)``, raw decays
    ``(B, q, H, K)``, raw ``beta (B, q, H)``, ``A_log (H)``, or ``(K)`` in Kimi K3,
    ``dt_bias (H·K)``, state ``(B, H, K, V)``; results ``(B, q, H, V)`` and the state.

    As :class:`~costgraph.ops.recurrent.GatedDelta`, with the decay's bias, softplus, product and
    exponential per channel. ``recurrent``: the same 7 per token and state element. In chunks
    decays multiply queries and keys in front of the products, in place of the pairs behind
    them: per channel one cumulative sum, two differences, three exponentials, four products.

    Attributes:
        form: one of :data:`costgraph.ops.scan.FORMS`.
        chunk: positions per chunk.
    """

    kind: ClassVar[str] = "kimi-delta"
    form: str = "recurrent"
    chunk: Expr = Integer(64)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        check_form(self.form)
        require(len(inputs) == 8, self, "takes q, k, v, decays, beta, A, a bias and a state")
        query, key, value, decay, beta, log, bias, state = inputs
        require(len(key.shape) == 4 and len(value.shape) == 4, self, "{}, {}: 4 axes", key, value)
        batch, tokens, heads, wide = key.shape
        check_shape(self, query, *key.shape)
        check_shape(self, decay, *key.shape)
        check_shape(self, value, batch, tokens, heads, value.shape[3])
        check_shape(self, beta, batch, tokens, heads)
        if not (len(log.shape) == 1 and same(log.shape[0], wide)):
            check_shape(self, log, heads)
        check_shape(self, bias, heads * wide)
        check_state(self, state, batch, heads, wide, value.shape[3])
        return (Spec(value.shape, value.dtype), kept(state))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        _, key, value, decay, beta, log = inputs[:6]
        batch, tokens, heads, wide = key.shape
        deep, rows = value.shape[3], 2 * batch * tokens * heads
        common = vector_special(
            3 * rows * wide + rows * wide / 2 + rows + 3 * decay.numel + 2 * beta.numel + log.numel,
            rows + 3 * decay.numel + beta.numel + log.numel,
        )
        elements = batch * tokens * heads * wide * deep
        if self.form == "recurrent":
            return merged(common, vector(7 * elements + 2 * value.numel))
        pairs = batch * heads * chunk_pairs(tokens, self.chunk, self.form)
        places = batch * heads * computed_tokens(tokens, self.chunk, self.form)
        earlier = pairs - places if self.form == "chunked" else pairs
        passed = 2 * batch * heads * wide * deep * ceiling(tokens / self.chunk)
        products = (4 * wide + 2 * deep) * pairs + 6 * wide * deep * places
        products += 2 * (wide + deep) * earlier
        other = (1 + 1 + 2 + 4) * key.numel + 3 * value.numel + passed
        engine = (Engine.TENSOR, compute_type(key.dtype, value.dtype))
        return merged(common, vector_special(other, 3 * key.numel), {engine: products})
