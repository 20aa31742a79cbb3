"""Latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): its products and its tiles.

Keys have two parts: content, made from a latent vector per position, and a
rotary part that all heads share. The latent vectors and rotary keys are cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Integer

from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Access, Direction, Work
from costgraph.ir.dtypes import compute_type
from costgraph.ir.op import (
    Op,
    Spec,
    Tensors,
    expansion,
    merged,
    read,
    require,
    require_same,
    vector,
    write,
)
from costgraph.ir.tensor import Role
from costgraph.ops.attention import (
    AttentionScores,
    AttentionValues,
    Softmax,
    compacted,
    converted,
    without_index,
)
from costgraph.ops.flash import FlashAttention


@dataclass(frozen=True)
class HeadLinear(Op):
    """A product per head: ``x (B, q, H, a)``, ``W (H, b, a)`` to ``(B, q, H, b)``.

    ``2·B·q·H·a·b`` FLOP. Weights stored narrower than they compute are converted
    in the kernel; the other operand keeps its width under quantisation.
    """

    kind: ClassVar[str] = "head-linear"
    converted: ClassVar[tuple[int, ...]] = (1,)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes x and a stack of matrices")
        x, w = inputs
        require(len(x.shape) == 4 and len(w.shape) == 3, self, "{} against {}", x, w)
        require_same(self, x.shape[2], w.shape[0], "heads")
        require_same(self, x.shape[3], w.shape[2], "contraction of {} and {}", x, w)
        return (Spec((*x.shape[:3], w.shape[1]), x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, w = inputs
        product: Work = {(Engine.TENSOR, compute_type(x.dtype, w.dtype)): 2 * x.numel * w.shape[1]}
        return merged(product, expansion(w, x))


@dataclass(frozen=True)
class SplitScores(AttentionScores):
    """``Q Kᵀ + Q' K'ᵀ``: scores of queries and keys in two parts.

    Inputs ``Q (B, q, H, a)``, ``Q' (B, q, H, b)``, ``K (B, T, Hk, a)``,
    ``K' (B, T, Hk', b)``; result ``(B, H, q, T)``. ``2·B·H·(a + b)`` FLOP per
    computed pair.
    """

    kind: ClassVar[str] = "split-qk-matmul"

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        found = compacted(self.pattern, Op.accesses(self, inputs, outputs), outputs[0])
        return found if self.paging is None else self.paging.reads(found, inputs[3])

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        given, index = without_index(self.pattern, inputs)
        require(len(given) == 4, self, "takes queries and keys in two parts each")
        query, query2, keys, keys2 = given
        whole = AttentionScores(self.pattern)
        (spec,) = whole.infer((query, keys, *index))
        (other,) = whole.infer((query2, keys2, *index))
        for axis, (a, b) in enumerate(zip(spec.shape, other.shape, strict=True)):
            require_same(self, a, b, "axis {} of the two parts", axis)
        return (spec,)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        (query, query2, keys, keys2), index = without_index(self.pattern, inputs)
        whole = AttentionScores(self.pattern)
        return merged(
            whole.work((query, keys, *index), outputs),
            whole.work((query2, keys2, *index), outputs),
        )


@dataclass(frozen=True)
class SplitFlash(FlashAttention):
    """Tiled attention over queries and keys in two parts.

    Operands are those of :class:`SplitScores`, then values; where the latent
    vectors serve as keys and values at once they are given twice and read once.
    The query heads that share a latent vector (all of them) are packed into one
    block, as in :class:`FlashAttention`. Without a common cache rotary keys are read
    again for each of the content's key heads.
    """

    kind: ClassVar[str] = "split-flash-attention"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        given, index = without_index(self.pattern, inputs)
        require(len(given) == 5, self, "takes queries and keys in two parts each, and values")
        scores = SplitScores(self.pattern).infer((*given[:4], *index))[0].named("scores")
        return AttentionValues(self.pattern).infer((scores, given[4], *index))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        (*four, values), index = without_index(self.pattern, inputs)
        parts = (*four, *index)
        scores = SplitScores(self.pattern).infer(parts)[0].named("scores")
        product = AttentionValues(self.pattern).work((scores, values, *index), outputs)
        if values.name == inputs[2].name:  # converted once, for both products
            twice = converted(self.pattern, values, scores, scores.shape[2])
            product = {k: v - twice[k] if k in twice else v for k, v in product.items()}
        found = [
            SplitScores(self.pattern).work(parts, (scores,)),
            Softmax(self.pattern).work((scores,), (scores,)),
            {k: v for k, v in product.items() if v != 0},
        ]
        if self.splits != 1:
            found.append(vector(3 * self.splits * outputs[0].numel))
        return merged(*found)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        (query, query2, keys, keys2, values), index = without_index(self.pattern, inputs)
        new, heads = query.shape[1:3]
        context, key_heads = keys.shape[1:3]
        share = self._keys_read(new, context, key_heads / heads) / context
        again = Integer(1) if self.rows is None else key_heads / keys2.shape[2]
        found = [
            read(query),
            read(query2),
            read(keys, keys.bytes * share),
            read(keys2, keys2.bytes * share * again),
        ]
        if values.name != keys.name:
            found.append(read(values, values.bytes * share))
        found += [read(x) for x in index]
        found.append(write(outputs[0]))
        if self.splits != 1:
            out = outputs[0]
            partial = out.numel / out.shape[-1] * self.splits * (out.shape[-1] + 2) * 4
            found += [
                Access("partials", Role.ACTIVATION, direction, partial)
                for direction in (Direction.WRITE, Direction.READ)
            ]
        return tuple(found) if self.paging is None else self.paging.reads(tuple(found), keys2)
