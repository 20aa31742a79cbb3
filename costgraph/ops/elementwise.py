"""Element-wise operations, activations, normalisation and rotary embedding.

FLOP conventions (one per arithmetic operation, transcendental evaluations
counted apart on the special-function engine):

======================  =======================================================
add, multiply, scale    1 per element
ReLU                    1 (comparison)
SiLU                    exp; negate, add, divide, (multiply folded) = 3 + 1 special
GELU (erf)              erf; 4 = scale, add, multiply, multiply, + 1 special
GELU (tanh)             tanh; 8 = two for x³, three for the argument, three after, + 1
clamped gate            sigmoid of a scaled, clamped gate: 5 + 1 special; the clamped,
                        shifted other half: 3
soft cap                tanh; divide, multiply = 2 + 1 special
RMSNorm                 4 per element: square, sum, scale, weight; 3 per row
LayerNorm               7 per element: mean, subtract, square, sum, scale, weight,
                        bias (one less without weight or bias); 4 per row
clip                    2 (two comparisons)
xIELU                   both sides of zero: 4 for the square, 5 for the exponential, and the
                        choice = 10 + 1 special; two learned numbers (arXiv 2411.13010)
rotary                  3 per rotated element: two products, one sum
softmax                 5 per useful score: max, subtract, exp, sum, divide
======================  =======================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, Mul

from costgraph.errors import VerifyError
from costgraph.ir.cost import Work
from costgraph.ir.op import (
    Op,
    Spec,
    Tensors,
    require,
    require_same,
    same,
    vector,
    vector_special,
)

#: (vector FLOP, special FLOP) per element by activation function.
ACTIVATIONS: dict[str, tuple[int, int]] = {
    "relu": (1, 0),
    "relu2": (2, 0),
    "silu": (3, 1),
    "gelu": (4, 1),
    "gelu_tanh": (8, 1),
    "quick_gelu": (4, 1),
    "sigmoid": (2, 1),
    "tanh": (0, 1),
    "softplus": (1, 2),
    "clamped_gate": (5, 1),
    "clamped_silu": (4, 1),
    "clamped_up": (3, 0),
    "clip": (2, 0),
    "prelu": (2, 0),
    "xielu": (10, 1),
    "situ": (5, 2),  # β·tanh(x/β)·sigmoid(x), Kimi K3's gate; and what it is multiplied with
    "situ_linear": (2, 1),
}

#: Learned numbers of an activation function, by name: operands of one element each.
LEARNED: dict[str, tuple[str, ...]] = {"xielu": ("alpha_p", "alpha_n"), "prelu": ("slope",)}


@dataclass(frozen=True)
class Activation(Op):
    """``f(x)`` element by element; ``function`` is a key of :data:`ACTIVATIONS`.

    Functions in :data:`LEARNED` take their learned numbers as further operands.
    """

    kind: ClassVar[str] = "activation"
    function: str = "silu"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(self.function in ACTIVATIONS, self, f"unknown function {self.function!r}")
        learned = LEARNED.get(self.function, ())
        require(len(inputs) == 1 + len(learned), self, "takes one operand and {}", learned)
        require(all(t.numel == 1 for t in inputs[1:]), self, "{} are numbers", learned)
        return (Spec(inputs[0].shape, inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        n = outputs[0].numel
        plain, special = ACTIVATIONS[self.function]
        return vector_special(plain * n, special * n)


@dataclass(frozen=True)
class Binary(Op):
    """``x ∘ y``, the second operand broadcast over leading dimensions; 1 FLOP per element."""

    kind: ClassVar[str] = "binary"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes two operands")
        x, y = inputs
        require(len(y.shape) <= len(x.shape), self, "cannot broadcast {} to {}", y, x)
        for a, b in zip(reversed(x.shape), reversed(y.shape), strict=False):
            require_same(self, a, b, "shapes of {} and {}", x, y)
        return (Spec(x.shape, x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(outputs[0].numel)


@dataclass(frozen=True)
class Add(Binary):
    """``x + y``: residual and positional additions."""

    kind: ClassVar[str] = "add"


@dataclass(frozen=True)
class Multiply(Binary):
    """``x · y``: the gate of a gated feed-forward block."""

    kind: ClassVar[str] = "multiply"


@dataclass(frozen=True)
class Scale(Op):
    """``x`` times a constant; 1 FLOP per element."""

    kind: ClassVar[str] = "scale"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        return (Spec(inputs[0].shape, inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(outputs[0].numel)


@dataclass(frozen=True)
class SoftCap(Op):
    """``c·tanh(x/c)``: caps logits or scores; 2 FLOP and 1 tanh per element."""

    kind: ClassVar[str] = "soft-cap"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        return (Spec(inputs[0].shape, inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        n = outputs[0].numel
        return vector_special(2 * n, n)


def _check_norm(op: Op, inputs: Tensors, operands: int) -> tuple[Spec, ...]:
    require(len(inputs) == operands, op, f"takes {operands} operands")
    x = inputs[0]
    for p in inputs[1:]:
        last = x.shape[len(x.shape) - len(p.shape) :]
        if not p.shape or not all(same(a, b) for a, b in zip(p.shape, last, strict=False)):
            raise VerifyError(f"{op.kind}: parameter {p} does not match {x}")
    return (Spec(x.shape, x.dtype),)


@dataclass(frozen=True)
class RMSNorm(Op):
    """Root-mean-square normalisation over the last dimension, with an optional weight.

    Inputs ``x (…, d)``, ``weight (d)`` or, with one per head, ``(heads, d)``. 4 FLOP
    per element (square, sum, scale, weight), 3 without weight, and 3 per row (mean,
    epsilon, reciprocal root). With ``groups`` each row is normalised in that many
    parts.
    """

    kind: ClassVar[str] = "rms-norm"
    weight: bool = True
    groups: Expr = Integer(1)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        return _check_norm(self, inputs, 1 + self.weight)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x = inputs[0]
        rows = Mul(*x.shape[:-1]) * self.groups
        return vector_special((3 + self.weight) * x.numel + 2 * rows, rows)


@dataclass(frozen=True)
class LayerNorm(Op):
    """Layer normalisation over the last dimension, with optional weight and bias.

    Inputs ``x (…, d)``, ``weight (d)``, ``bias (d)``. 7 FLOP per element with
    both, one less without each, and 4 per row (mean, variance, epsilon,
    reciprocal root).
    """

    kind: ClassVar[str] = "layer-norm"
    bias: bool = True
    weight: bool = True

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        return _check_norm(self, inputs, 1 + self.weight + self.bias)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x = inputs[0]
        rows = Mul(*x.shape[:-1])
        return vector_special((5 + self.weight + self.bias) * x.numel + 3 * rows, rows)


@dataclass(frozen=True)
class Rope(Op):
    """Rotary position embedding of ``x (B, q, heads, dh)`` by ``table (q, rotary)``.

    ``rotary`` is the rotated width (``dh``, or less for partial rotary). The
    table holds cosines and sines for the positions of the step. 3 FLOP per
    rotated element; the whole of ``x`` is read and written.
    """

    kind: ClassVar[str] = "rope"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes x and a table")
        x, table = inputs
        require(
            len(x.shape) == 4 and len(table.shape) == 2, self, "cannot rotate {} by {}", x, table
        )
        require_same(self, x.shape[1], table.shape[0], "positions of x and table")
        return (Spec(x.shape, x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, table = inputs
        rotated: Expr = Mul(*x.shape[:-1]) * table.shape[1]
        return vector(3 * rotated)


@dataclass(frozen=True)
class NamedRope(Rope):
    """Rotary embedding whose angles a ``method`` changes, such as YaRN: the table is another.

    A step costs what it costs without: factors on scores are the product's alpha.
    """

    method: str = ""

    @property
    def told(self) -> str:
        return self.method
