"""General element-wise operations, reductions and scans over axes, as traced graphs hold them.

FLOP per result element of a :class:`Map` are in :data:`FUNCTIONS`, one per
arithmetic operation or comparison; transcendental evaluations are counted apart on
the special-function engine, as in :mod:`costgraph.ops.elementwise`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from sympy import Expr, Integer, Mul

from costgraph.errors import VerifyError
from costgraph.ir.cost import Work
from costgraph.ir.dtypes import INT64, DType
from costgraph.ir.op import Op, Spec, Tensors, require, same, vector, vector_special
from costgraph.ir.tensor import Tensor

ONE = Integer(1)

#: (vector FLOP, special FLOP) per result element.
FUNCTIONS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        # two operands
        **dict.fromkeys(("add", "sub", "mul", "div", "min", "max", "mod"), (1, 0)),
        **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), (1, 0)),
        **dict.fromkeys(("and", "or", "xor", "floor_div", "shift_bits"), (1, 0)),
        "pow": (1, 2),  # exp(y · log x)
        "prelu": (2, 0),
        "atan2": (1, 1),
        # one operand; *_constant: with a number for the other operand
        **dict.fromkeys(("scale", "add_constant", "compare_constant", "not", "neg", "abs"), (1, 0)),
        **dict.fromkeys(("floor", "ceil", "round", "sign", "truncate", "isnan"), (1, 0)),
        **dict.fromkeys(("square", "reciprocal", "relu", "leaky_relu"), (1, 0)),
        **dict.fromkeys(
            ("sqrt", "rsqrt", "exp", "log", "sin", "cos", "tan", "tanh", "erf"), (0, 1)
        ),
        **dict.fromkeys(
            ("asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"), (0, 1)
        ),
        "constant_div": (1, 0),
        "cube": (2, 0),
        "pow_constant": (1, 2),
        "log1p": (1, 1),
        "expm1": (1, 1),
        "clip": (2, 0),
        "hard_sigmoid": (4, 0),
        "hard_swish": (5, 0),
        "quantize": (3, 0),  # divide, round, add the zero point
        "dequantize": (2, 0),  # subtract the zero point, multiply
        "elu": (2, 1),
        "selu": (3, 1),
        "softplus": (1, 2),
        "mish": (2, 3),
        "softsign": (3, 0),
        "hardshrink": (2, 0),
        "softshrink": (3, 0),
        "log_sigmoid": (4, 2),  # min(x, 0) − log(1 + exp(−|x|))
        "nan_to_num": (3, 0),
        "frac": (2, 0),
        "logit": (2, 1),
        # complex numbers: operations on their parts
        "complex_add": (2, 0),
        "complex_mul": (6, 0),
        "complex_abs": (3, 1),
        "hypot": (3, 1),
        # three operands
        "where": (1, 0),
        "addcmul": (2, 0),
        "lerp": (3, 0),
        # many operands: one operation per operand after the first
        "sum": (1, 0),
        "largest": (1, 0),
        "smallest": (1, 0),
        "average": (1, 0),
    }
)


def broadcast(op: Op, tensors: Sequence[Tensor]) -> tuple[Expr, ...]:
    """The common shape of ``tensors`` under the usual rules (sizes of one repeat).

    Raises:
        VerifyError: they have none, or it cannot be decided.
    """
    rank = max((len(t.shape) for t in tensors), default=0)
    shape: list[Expr] = [ONE] * rank
    for t in tensors:
        for place, size in enumerate(t.shape, start=rank - len(t.shape)):
            if size == ONE:
                continue
            if shape[place] == ONE:
                shape[place] = size
            elif not same(shape[place], size):
                shown = " and ".join(map(str, tensors))
                raise VerifyError(f"{op.kind}: shapes of {shown} disagree")
    return tuple(shape)


@dataclass(frozen=True)
class Map(Op):
    """``function`` of the operands, element by element, sizes of one repeated.

    Attributes:
        function: a key of :data:`FUNCTIONS`.
        result: format of the result where it is not the first operand's.
    """

    kind: ClassVar[str] = "map"
    function: str = "add"
    result: DType | None = None

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) >= 1, self, "takes an operand or more")
        require(self.function in FUNCTIONS, self, "unknown function {!r}", self.function)
        return (Spec(broadcast(self, inputs), self.result or inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        plain, special = FUNCTIONS[self.function]
        n = outputs[0].numel
        if self.function in ("sum", "largest", "smallest", "average"):
            plain *= len(inputs) - 1 + (self.function == "average")
        return vector_special(plain * n, special * n) if special else vector(plain * n)


@dataclass(frozen=True)
class Reduce(Op):
    """``function`` over ``axes``: one FLOP per operand element, per result where it divides.

    Functions: sum, mean, max, min, prod, any, all, argmax, argmin, norm1, norm2,
    sum_square, log_sum_exp, var, std. Norms and sums of squares take one FLOP more
    per element, ``var`` and ``std`` three (subtract, square, sum beside the mean's
    sum), ``log_sum_exp`` one exponential per element.
    """

    kind: ClassVar[str] = "reduce"
    function: str = "sum"
    axes: tuple[int, ...] = ()
    keep: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        x = inputs[0]
        within = all(0 <= a < len(x.shape) for a in self.axes)
        require(within and len(set(self.axes)) == len(self.axes), self, "{} over {}", x, self.axes)
        shape = tuple(
            ONE if axis in self.axes else size
            for axis, size in enumerate(x.shape)
            if self.keep or axis not in self.axes
        )
        return (Spec(shape, INT64 if self.function.startswith("arg") else x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        n, out = inputs[0].numel, outputs[0].numel
        if self.function in ("norm1", "norm2", "sum_square"):
            roots = out if self.function == "norm2" else Integer(0)
            return vector_special(2 * n, roots) if roots != 0 else vector(2 * n)
        if self.function == "log_sum_exp":
            return vector_special(3 * n, n + out)
        if self.function in ("var", "std"):
            roots = out if self.function == "std" else Integer(0)
            return vector_special(4 * n + 2 * out, roots) if roots != 0 else vector(4 * n + 2 * out)
        if self.function == "mean":
            return vector(n + out)
        return vector(n)


@dataclass(frozen=True)
class SoftmaxOver(Op):
    """Softmax over one ``axis``: 4 FLOP and one exponential per element.

    Its logarithm subtracts the logarithm of the sum instead of dividing: the same
    count, and one logarithm per row.
    """

    kind: ClassVar[str] = "softmax-over"
    axis: int = 0
    log: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        x = inputs[0]
        require(0 <= self.axis < len(x.shape), self, "{} has no axis {}", x, self.axis)
        return (Spec(x.shape, x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x = inputs[0]
        rows = Mul(*(s for a, s in enumerate(x.shape) if a != self.axis))
        return vector_special(4 * x.numel, x.numel + (rows if self.log else 0))


@dataclass(frozen=True)
class Cumulate(Op):
    """Running sum, product or maximum along an axis: 1 FLOP per element.

    ``logarithmic``, the running logarithm of a sum of exponentials, takes a maximum, a
    difference and a sum, an exponential and a logarithm.
    """

    kind: ClassVar[str] = "cumulate"
    logarithmic: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        return (Spec(inputs[0].shape, inputs[0].dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        n = inputs[0].numel
        return vector_special(3 * n, 2 * n) if self.logarithmic else vector(n)


@dataclass(frozen=True)
class TopK(Op):
    """The ``k`` largest along ``axis`` and their places: one comparison per element."""

    kind: ClassVar[str] = "top-k"
    k: Expr = ONE
    axis: int = 0

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 1, self, "takes one operand")
        x = inputs[0]
        require(0 <= self.axis < len(x.shape), self, "{} has no axis {}", x, self.axis)
        shape = (*x.shape[: self.axis], self.k, *x.shape[self.axis + 1 :])
        return (Spec(shape, x.dtype), Spec(shape, INT64))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(inputs[0].numel)
