"""What an operation is: it knows its result shapes, its work and its traffic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, expand

from costgraph.errors import VerifyError
from costgraph.hardware.links import Messages
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import ONE, ZERO, Access, Cost, Direction, FlopKey, Work, from_accesses
from costgraph.ir.dtypes import DType, compute_type, converts
from costgraph.ir.tensor import Role, Spread, Tensor

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Spec:
    """A result before it has a name: shape, format, role, bytes set aside and where."""

    shape: tuple[Expr, ...]
    dtype: DType
    role: Role = Role.ACTIVATION
    stored: Expr | None = None
    spread: Spread | None = None

    def named(self, name: str) -> Tensor:
        """The tensor of this shape and format."""
        return Tensor(name, self.shape, self.dtype, self.role, self.stored, spread=self.spread)


class Op(ABC):
    """One operation kind. Subclasses are frozen dataclasses of attributes.

    ``work`` has no default: an operation without a cost rule cannot be made.
    """

    kind: ClassVar[str]
    #: True for operations that only rename memory: no traffic, no launch.
    is_view: ClassVar[bool] = False
    #: Operands that the kernel converts as it loads them: matrices of products and tables of
    #: look-ups, which alone can be stored narrower than the results are.
    converted: ClassVar[tuple[int, ...]] = ()

    @property
    def told(self) -> str:
        """What it is beside its kind, in words, where costs do not show it; empty for most."""
        return ""

    @abstractmethod
    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        """Shapes, formats and roles of the results.

        Raises:
            VerifyError: the operands do not fit together.
        """

    @abstractmethod
    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        """FLOP per (engine, compute type) of one execution."""

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        """Memory traffic of one execution.

        Default: each distinct operand is read once, each result written once.
        """
        if self.is_view:
            return ()
        distinct = {t.name: t for t in inputs}
        return (
            *(read(t) for t in distinct.values()),
            *(write(t) for t in outputs),
        )

    def messages(self, inputs: Tensors, outputs: Tensors) -> Mapping[str, Messages]:
        """Messages to and from other devices by link; none for most operations."""
        return {}

    def cost(self, inputs: Tensors, outputs: Tensors) -> Cost:
        """The exact cost vector of one execution."""
        return from_accesses(
            self.work(inputs, outputs),
            self.accesses(inputs, outputs),
            ZERO if self.is_view else ONE,
            self.messages(inputs, outputs),
        )


def read(tensor: Tensor, amount: Expr | None = None) -> Access:
    """A read of ``tensor``: all of it, or ``amount`` bytes."""
    size = tensor.bytes if amount is None else amount
    return Access(tensor.name, tensor.role, Direction.READ, size, tensor.level)


def write(tensor: Tensor, amount: Expr | None = None) -> Access:
    """A write of ``tensor``: all of it, or ``amount`` bytes."""
    size = tensor.bytes if amount is None else amount
    return Access(tensor.name, tensor.role, Direction.WRITE, size, tensor.level)


def vector(flops: Expr) -> Work:
    """Element-wise work. It runs in fp32, as kernels for norms and activations do."""
    return {(Engine.VECTOR, "fp32"): flops}


def vector_special(flops: Expr, special: Expr) -> Work:
    """Element-wise work with ``special`` transcendental evaluations."""
    return {(Engine.VECTOR, "fp32"): flops, (Engine.SPECIAL, "fp32"): special}


def expansion(stored: Tensor, other: Tensor, elements: Expr | None = None) -> Work:
    """Work of converting a stored operand to the type in which it meets ``other``.

    The format's ``unpacking`` per stored element, or for ``elements`` of them (2 FLOP:
    subtract the zero point or look up, multiply by the scale), where the formats differ
    in width and the stored one is not what the engine takes; nothing otherwise. Zeros that
    are not stored are not converted, and what is stored is spread out (:func:`spreading`).
    """
    a = stored.dtype
    loaded = stored.narrow if elements is None else elements
    converted: Work = {}
    if converts(a, other.dtype):
        converted = vector(a.unpacking * present(a, loaded))
    return merged(converted, spreading(a, compute_type(a, other.dtype), loaded))


def present(stored: DType, elements: Expr) -> Expr:
    """How many of ``elements`` of a matrix are stored."""
    return elements if stored.sparse is None else elements * stored.sparse.kept


def spreading(stored: DType, compute: str, elements: Expr) -> Work:
    """Work of spreading a matrix that is stored without its zeros out into a dense one.

    Two FLOP per stored element (find its place, write it); nothing where units
    multiply it as it is.
    """
    sparse = stored.sparse
    if sparse is None or sparse.skips or sparse.rate(compute) is not None:
        return {}
    return vector(2 * present(stored, elements))


def multiplied(stored: DType, compute: str, flops: Expr) -> Work:
    """A product's ``flops``, zeros counted, with a stored matrix in a compute type.

    On the tensor engine; of sparse units what takes as long at the dense rate, which for
    2:4 at twice the rate is exactly what they multiply. Kernels that skip zeros multiply
    on the vector engine.
    """
    sparse = stored.sparse
    if sparse is not None and sparse.skips:
        return vector(flops * sparse.kept)
    rate = None if sparse is None else sparse.rate(compute)
    return {(Engine.TENSOR, compute): flops if rate is None else flops / rate}


def merged(*works: Work) -> Work:
    """The sum of several pieces of work."""
    out: dict[FlopKey, Expr] = {}
    for work in works:
        for key, value in work.items():
            out[key] = out[key] + value if key in out else value
    return out


def same(a: Expr, b: Expr) -> bool:
    """True when two dimensions are provably equal; undecided is False."""
    return a is b or bool(a == b) or bool(expand(a - b) == 0)


def same_shape(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    """True when two shapes have as many dimensions, each provably equal."""
    return len(a) == len(b) and all(map(same, a, b))


def require(condition: bool, op: Op, message: str, *about: object) -> None:
    """Raise :class:`VerifyError` naming the operation unless ``condition``.

    ``about`` fills the braces of ``message``, only when it is needed: printing
    shapes takes longer than checking them.
    """
    if not condition:
        raise VerifyError(f"{op.kind}: {message.format(*about) if about else message}")


def require_same(op: Op, a: Expr, b: Expr, what: str, *about: object) -> None:
    """Require two dimensions to be provably equal; see :func:`require`."""
    if not same(a, b):
        shown = what.format(*about) if about else what
        raise VerifyError(f"{op.kind}: {shown} disagree: {a} against {b}")
