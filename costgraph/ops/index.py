"""Choosing what a query sees: scores of an index, and the best of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, ceiling

from costgraph.formula.least import least
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Access, Direction, Work
from costgraph.ir.dtypes import INT32, compute_type
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
from costgraph.ops.pattern import CAUSAL, Pattern, Summaries
from costgraph.symbols import T


@dataclass(frozen=True)
class IndexScores(Op):
    """A lightning indexer: ``Σ_h w_h·relu(q_h·k)`` of queries and keys of its own.

    Inputs ``Q (B, q, h, w)``, ``K (B, T, 1, w)`` that all heads share, and weights of the
    heads ``(B, q, h)``; result ``(B, 1, q, T)``. Per head and pair ``2·w`` FLOP in
    the product, 1 to clip it and 2 in the product with the weights; scores of single heads
    never leave the chip.
    Source: DeepSeek-AI, DeepSeek-V3.2-Exp, technical report, section 1.
    """

    kind: ClassVar[str] = "index-scores"
    pattern: Pattern = CAUSAL

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 3, self, "takes queries, keys and weights of heads")
        query, keys, weights = inputs
        require(len(query.shape) == len(keys.shape) == 4, self, "{} against {}", query, keys)
        require_same(self, query.shape[0], keys.shape[0], "batch")
        require_same(self, query.shape[3], keys.shape[3], "width of the index")
        for axis in range(3):
            require_same(self, query.shape[axis], weights.shape[axis], "axis {} of weights", axis)
        b, q = query.shape[:2]
        return (Spec((b, keys.shape[2], q, keys.shape[1]), query.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        query, keys, _ = inputs
        b, q, h, w = query.shape
        pairs = b * h * self.pattern.pairs(q, keys.shape[1])
        product: Work = {
            (Engine.TENSOR, compute_type(query.dtype, keys.dtype)): 2 * (w + 1) * pairs,
        }
        return merged(product, vector(pairs), expansion(keys, query))


@dataclass(frozen=True)
class Choose(Op):
    """The ``count`` best of scores ``(B, g, q, T)``: an index ``(B, q, g, Min(T, count))``.

    One comparison per score that a query may choose: the least that any selection needs.
    ``chosen`` is how many they are, where that has a form that sums.
    """

    kind: ClassVar[str] = "choose"
    count: Expr
    pattern: Pattern = CAUSAL
    chosen: Expr | None = None

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes scores")
        require(len(inputs[0].shape) == 4, self, "{} is not a score tensor", inputs[0])
        b, g, q, t = inputs[0].shape
        chosen = least(t, self.count) if self.chosen is None else self.chosen
        return (Spec((b, q, g, chosen), INT32),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        b, g, q, t = inputs[0].shape
        return vector(b * g * self.pattern.pairs(q, t))


@dataclass(frozen=True)
class ScoreBook(Op):
    """What attention has looked at so far: sums of probabilities per head and row (H2O).

    Inputs: the book ``(B, T − q, H, 1)`` of rows that were kept, and probabilities
    ``(B, H, q, T)`` of the step; result the book of all rows ``(B, T, H, 1)``. One addition
    per pair, and one comparison per row that is there: which of them goes.
    Source: Zhang et al., arXiv 2306.14048, section 4.
    """

    kind: ClassVar[str] = "score-book"
    pattern: Pattern = CAUSAL

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes a book and probabilities")
        book, chances = inputs
        require(len(book.shape) == len(chances.shape) == 4, self, "{} for {}", book, chances)
        b, h, q, t = chances.shape
        require_same(self, book.shape[1] + q, t, "rows of book and probabilities")
        kept = (b, self.pattern.kept(t), h, book.shape[3])
        return (Spec((b, t, h, book.shape[3]), book.dtype, book.role, book.dtype.size(kept)),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        b, h, q, t = inputs[1].shape
        return vector(b * h * (self.pattern.pairs(q, t) + t))


@dataclass(frozen=True)
class PageAppend(Op):
    """What stands for blocks of keys: their bounds per element (Quest), or their means (MoBA).

    Inputs: rows of earlier blocks ``(B, ⌈(T−q)/b⌉, Hk, m·dh)`` and new keys
    ``(B, q, Hk, dh)``; result ``(B, ⌈T/b⌉, Hk, m·dh)``. ``m`` operations per new element.
    The row of the block that is being filled is read; rows of blocks that new keys are in
    are written.
    """

    kind: ClassVar[str] = "page-append"
    block: Expr
    context: Expr = T

    @property
    def pages(self) -> Summaries:
        """The pattern of its rows."""
        return Summaries(self.block, self.context, begun=True)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes rows of blocks and new keys")
        cache, new = inputs
        require(len(cache.shape) == len(new.shape) == 4, self, "{} for {}", cache, new)
        require_same(self, cache.shape[1], self.pages.rows(self.context - new.shape[1]), "blocks")
        shape = (cache.shape[0], self.pages.rows(self.context), *cache.shape[2:])
        return (Spec(shape, cache.dtype, cache.role),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        cache, new = inputs
        return vector(new.numel * cache.shape[3] / new.shape[3])

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        cache, new = inputs
        before, row = self.context - new.shape[1], cache.bytes / cache.shape[1]
        open_ = ceiling(before / self.block) - ceiling((before + 1) / self.block) + 1
        touched = self.pages.rows(self.context) - ceiling((before + 1) / self.block) + 1
        return (read(new), read(cache, row * open_), write(outputs[0], row * touched))


@dataclass(frozen=True)
class PageScores(Op):
    """How much a query may look at a block: ``Q (B, q, H, dh)`` against rows of blocks.

    Rows ``(B, P, Hk, dh)`` are means: a product, ``2·dh`` FLOP per head and pair. Rows
    ``(B, P, Hk, 2·dh)`` are bounds: two products, the larger one, and a sum per element,
    ``4·dh``. Heads that share keys choose together: their scores are added up. Result
    ``(B, Hk, q, P)``.
    """

    kind: ClassVar[str] = "page-scores"
    pattern: Pattern

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes queries and rows of blocks")
        query, pages = inputs
        require(len(query.shape) == len(pages.shape) == 4, self, "{} against {}", query, pages)
        require(pages.shape[3] / query.shape[3] in (1, 2), self, "{} against {}", query, pages)
        return (
            Spec((query.shape[0], pages.shape[2], query.shape[1], pages.shape[1]), query.dtype),
        )

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        query, pages = inputs
        b, q, h, dh = query.shape
        pairs = b * self.pattern.pairs(q, pages.shape[1])
        added = vector((h - pages.shape[2]) * pairs)
        if pages.shape[3] != dh:
            return merged(vector(4 * h * dh * pairs), added, expansion(pages, query))
        key = Engine.TENSOR, compute_type(query.dtype, pages.dtype)
        product: Work = {key: 2 * h * dh * pairs}
        return merged(product, added, expansion(pages, query))


@dataclass(frozen=True)
class KeepRows(Op):
    """All but ``gone`` of the rows along an axis, closed up: a copy of those that stay."""

    kind: ClassVar[str] = "keep-rows"
    axis: int
    gone: Expr

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        x = inputs[0]
        require(self.axis < len(x.shape), self, "{} has no axis {}", x, self.axis)
        shape = list(x.shape)
        shape[self.axis] = shape[self.axis] - self.gone
        return (Spec(tuple(shape), x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return (read(inputs[0], outputs[0].bytes), write(outputs[0]))


@dataclass(frozen=True)
class RankRows(KeepRows):
    """:class:`KeepRows` of ``x (B, q, d)``, those that the last position looks at least gone.

    Its scores of ``among`` rows are computed anew, a vector against each head's keys with
    ``2·width`` FLOP per head and row, added up over heads, and compared once each; the keys
    of these rows, ``keys`` elements each, are read once more.
    """

    kind: ClassVar[str] = "rank-rows"
    heads: Expr
    keys: Expr
    width: Expr
    among: Expr

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        each = 2 * self.heads * self.width + self.heads + 1
        return vector(inputs[0].shape[0] * self.among * each)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        x = inputs[0]
        size = x.shape[0] * self.among * self.keys * x.dtype.bytes_per_element
        again = Access("keys", Role.KV, Direction.READ, size)
        return (*super().accesses(inputs, outputs), again)


@dataclass(frozen=True)
class MergeRows(Op):
    """``count`` of the rows of ``x (B, n, d)`` merged into others that are like them (ToMe).

    The second operand are keys ``(B, n, H, dh)``; their mean over heads says who is alike: half
    of the rows against the other half, ``2·⌈n/2⌉·⌊n/2⌋·dh`` FLOP in a product, one
    comparison each and ``H + 3`` operations per element of the means (mean and unit length).
    Of merged rows a weighted mean is taken: 3 operations per element. Scores never leave the chip.
    Source: Bolya et al., arXiv 2210.09461, section 3.
    """

    kind: ClassVar[str] = "merge-rows"
    count: Expr

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes rows and keys")
        x, keys = inputs
        require(len(x.shape) == 3 and len(keys.shape) == 4, self, "{} by {}", x, keys)
        require_same(self, x.shape[1], keys.shape[1], "rows and keys")
        return (Spec((x.shape[0], x.shape[1] - self.count, x.shape[2]), x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        (b, n, d), (_, _, heads, width) = (t.shape for t in inputs)
        pairs = b * ceiling(n / 2) * (n - ceiling(n / 2))
        product: Work = {
            (Engine.TENSOR, compute_type(inputs[1].dtype, inputs[1].dtype)): 2 * width * pairs
        }
        means = b * n * width * (heads + 3)
        return merged(product, vector(pairs + means + 3 * b * self.count * d))
