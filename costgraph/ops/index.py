"""Choosing what a query sees: scores of an index, and the best of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, ceiling

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
    vector_special,
    write,
)
from costgraph.ir.tensor import Role
from costgraph.ops.pattern import CAUSAL, FULL, Pattern, Summaries
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
class BlockBest(Op):
    """The best score of every block: ``(B, g, q, T)`` to ``(B, g, q, ⌈T/b⌉)``.

    One comparison per score that a query may see. Source: MiniMax-M3's published code.
    """

    kind: ClassVar[str] = "block-best"
    block: Expr
    pattern: Pattern = CAUSAL

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) == 4, self, "takes scores")
        b, g, q, t = inputs[0].shape
        return (Spec((b, g, q, ceiling(t / self.block)), inputs[0].dtype),)

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
        return Summaries(self.block, begun=True, context=self.context)

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
class BlockMeans(Op):
    """The mean of every block of rows that is over: ``(B, T, Hk, w)`` to ``(B, ⌊T/b⌋, Hk, w)``.

    Of all blocks in each step: ``block`` operations per element of a mean; all rows are read.
    Source: Qwen4-Exp's published class, which keeps the rows and averages them anew.
    """

    kind: ClassVar[str] = "block-means"
    block: Expr

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1 and len(inputs[0].shape) == 4, self, "takes rows")
        b, rows, *rest = inputs[0].shape
        return (Spec((b, Summaries(self.block).rows(rows), *rest), inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(self.block * outputs[0].numel)


@dataclass(frozen=True)
class GatedMeans(BlockMeans):
    """The same, weighted: a softmax over the block of gates ``(B, T, Hk, w)``, for each column.

    Inputs: rows, gates, and positions inside a block ``(b, w)`` that are put on the gates.
    Per row and column one addition, a softmax (4 and one exponential), a product and a sum.
    Source: GLM-5.3-Flash's published class, which keeps rows and gates and pools them anew.
    """

    kind: ClassVar[str] = "gated-means"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 3, self, "takes rows, gates and positions")
        rows, gates, places = inputs
        require(len(rows.shape) == len(gates.shape) == 4, self, "{} by {}", rows, gates)
        for axis in range(4):
            require_same(self, rows.shape[axis], gates.shape[axis], "axis {} of gates", axis)
        require_same(self, places.shape[0], self.block, "positions of a block")
        require_same(self, places.shape[1], rows.shape[3], "width of positions")
        return super().infer(inputs[:1])

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        each = self.block * outputs[0].numel
        return vector_special(7 * each, each)


@dataclass(frozen=True)
class PageScores(Op):
    """How much a query may look at a block: ``Q (B, q, H, dh)`` against rows of blocks.

    Rows ``(B, P, Hk, dh)`` are means: a product, ``2·dh`` FLOP per head and pair. Rows
    ``(B, P, Hk, 2·dh)`` are bounds: two products, the larger one, and a sum per element,
    ``4·dh``. Heads that share keys choose together: their scores are added up, ``clipped``
    at zero before where told, one operation more. Result ``(B, Hk, q, P)``.
    """

    kind: ClassVar[str] = "page-scores"
    pattern: Pattern
    clipped: bool = False

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
        added = vector((h * (1 + self.clipped) - pages.shape[2]) * pairs)
        if pages.shape[3] != dh:
            return merged(vector(4 * h * dh * pairs), added, expansion(pages, query))
        key = Engine.TENSOR, compute_type(query.dtype, pages.dtype)
        product: Work = {key: 2 * h * dh * pairs}
        return merged(product, added, expansion(pages, query))


@dataclass(frozen=True)
class PromptVotes(Op):
    """Which rows of a prompt its last positions look at (SnapKV): an index ``(B, 1, Hk, k)``.

    Inputs ``Q (B, q, H, dh)`` and ``K (B, T, Hk, dh)``. The last ``window`` queries are scored
    against all keys once more: ``2·dh`` FLOP per head and pair, 5 for their softmax and 1 to
    add it up over queries and over the heads that share keys; a largest of ``pool`` neighbours
    and a comparison per row and head of keys choose ``k``. Scores never leave the chip.
    Source: Li et al., arXiv 2404.14469, section 4.

    Attributes:
        window: positions that vote.
        pool: neighbours that a vote is taken over.
        keeps: what stays of the prompt.
    """

    kind: ClassVar[str] = "prompt-votes"
    window: Expr
    pool: Expr
    keeps: Pattern

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes queries and keys")
        query, keys = inputs
        require(len(query.shape) == len(keys.shape) == 4, self, "{} against {}", query, keys)
        require_same(self, query.shape[0], keys.shape[0], "batch")
        require_same(self, query.shape[3], keys.shape[3], "head size")
        kept = self.keeps.kept(keys.shape[1])
        return (Spec((query.shape[0], Integer(1), keys.shape[2], kept), INT32),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        query, keys = inputs
        b, q, h, dh = query.shape
        rows, groups = keys.shape[1:3]
        pairs = b * h * CAUSAL.pairs(least(q, self.window), rows)
        product: Work = {(Engine.TENSOR, compute_type(query.dtype, keys.dtype)): 2 * dh * pairs}
        votes = vector(pairs + b * groups * rows * self.pool)
        return merged(product, vector_special(4 * pairs, pairs), votes, expansion(keys, query))

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        query, keys = inputs
        q = query.shape[1]
        last = query.bytes * least(q, self.window) / q
        return (read(query, last), read(keys), write(outputs[0]))


@dataclass(frozen=True)
class Nearest(Op):
    """The ``count`` rows with the largest products: an index ``(B, q, H, count)``.

    Inputs queries ``(B, q, H, w)`` and rows ``(B, N, G, w)``, or ``(1, N, 1, w)`` that all
    share. ``2·w`` FLOP and one comparison per pair of the pattern; products never leave the
    chip. An approximate index computes a ``share`` of the pairs (lists of an inverted file),
    and reads as large a share of the rows for every query, all of them at the most.

    Attributes:
        count: rows that a query gets.
        pattern: which rows a query may get.
        share: of the rows that are compared.
        among: how many of the rows there are to compare (landmarks among the keys of a
            cache); None: all.
    """

    kind: ClassVar[str] = "nearest"
    count: Expr
    pattern: Pattern = FULL
    share: Expr = Integer(1)
    among: Expr | None = None

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes queries and rows")
        query, rows = inputs
        require(len(query.shape) == len(rows.shape) == 4, self, "{} against {}", query, rows)
        require_same(self, query.shape[3], rows.shape[3], "width")
        return (Spec((*query.shape[:3], self.count), INT32),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        query, rows = inputs
        b, q, h, w = query.shape
        pairs = b * h * self.share * self.pattern.pairs(q, rows.shape[1])
        product: Work = {(Engine.TENSOR, compute_type(query.dtype, rows.dtype)): 2 * w * pairs}
        return merged(product, vector(pairs), expansion(rows, query))

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        query, rows = inputs
        b, q, h, _ = query.shape
        many = b * q * h / (rows.shape[0] * rows.shape[2])
        part = least(Integer(1), self.share * many) if self.share != 1 else Integer(1)
        if self.among is not None:
            part *= self.among / rows.shape[1]
        return (read(query), read(rows, rows.bytes * part), write(outputs[0]))


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
