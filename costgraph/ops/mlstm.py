"""The matrix memory of xLSTM: linear attention with exponential gates and a normaliser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, ceiling

from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Work
from costgraph.ir.dtypes import compute_type
from costgraph.ir.op import Op, Spec, Tensors, merged, require, vector_special
from costgraph.ops.scan import check_form, check_shape, check_state, chunk_pairs, kept


@dataclass(frozen=True)
class MatrixMemory(Op):
    """The mLSTM (Beck et al., arXiv 2405.04517, section 2.3; in chunks arXiv 2503.14376).

    Inputs queries and keys ``(B, q, H, K)``, values ``(B, q, H, V)``, input and forget gates
    before their functions ``(B, q, H)``, states: the matrix ``(B, H, K, V)``, the normaliser
    ``(B, H, K)`` and the largest exponent ``(B, H)``; results ``(B, q, H, V)`` and the states.

    Gates, per token and head: the logarithm of a sigmoid (4 and 2 special), the new largest
    exponent (2), both gates relative to it (2 subtractions of one, 1 of the other and 2
    exponentials).

    ``recurrent``, per token: 5 per element of the matrix (decay, rank-1 update, contraction);
    keys times the gate and queries scaled (2 per ``K``); the normaliser's decay, update and
    product with the query (4 per ``K``); the larger of it and an exponential (3, 1 special) and
    the quotient (1 per ``V``).

    Chunks of ``C`` positions, per pair: scores (``2·K``), the gate's exponent (3) and
    exponential, the product with it and its part of the normaliser (2), values (``2·V``). Per
    token: the state's part of results and of the normaliser (``2·K·V``, ``2·K``), the update of
    both (``2·K·V``, ``2·K``), queries scaled and keys times gates (``2·K``), the sum and the
    quotient of results (``2·V``), 3 and one exponential for the normaliser; per chunk the decay
    of both states (``2·K·V``, ``2·K``). Useful pairs as in
    :func:`costgraph.ops.scan.chunk_pairs`.

    Attributes:
        form: one of :data:`costgraph.ops.scan.FORMS`.
        chunk: positions per chunk.
    """

    kind: ClassVar[str] = "matrix-memory"
    form: str = "recurrent"
    chunk: Expr = Integer(64)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        check_form(self.form)
        require(len(inputs) == 8, self, "takes q, k, v, two gates and three states")
        query, key, value, first, second, *states = inputs
        require(len(key.shape) == 4 and len(value.shape) == 4, self, "{}, {}: 4 axes", key, value)
        batch, tokens, heads, wide = key.shape
        deep = value.shape[3]
        check_shape(self, query, *key.shape)
        check_shape(self, value, batch, tokens, heads, deep)
        for gate in (first, second):
            check_shape(self, gate, batch, tokens, heads)
        for state, sizes in zip(states, ((wide, deep), (wide,), ()), strict=True):
            check_state(self, state, batch, heads, *sizes)
        return (Spec(value.shape, value.dtype), *(kept(state) for state in states))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        key, value = inputs[1:3]
        batch, tokens, heads, wide = key.shape
        deep = value.shape[3]
        rows = batch * tokens * heads
        gates, special = 9 * rows, 4 * rows
        elements = rows * wide * deep
        if self.form == "recurrent":
            plain = 5 * elements + rows * (6 * wide + deep + 3)
            return vector_special(plain + gates, special + rows)
        pairs = batch * heads * chunk_pairs(tokens, self.chunk, self.form)
        passed = 2 * batch * heads * ceiling(tokens / self.chunk) * wide * (deep + 1)
        other = 5 * pairs + rows * (6 * wide + 2 * deep + 3) + passed
        product = 2 * (wide + deep) * pairs + 4 * elements
        engine = (Engine.TENSOR, compute_type(key.dtype, value.dtype))
        return merged(vector_special(other + gates, special + pairs + rows), {engine: product})
