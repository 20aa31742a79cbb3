"""What is put on attention scores before their softmax: masks and position biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Mul

from costgraph.ir.cost import Access, Work
from costgraph.ir.op import Op, Spec, Tensors, require, require_same, vector
from costgraph.ir.tensor import Tensor
from costgraph.ops.attention import compacted
from costgraph.ops.pattern import FULL, Pattern


def check_bias(op: Op, scores: Tensor, bias: Tensor) -> None:
    """Require that ``bias`` can be put on scores ``(…, q, T)``.

    Its last axes are those of the scores or one. Its leading axes repeat: a mask
    ``(w, 1, q, T)`` serves scores ``(B·w, H, q, T)`` whose batch holds ``w`` windows.
    """
    for a, b in zip(reversed(scores.shape[-2:]), reversed(bias.shape[-2:]), strict=False):
        if b != 1:
            require_same(op, a, b, "positions of {} and {}", scores, bias)
    times = Mul(*scores.shape[:-2]) / Mul(*bias.shape[:-2])
    fits = not times.is_number or bool(times.is_integer)
    require(fits, op, "{} cannot be repeated over {}", bias, scores)


@dataclass(frozen=True)
class ScoreBias(Op):
    """Scores ``(…, q, T)`` with numbers added, or pairs hidden where a truth value says so.

    Inputs are the scores and any number of such tensors (:func:`check_bias`); 1 FLOP per
    computed pair and tensor. What positions alone hide (its pattern)
    kernels know without a tensor: it costs nothing, as in
    :class:`~costgraph.ops.attention.AttentionScores`. Where not all scores exist, those that
    do are read and written, and so much of each tensor that has a number for every pair.
    """

    kind: ClassVar[str] = "score-bias"
    pattern: Pattern = FULL

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) >= 1, self, "takes scores")
        scores, *biases = inputs
        require(len(scores.shape) >= 2, self, "{} are no scores", scores)
        for bias in biases:
            check_bias(self, scores, bias)
        return (Spec(scores.shape, scores.dtype),)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        scores = (*(x for x in inputs if x.shape[-2:] == outputs[0].shape[-2:]), outputs[0])
        return compacted(self.pattern, super().accesses(inputs, outputs), *scores)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        *lead, q, t = outputs[0].shape
        pairs = self.pattern.pairs(q, t)
        biases = len(inputs) - 1
        return vector(biases * Mul(*lead) * pairs) if biases else {}


@dataclass(frozen=True)
class PairBias(Op):
    """Scores ``(B, H, q, T)`` with a number added per pair, from tables that blocks share.

    Inputs are the scores and tables ``(H, …)``, such as distances within a block of queries
    and its keys, each read once. 1 FLOP per computed pair; only scores that exist move.
    """

    kind: ClassVar[str] = "pair-bias"
    pattern: Pattern = FULL

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) >= 2, self, "takes scores and tables")
        scores, *tables = inputs
        require(len(scores.shape) == 4, self, "{} are no scores", scores)
        for table in tables:
            require_same(self, table.shape[0], scores.shape[1], "heads of {} and {}", table, scores)
        return (Spec(scores.shape, scores.dtype),)

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return compacted(self.pattern, super().accesses(inputs, outputs), inputs[0], outputs[0])

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        b, h, q, t = outputs[0].shape
        return vector(b * h * self.pattern.pairs(q, t))
