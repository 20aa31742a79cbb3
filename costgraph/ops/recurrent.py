"""Linear recurrences with gates: RWKV, the gated delta rule, RG-LRU.

States of constant size, as in :mod:`costgraph.ops.scan`, whose conventions hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, ceiling

from costgraph.errors import VerifyError
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Work
from costgraph.ir.dtypes import compute_type
from costgraph.ir.op import Op, Spec, Tensors, expansion, merged, require, vector, vector_special
from costgraph.ops.scan import (
    check_form,
    check_shape,
    check_state,
    chunk_pairs,
    computed_tokens,
    kept,
)


@dataclass(frozen=True)
class TokenShift(Op):
    """RWKV's token shift: ``x·m + previous x·(1 − m)`` for several mixes ``m``.

    Inputs ``x (B, q, D)``, ``mixes`` vectors ``(D)``, and as state the last
    position ``(B, D)``. Results one ``(B, q, D)`` per mix, and the state. 3 FLOP
    per result element, and ``1 − m`` once per mix.
    """

    kind: ClassVar[str] = "token-shift"
    mixes: int = 1

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2 + self.mixes, self, f"takes x, {self.mixes} mixes and a state")
        x, *mixes, state = inputs
        require(len(x.shape) == 3, self, "{} is not (B, q, D)", x)
        for mix in mixes:
            check_shape(self, mix, x.shape[2])
        check_state(self, state, x.shape[0], x.shape[2])
        return (*(Spec(x.shape, x.dtype) for _ in mixes), kept(state))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(self.mixes * (3 * inputs[0].numel + inputs[1].numel))


@dataclass(frozen=True)
class WKV(Op):
    """RWKV-4's attention-free mixing (Peng et al., arXiv:2305.13048, appendix D).

    Inputs keys and values ``(B, q, D)``, ``decay (D)``, ``bonus (D)``, state
    ``(B, D, 3)``: numerator, denominator and largest exponent. Results
    ``(B, q, D)`` and the state.

    Per token and channel, in the form that cannot overflow: output: bonus, max,
    two differences, weighted numerator (3) and denominator (2), quotient = 10;
    update: decay, max, two differences, numerator (3), denominator (2) = 9; four
    exponentials. ``−exp(decay)`` once.
    """

    kind: ClassVar[str] = "wkv"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 5, self, "takes keys, values, decay, bonus and a state")
        key, value, decay, bonus, state = inputs
        require(len(key.shape) == 3, self, "{} is not (B, q, D)", key)
        check_shape(self, value, *key.shape)
        check_shape(self, decay, key.shape[2])
        check_shape(self, bonus, key.shape[2])
        check_state(self, state, key.shape[0], key.shape[2], Integer(3))
        return (Spec(key.shape, key.dtype), kept(state))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        n, d = inputs[0].numel, inputs[2].numel
        return vector_special(19 * n + d, 4 * n + d)


@dataclass(frozen=True)
class MatrixWKV(Op):
    """RWKV-5 and RWKV-6 mixing with a matrix state (Peng et al., arXiv:2404.05892).

    Inputs receptance and keys ``(B, q, H, K)``, values ``(B, q, H, V)``, decay
    ``(H, K)`` (RWKV-5) or ``(B, q, H, K)`` (RWKV-6, one per token), bonus
    ``(H, K)``, state ``(B, H, K, V)``; results ``(B, q, H·V)`` and the state.

    Per token and state element: outer product, bonus, sum, contraction with
    the receptance (2), decay, update = 7. ``exp(−exp(decay))``: two
    exponentials and a negation per decay.
    """

    kind: ClassVar[str] = "matrix-wkv"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 6, self, "takes r, k, v, decay, bonus and a state")
        r, key, value, decay, bonus, state = inputs
        require(
            len(r.shape) == 4 and len(value.shape) == 4, self, "{} and {} need 4 axes", r, value
        )
        batch, tokens, heads, wide = r.shape
        deep = value.shape[3]
        check_shape(self, key, *r.shape)
        check_shape(self, value, batch, tokens, heads, deep)
        check_shape(self, decay, *(r.shape if len(decay.shape) == 4 else r.shape[2:]))
        check_shape(self, bonus, heads, wide)
        check_state(self, state, batch, heads, wide, deep)
        return (Spec((batch, tokens, heads * deep), r.dtype), kept(state))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        decay = inputs[3].numel
        return vector_special(7 * inputs[1].numel * inputs[2].shape[3] + decay, 2 * decay)


@dataclass(frozen=True)
class GatedDelta(Op):
    """The gated delta rule (Yang, Kautz, Hatamizadeh, arXiv:2412.06464).

    Inputs queries and keys ``(B, q, G, K)``, values ``(B, q, H, V)`` (``H/G``
    value heads share a key head), raw gates ``a, b (B, q, H)``, ``A_log (H)``,
    ``dt_bias (H)``, state ``(B, H, K, V)``; results ``(B, q, H, V)`` and the state.

    In every form, per query and key element: L2 norm (square, sum, scale) and,
    for queries, the scale 1/√K; per row epsilon and a reciprocal root. Per token and head:
    ``sigmoid(b)`` (2 and an exponential), bias, softplus, ``·(−exp A_log)``,
    exponential.

    ``recurrent``, per token and state element: decay (1), what the key recalls
    (2), rank-1 update (2), contraction with the query (2) = 7; per value
    element: subtract, times beta.

    Chunks of ``C`` positions (section 3.3 there and arXiv:2406.06484), per value
    head: ``K·Kᵀ`` and ``Q·Kᵀ`` (``2·K`` per pair), a unit lower triangular solve
    for ``K + V`` columns (``2·(K + V)`` per earlier position), scores times new
    values (``2·V`` per pair); what the state holds for keys, its part of the
    result and its update (``2·K·V`` per token each). Element-wise: beta times
    keys and values, decays of keys (twice) and queries, decay of pairs twice
    (subtract, exponential, multiply), new values and the sum of results, the
    state's decay per chunk.

    In ``reference`` the solve is a library routine, which is not a matrix
    product: it counts on the vector engine.

    Attributes:
        form: one of :data:`costgraph.ops.scan.FORMS`.
        chunk: positions per chunk.
    """

    kind: ClassVar[str] = "gated-delta"
    form: str = "recurrent"
    chunk: Expr = Integer(64)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        check_form(self.form)
        require(len(inputs) == 8, self, "takes q, k, v, a, b, A, a bias and a state")
        query, key, value, a, b, log, bias, state = inputs
        require(len(key.shape) == 4 and len(value.shape) == 4, self, "{}, {}: 4 axes", key, value)
        batch, tokens, groups, wide = key.shape
        heads, deep = value.shape[2:]
        if (heads / groups).is_Integer is False:
            raise VerifyError(f"{self.kind}: {heads} value heads over {groups} key heads")
        check_shape(self, query, *key.shape)
        check_shape(self, value, batch, tokens, heads, deep)
        check_shape(self, a, batch, tokens, heads)
        check_shape(self, b, batch, tokens, heads)
        check_shape(self, log, heads)
        check_shape(self, bias, heads)
        check_state(self, state, batch, heads, wide, deep)
        return (Spec(value.shape, value.dtype), kept(state))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        _, key, value, gate = inputs[:4]
        batch, tokens, groups, wide = key.shape
        heads, deep = value.shape[2:]
        gates, values = gate.numel, value.numel
        rows = 2 * batch * tokens * groups
        common = vector_special(
            3 * rows * wide + rows * wide / 2 + rows + 5 * gates + heads,
            rows + 4 * gates + heads,
        )
        elements = batch * tokens * heads * wide * deep
        if self.form == "recurrent":
            return merged(common, vector(7 * elements + 2 * values))
        pairs = batch * heads * chunk_pairs(tokens, self.chunk, self.form)
        places = batch * heads * computed_tokens(tokens, self.chunk, self.form)
        earlier = pairs - places if self.form == "chunked" else pairs
        chunks = ceiling(tokens / self.chunk)
        products = (4 * wide + 2 * deep) * pairs + 6 * wide * deep * places
        solve = 2 * (wide + deep) * earlier
        keys = batch * tokens * heads * wide
        extra = vector_special(
            (1 + 2 + 1) * keys
            + values
            + 2 * values
            + 3 * pairs
            + gates
            + 2 * batch * heads * wide * deep * chunks,
            pairs + 2 * gates + batch * heads * chunks,
        )
        if self.form == "reference":
            extra = merged(extra, vector(solve))
        else:
            products += solve
        key_type = (Engine.TENSOR, compute_type(key.dtype, value.dtype))
        return merged(common, extra, {key_type: products})


@dataclass(frozen=True)
class GatedLinearRecurrence(Op):
    """The RG-LRU of Griffin and RecurrentGemma (De et al., arXiv:2402.19427, section 2.4).

    Inputs ``x``, raw input gate and raw recurrence gate ``(B, q, W)``, ``Λ (W)``,
    state ``(B, W)``; results ``(B, q, W)`` and the state.

    Per element: two sigmoids (2 and an exponential each), ``−8·r·softplus(Λ)``
    (1, the constant folded into the vector), decay ``a`` (an exponential) and
    ``a²`` (1), gated input (1), ``√(1 − a²)`` (1 and a root) times it (1),
    ``a·h + …`` (2). ``8·softplus(Λ)`` once per channel.
    """

    kind: ClassVar[str] = "rg-lru"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 5, self, "takes x, two gates, a parameter and a state")
        x, gate, decay, parameter, state = inputs
        require(len(x.shape) == 3, self, "{} is not (B, q, W)", x)
        check_shape(self, gate, *x.shape)
        check_shape(self, decay, *x.shape)
        check_shape(self, parameter, x.shape[2])
        check_state(self, state, x.shape[0], x.shape[2])
        return (Spec(x.shape, x.dtype), kept(state))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        n, w = inputs[0].numel, inputs[3].numel
        return vector_special(11 * n + 2 * w, 4 * n + 2 * w)


@dataclass(frozen=True)
class BlockLinear(Op):
    """``y = x W + b`` with a block-diagonal ``W``: ``x (B, q, W)``, ``W (h, W/h, O/h)``.

    Bias ``(O)``; result ``(B, q, O)``. Each of the ``h`` blocks is a product of
    its own: ``2·W·O/h`` FLOP per row.
    """

    kind: ClassVar[str] = "block-linear"
    converted: ClassVar[tuple[int, ...]] = (1,)
    bias: bool = True

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2 + self.bias, self, f"takes {2 + self.bias} operands")
        x, w = inputs[:2]
        require(len(x.shape) == 3 and len(w.shape) == 3, self, "{} does not fit {}", w, x)
        blocks, ic, oc = w.shape
        check_shape(self, x, *x.shape[:2], blocks * ic)
        if self.bias:
            check_shape(self, inputs[2], blocks * oc)
        return (Spec((*x.shape[:2], blocks * oc), x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, w = inputs[:2]
        key = (Engine.TENSOR, compute_type(x.dtype, w.dtype))
        added: Work = vector(outputs[0].numel) if self.bias else {}
        return merged({key: 2 * x.numel * w.shape[2]}, added, expansion(w, x))
