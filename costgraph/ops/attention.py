"""Attention: cache append, scores, softmax, weighted values.

Layouts: queries ``(B, q, H, dh)``; caches ``(B, T, Hk, dh)``; scores
``(B, H, q, T)``. Grouped-query attention reads each cached head once, however
many query heads share it.

With a sliding window a position sees itself and the ``W − 1`` before it. A step
finds only what one of its queries can still see, ``Min(T, W + q − 1) − q``
positions, so ``T`` in these layouts is ``Min(T, W + q − 1)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from sympy import Add as Sum
from sympy import Expr, Mul

from costgraph.errors import VerifyError
from costgraph.formula.least import least
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import ONE, ZERO, Access, Work
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
from costgraph.symbols import T

if TYPE_CHECKING:
    from costgraph.ops.paged import Paging

#: How a mask is treated: ``skip`` counts useful (unmasked) pairs only, as the
#: definition requires and tiled kernels do; ``compute`` counts every pair, as a
#: dense product does; ``none`` is bidirectional attention.
MASKS = ("skip", "compute", "none")


@dataclass(frozen=True)
class Branches:
    """A mask under which new positions stand on branches of a tree and see their own only.

    Useful pairs are counted, as under ``skip``.

    Attributes:
        levels: (positions, hidden) of each depth: so many new positions see all of the
            graph's positions but the hidden ones, which are on other branches.
        context: the graph's positions, new ones included.
    """

    levels: tuple[tuple[Expr, Expr], ...]
    context: Expr = T

    def pairs(self, window: Expr | None = None) -> Expr:
        """(query, key) pairs per head and sequence; at most ``window`` a query."""
        return Sum(*(n * extended(ONE, self.context - hidden, window) for n, hidden in self.levels))

    def __str__(self) -> str:
        return "branches " + ", ".join(
            f"{n} × ({self.context} - {hidden})" for n, hidden in self.levels
        )


@dataclass(frozen=True)
class Parted:
    """A mask of which devices have equal parts each: of the queries, or of the keys.

    Parts are such that all have equally many pairs: from both ends of a causal prompt.

    Attributes:
        mask: of all queries and keys.
        queries, keys: in how many parts they are.
    """

    mask: str | Branches
    queries: Expr = ONE
    keys: Expr = ONE

    def __str__(self) -> str:
        return f"{self.mask} / {self.queries * self.keys}"


Mask = str | Branches | Parted


def extended(q: Expr, t: Expr, window: Expr | None = None) -> Expr:
    """Positions that ``q`` new tokens at context ``t`` can see: ``Min(t, W + q − 1)``."""
    return t if window is None else least(t, window + q - 1)


def score_pairs(q: Expr, t: Expr, mask: Mask, window: Expr | None = None) -> Expr:
    """(query, key) pairs that are computed, per head and sequence.

    With a causal mask query ``i`` (of ``q``) attends ``t − q + i`` positions:
    ``q·t − q(q−1)/2`` useful pairs. With a sliding window a query at position ``p``
    attends ``Min(p, W)``: with ``c = Min(t, W)``, ``r = t − q`` and ``b = Min(r, W)``,
    ``(c(c+1) − b(b+1))/2 + (t − c − r + b)·W`` useful pairs. Where ``t`` counts only
    positions that some query sees (see :func:`extended`), ``b = r``.
    """
    if isinstance(mask, Parted):
        whole = score_pairs(q * mask.queries, t * mask.keys, mask.mask, window)
        return whole / (mask.queries * mask.keys)
    if isinstance(mask, Branches):
        return mask.pairs(window)
    if mask not in MASKS:
        raise VerifyError(f"unknown mask {mask!r}; known: {', '.join(MASKS)}")
    if mask != "skip":
        return q * t
    if window is None:
        return q * t - q * (q - 1) / 2
    if q == 1:
        return least(t, window)
    within, before = least(t, window), t - q
    unseen = least(before, window)
    rising = (within * (within + 1) - unseen * (unseen + 1)) / 2
    return rising + (t - within - before + unseen) * window


@dataclass(frozen=True)
class KVAppend(Op):
    """Appends new keys or values to a cache: ``cache (B, T−q, Hk, dh)``, ``new (B, q, Hk, dh)``.

    The result ``(B, T, Hk, dh)`` shares memory with the cache, so only the new
    rows move: read as activations, written in the cache's format. Storing in a
    narrower format costs 3 FLOP per element (absolute maximum, scale, round).

    With a sliding ``window`` only the last ``Min(T, W)`` rows stay after the step,
    so only ``Min(q, W)`` new ones are written; earlier rows of a long prefill are
    seen by its own queries alone.

    A cache whose last ``R`` rows stay wide takes new rows as they are. Rows that are
    among the last no more are narrowed: ``q − Min(T, R) + Min(T − q, R)`` in a step, of
    which those that were in the cache before are read from it.
    """

    kind: ClassVar[str] = "kv-append"
    window: Expr | None = None

    def kept(self, length: Expr) -> Expr:
        """How many of ``length`` rows stay in the cache."""
        return length if self.window is None else least(length, self.window)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes a cache and new rows")
        cache, new = inputs
        require(cache.role is Role.KV, self, "{} is not a cache", cache)
        require(len(cache.shape) == len(new.shape) == 4, self, "cannot append {} to {}", new, cache)
        for axis in (0, 2, 3):
            require_same(self, cache.shape[axis], new.shape[axis], f"axis {axis}")
        length = cache.shape[1] + new.shape[1]
        shape = (cache.shape[0], length, *cache.shape[2:])
        spec = Spec(shape, cache.dtype, Role.KV, spread=cache.spread)
        if self.window is None:
            return (spec,)
        kept = (cache.shape[0], self.kept(length), *cache.shape[2:])
        return (replace(spec, stored=cache.dtype.size(kept)),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        cache, new = inputs
        if cache.dtype.bits == new.dtype.bits and cache.dtype.compute:
            return {}
        return vector(3 * _row(new) * self._moved(cache, new)[1])

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
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
        kept = self.kept(added)
        if kind.recent is None:
            return ZERO, kept, ZERO
        wide, still = kind.wide_rows(kept), kind.wide_rows(before + added)
        narrowed = added - still + kind.wide_rows(before)
        again = narrowed - added + kind.wide_rows(added)
        if self.window is not None:
            # What the window drops at once is not narrowed any more.
            held = self.kept(before + added)
            narrowed = least(narrowed, held - kind.wide_rows(held))
            again = least(again, narrowed)
        return wide, narrowed, again


def _row(tensor: Tensor) -> Expr:
    """Elements of one position of all sequences."""
    batch, _, *rest = tensor.shape
    return Mul(batch, *rest)


@dataclass(frozen=True)
class AttentionScores(Op):
    """``Q Kᵀ``: inputs ``Q (B, q, H, dh)``, ``K (B, T, Hk, dh)``; result ``(B, H, q, T)``.

    ``2·B·H·dh`` FLOP per computed pair. The 1/√dh scale is the product's alpha
    and costs nothing.
    """

    kind: ClassVar[str] = "qk-matmul"
    mask: Mask = "skip"
    paging: Paging | None = None
    window: Expr | None = None

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        found = super().accesses(inputs, outputs)
        return found if self.paging is None else self.paging.reads(found, inputs[1])

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes queries and keys")
        query, keys = inputs
        require(len(query.shape) == len(keys.shape) == 4, self, "{} against {}", query, keys)
        require_same(self, query.shape[0], keys.shape[0], "batch")
        require_same(self, query.shape[3], keys.shape[3], "head size")
        b, q, h, _ = query.shape
        return (Spec((b, h, q, keys.shape[1]), query.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        query, keys = inputs
        b, q, h, dh = query.shape
        pairs = score_pairs(q, keys.shape[1], self.mask, self.window)
        product: Work = {
            (Engine.TENSOR, compute_type(query.dtype, keys.dtype)): 2 * b * h * dh * pairs
        }
        return merged(product, expansion(keys, query))


@dataclass(frozen=True)
class Softmax(Op):
    """Softmax over the last dimension of scores ``(B, H, q, T)``; 5 FLOP per computed pair.

    A second operand ``(H)`` holds sinks: one more logit per head that takes part in
    every row and gets no value.
    """

    kind: ClassVar[str] = "softmax"
    mask: Mask = "skip"
    window: Expr | None = None

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) in (1, 2), self, "takes scores, and sinks if there are any")
        require(len(inputs[0].shape) == 4, self, "{} is not a score tensor", inputs[0])
        for sinks in inputs[1:]:
            require(len(sinks.shape) == 1, self, "sinks {} are not a vector", sinks)
            require_same(self, sinks.shape[0], inputs[0].shape[1], "sinks and heads")
        return (Spec(inputs[0].shape, inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        b, h, q, t = inputs[0].shape
        n = b * h * score_pairs(q, t, self.mask, self.window)
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
    mask: Mask = "skip"
    window: Expr | None = None

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        require(len(inputs[0].shape) == 4, self, "{} is not a score tensor", inputs[0])
        return (Spec(inputs[0].shape, inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        b, h, q, t = inputs[0].shape
        return vector(2 * b * h * score_pairs(q, t, self.mask, self.window))


@dataclass(frozen=True)
class AttentionValues(Op):
    """``P V``: inputs ``P (B, H, q, T)``, ``V (B, T, Hk, dh)``; result ``(B, q, H, dh)``.

    ``2·B·H·dh`` FLOP per computed pair.
    """

    kind: ClassVar[str] = "sv-matmul"
    mask: Mask = "skip"
    paging: Paging | None = None
    window: Expr | None = None

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        found = super().accesses(inputs, outputs)
        return found if self.paging is None else self.paging.reads(found, inputs[1])

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes probabilities and values")
        p, values = inputs
        require(len(p.shape) == len(values.shape) == 4, self, "{} against {}", p, values)
        require_same(self, p.shape[0], values.shape[0], "batch")
        require_same(self, p.shape[3], values.shape[1], "context")
        b, h, q, _ = p.shape
        return (Spec((b, q, h, values.shape[3]), p.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        p, values = inputs
        b, h, q, t = p.shape
        pairs = score_pairs(q, t, self.mask, self.window)
        product: Work = {
            (Engine.TENSOR, compute_type(p.dtype, values.dtype)): 2
            * b
            * h
            * values.shape[3]
            * pairs
        }
        return merged(product, expansion(values, p))
