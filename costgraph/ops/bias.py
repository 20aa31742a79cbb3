"""What is put on attention scores before their softmax: masks and position biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Mul

from costgraph.ir.cost import Work
from costgraph.ir.op import Op, Spec, Tensors, require, require_same, vector
from costgraph.ir.tensor import Tensor
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
    :class:`~costgraph.ops.attention.AttentionScores`.
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

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        *lead, q, t = outputs[0].shape
        pairs = self.pattern.pairs(q, t)
        biases = len(inputs) - 1
        return vector(biases * Mul(*lead) * pairs) if biases else {}
