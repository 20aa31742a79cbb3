"""Attention: cache append, scores, softmax, weighted values.

Layouts: queries ``(B, q, H, dh)``; caches ``(B, T, Hk, dh)``; scores
``(B, H, q, T)``. Grouped-query attention reads each cached head once, however
many query heads share it.

What positions see, and what stays in a cache, says a pattern
(:mod:`costgraph.ops.pattern`). Where a step finds only some of the context, such as a
window of it, ``T`` in these layouts is how many rows it finds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from sympy import Expr, Mul

from costgraph.formula.least import least
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import ONE, ZERO, Access, Direction, Work
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
    vector_special,
    write,
)
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.elementwise import SoftCap
from costgraph.ops.pattern import CAUSAL, Pattern

if TYPE_CHECKING:
    from costgraph.ops.paged import Paging


@dataclass(frozen=True)
class KVAppend(Op):
    """Appends new keys or values to a cache: ``cache (B, T−q, Hk, dh)``, ``new (B, q, Hk, dh)``.

    The result ``(B, T, Hk, dh)`` shares memory with the cache, so only the new
    rows move: read as activations, written in the cache's format. Storing in a
    narrower format costs 3 FLOP per element (absolute maximum, scale, round).

    A pattern that drops rows says how many stay after the step, and how many new ones
    are written: earlier rows of a long prefill may be seen by its own queries alone.

    A cache whose last ``R`` rows stay wide takes new rows as they are. Rows that are
    among the last no more are narrowed: ``q − Min(T, R) + Min(T − q, R)`` in a step, of
    which those that were in the cache before are read from it.

    Where a pattern merges rows that leave, ``c`` to one, they are read and what they become
    is written: ``c`` FLOP per element of a row for the mean, ``c − 1`` for the maximum. A
    third operand, the kernel ``(w, c·w)`` with ``w = Hk·dh``, makes rows of all heads
    together, ``2·c·w²`` FLOP each; it is read in steps that make any.
    Source: Rae et al., Compressive Transformers, arXiv 1911.05507, which merges states.
    """

    kind: ClassVar[str] = "kv-append"
    keeps: Pattern = CAUSAL

    def kept(self, length: Expr) -> Expr:
        """How many rows stay in the cache behind a step that finds ``length``."""
        return self.keeps.kept(length)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        kernels = int(self.keeps.merging == "conv")
        require(len(inputs) == 2 + kernels, self, "takes a cache, new rows, and a kernel if any")
        cache, new = inputs[:2]
        for kernel in inputs[2:]:
            width = Mul(*new.shape[2:])
            require(len(kernel.shape) == 2, self, "kernel {} is not a matrix", kernel)
            require_same(self, kernel.shape[0], width, "rows of {} and {}", kernel, new)
            require_same(self, kernel.shape[1], self.keeps.into_one * width, "what becomes a row")
        require(cache.role is Role.KV, self, "{} is not a cache", cache)
        require(len(cache.shape) == len(new.shape) == 4, self, "cannot append {} to {}", new, cache)
        for axis in (0, 2, 3):
            require_same(self, cache.shape[axis], new.shape[axis], f"axis {axis}")
        length = cache.shape[1] + new.shape[1]
        shape = (cache.shape[0], length, *cache.shape[2:])
        spec = Spec(shape, cache.dtype, Role.KV, spread=cache.spread)
        if not self.keeps.drops:
            return (spec,)
        kept = (cache.shape[0], self.kept(length), *cache.shape[2:])
        return (replace(spec, stored=cache.dtype.size(kept)),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        cache, new, *kernel = inputs
        stored: Work = {}
        if cache.dtype.bits != new.dtype.bits or not cache.dtype.compute:
            stored = vector(3 * _row(new) * self._moved(cache, new)[1])
        if not self.keeps.merging:
            return stored
        elements = _row(new) * self._merged(new)
        if kernel:
            key = Engine.TENSOR, compute_type(new.dtype, kernel[0].dtype)
            return merged(stored, {key: 2 * elements * kernel[0].shape[1]})
        each = self.keeps.into_one - (self.keeps.merging == "max")
        return merged(stored, vector(each * elements))

    def _merged(self, new: Tensor) -> Expr:
        """Rows of each sequence that the step makes of others."""
        return self.keeps.made(new.shape[1])

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        found = self._appended(inputs[:2], outputs)
        if not self.keeps.merging:
            return found
        cache, new, *kernel = inputs
        made = self._merged(new)
        row = _row(new) * cache.dtype.bytes_per_element
        return (
            *found,
            read(cache, row * made * self.keeps.into_one),
            *(read(k, k.bytes * least(ONE, made)) for k in kernel),
            write(outputs[0], row * made),
        )

    def _appended(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        cache, new = inputs
        wide, narrowed, again = self._moved(cache, new)
        kind = cache.dtype
        amount = _row(new) * narrowed * kind.bytes_per_element
        if kind.recent is None:
            return (read(new), write(outputs[0], amount))
        each = _row(new) * kind.recent.wide.bytes_per_element
        return (read(new), read(cache, again * each), write(outputs[0], amount + wide * each))

    def _moved(self, cache: Tensor, new: Tensor) -> tuple[Expr, Expr, Expr]:
        """Rows written wide, rows written narrow, and those of them that the cache held wide."""
        kind, before, added = cache.dtype, cache.shape[1], new.shape[1]
        kept = self.keeps.written(added)
        if kind.recent is None:
            return ZERO, kept, ZERO
        wide, still = kind.wide_rows(kept), kind.wide_rows(before + added)
        narrowed = added - still + kind.wide_rows(before)
        again = narrowed - added + kind.wide_rows(added)
        if self.keeps.drops:
            # What the pattern drops at once is not narrowed any more.
            held = self.kept(before + added)
            narrowed = least(narrowed, held - kind.wide_rows(held))
            again = least(again, narrowed)
        return wide, narrowed, again


def _row(tensor: Tensor) -> Expr:
    """Elements of one position of all sequences."""
    batch, _, *rest = tensor.shape
    return Mul(batch, *rest)


def without_index(pattern: Pattern, inputs: Tensors) -> tuple[Tensors, Tensors]:
    """Operands of attention, and the index ``(B, q, g, k)`` behind them that some patterns need.

    It holds the rows that each query sees, per group of heads.
    """
    return (inputs[:-1], inputs[-1:]) if pattern.indexed else (inputs, ())


def compacted(pattern: Pattern, found: tuple[Access, ...], *scores: Tensor) -> tuple[Access, ...]:
    """Accesses of an operation on ``scores (…, q, T)``, where not all scores exist.

    Of a cache those rows are read that the pattern needs.
    """
    if not pattern.compact:
        return found
    q, t = scores[0].shape[-2:]
    cells, share = pattern.cells(q, t), pattern.keys(q, t) / t
    amounts = {x.name: Mul(*x.shape[:-2]) * cells * x.dtype.bytes_per_element for x in scores}

    def moved(a: Access) -> Access:
        if a.tensor in amounts:
            return replace(a, bytes=amounts[a.tensor])
        if a.role is Role.KV and a.direction is Direction.READ:
            return replace(a, bytes=a.bytes * share)
        return a

    return tuple(moved(a) for a in found)


def converted(pattern: Pattern, stored: Tensor, other: Tensor, q: Expr) -> Work:
    """Work of converting those rows ``(B, T, Hk, dh)`` of a cache that a pattern needs."""
    rows = stored.shape[1]
    if not pattern.compact:
        return expansion(stored, other)
    return expansion(stored, other, stored.narrow * pattern.keys(q, rows) / rows)


@dataclass(frozen=True)
class AttentionScores(Op):
    """``Q Kᵀ``: inputs ``Q (B, q, H, dh)``, ``K (B, T, Hk, dh)``; result ``(B, H, q, T)``.

    ``2·B·H·dh`` FLOP per computed pair. The 1/√dh scale is the product's alpha
    and costs nothing.
    """

    kind: ClassVar[str] = "qk-matmul"
    pattern: Pattern = CAUSAL
    paging: Paging | None = None

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        found = compacted(self.pattern, super().accesses(inputs, outputs), outputs[0])
        return found if self.paging is None else self.paging.reads(found, inputs[1])

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        inputs, _ = without_index(self.pattern, inputs)
        require(len(inputs) == 2, self, "takes queries and keys")
        query, keys = inputs
        require(len(query.shape) == len(keys.shape) == 4, self, "{} against {}", query, keys)
        require_same(self, query.shape[0], keys.shape[0], "batch")
        require_same(self, query.shape[3], keys.shape[3], "head size")
        b, q, h, _ = query.shape
        if self.pattern.square:
            require_same(self, q, keys.shape[1], "queries and keys")
        return (Spec((b, h, q, keys.shape[1]), query.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        (query, keys), _ = without_index(self.pattern, inputs)
        b, q, h, dh = query.shape
        pairs = self.pattern.pairs(q, keys.shape[1])
        product: Work = {
            (Engine.TENSOR, compute_type(query.dtype, keys.dtype)): 2 * b * h * dh * pairs
        }
        return merged(product, converted(self.pattern, keys, query, q))


@dataclass(frozen=True)
class Softmax(Op):
    """Softmax over the last dimension of scores ``(B, H, q, T)``; 5 FLOP per computed pair.

    A second operand ``(H)`` holds sinks: one more logit per head that takes part in
    every row and gets no value.
    """

    kind: ClassVar[str] = "softmax"
    pattern: Pattern = CAUSAL

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) in (1, 2), self, "takes scores, and sinks if there are any")
        require(len(inputs[0].shape) == 4, self, "{} is not a score tensor", inputs[0])
        for sinks in inputs[1:]:
            require(len(sinks.shape) == 1, self, "sinks {} are not a vector", sinks)
            require_same(self, sinks.shape[0], inputs[0].shape[1], "sinks and heads")
        return (Spec(inputs[0].shape, inputs[0].dtype),)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return compacted(self.pattern, super().accesses(inputs, outputs), inputs[0], outputs[0])

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        b, h, q, t = inputs[0].shape
        n = b * h * self.pattern.pairs(q, t)
        if len(inputs) == 2:
            n += b * h * q
        return vector_special(4 * n, n)


@dataclass(frozen=True)
class Alibi(Op):
    """Linear biases on scores ``(B, H, q, T)``: ``x + slope·distance`` (ALiBi).

    2 FLOP per computed pair. The ``H`` slopes are constants of the kernel and the
    distances are made on the fly, so nothing but the scores moves.
    Source: Press et al., arXiv 2108.12409.
    """

    kind: ClassVar[str] = "alibi"
    pattern: Pattern = CAUSAL

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        require(len(inputs[0].shape) == 4, self, "{} is not a score tensor", inputs[0])
        return (Spec(inputs[0].shape, inputs[0].dtype),)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return compacted(self.pattern, super().accesses(inputs, outputs), inputs[0], outputs[0])

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        b, h, q, t = inputs[0].shape
        return vector(2 * b * h * self.pattern.pairs(q, t))


@dataclass(frozen=True)
class ScoreCap(SoftCap):
    """:class:`~costgraph.ops.elementwise.SoftCap` of those scores ``(B, H, q, T)`` that exist."""

    pattern: Pattern = CAUSAL

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return compacted(self.pattern, super().accesses(inputs, outputs), inputs[0], outputs[0])

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        b, h, q, t = inputs[0].shape
        n = b * h * self.pattern.cells(q, t)
        return vector_special(2 * n, n)


@dataclass(frozen=True)
class AttentionValues(Op):
    """``P V``: inputs ``P (B, H, q, T)``, ``V (B, T, Hk, dh)``; result ``(B, q, H, dh)``.

    ``2·B·H·dh`` FLOP per computed pair.
    """

    kind: ClassVar[str] = "sv-matmul"
    pattern: Pattern = CAUSAL
    paging: Paging | None = None

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        found = compacted(self.pattern, super().accesses(inputs, outputs), inputs[0])
        return found if self.paging is None else self.paging.reads(found, inputs[1])

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        inputs, _ = without_index(self.pattern, inputs)
        require(len(inputs) == 2, self, "takes probabilities and values")
        p, values = inputs
        require(len(p.shape) == len(values.shape) == 4, self, "{} against {}", p, values)
        require_same(self, p.shape[0], values.shape[0], "batch")
        require_same(self, p.shape[3], values.shape[1], "context")
        b, h, q, _ = p.shape
        return (Spec((b, q, h, values.shape[3]), p.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        (p, values), _ = without_index(self.pattern, inputs)
        b, h, q, t = p.shape
        pairs = self.pattern.pairs(q, t)
        product: Work = {
            (Engine.TENSOR, compute_type(p.dtype, values.dtype)): 2
            * b
            * h
            * values.shape[3]
            * pairs
        }
        return merged(product, converted(self.pattern, values, p, q))
