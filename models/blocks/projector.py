"""Projectors: what turns features of a tower into rows of a language model.

A projector is a row of steps over ``(batch, n, d)``; families differ in which steps and
in their order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from sympy import Expr, Integer, Mul

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.style import Maker, Norm
from costgraph.ops import Activation, Add, AsSequence, Multiply, Scale, Split
from costgraph.ops.image import AsImage, Rearrange
from costgraph.ops.maps import Map, Reduce, SoftmaxOver
from costgraph.ops.pool import Pool, Resize
from costgraph.ops.views import Reshape

ZERO, ONE = Integer(0), Integer(1)


class Step(Protocol):
    """One step of a projector."""

    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds the step behind ``x (batch, n, d)``."""


@dataclass(frozen=True)
class Normed:
    """A normalisation of each position."""

    norm: Norm
    name: str = "norm"

    def add(self, m: Maker, prefix: str, x: str) -> str:
        return m.norm(f"{prefix}_{self.name}", x, m.shape(x)[-1], self.norm)


@dataclass(frozen=True)
class Beside:
    """``count`` positions become one, side by side: ``(batch, n/count, count·d)``.

    ``copied``: they do not stand behind one another in memory (squares of an image's grid).
    """

    count: Expr
    copied: bool = False

    def add(self, m: Maker, prefix: str, x: str) -> str:
        batch, n, d = m.shape(x)
        shape = (batch, n / self.count, d * self.count)
        op = Rearrange(shape) if self.copied and self.count != 1 else Reshape(shape)
        return m.add(f"{prefix}_rows", op, x)


@dataclass(frozen=True)
class Averaged:
    """Means over windows of ``kernel`` positions per axis of a grid of ``size``."""

    size: tuple[Expr, ...]
    kernel: tuple[Expr, ...]

    def add(self, m: Maker, prefix: str, x: str) -> str:
        axes = len(self.kernel)
        pool = Pool(self.kernel, self.kernel, (ZERO,) * axes, (ONE,) * axes, function="average")
        x = m.add(f"{prefix}_grid", AsImage(self.size), x)
        x = m.add(f"{prefix}_pool", pool, x)
        return m.add(f"{prefix}_sequence", AsSequence(), x)


@dataclass(frozen=True)
class Squares:
    """Means over squares of ``side`` by ``side`` positions, whatever grid they stand in.

    They are gathered beside one another first: ``side² `` FLOP per result.
    """

    side: Expr

    def add(self, m: Maker, prefix: str, x: str) -> str:
        _, n, d = m.shape(x)
        batch = m.shape(x)[0]
        x = m.add(f"{prefix}_squares", Rearrange((batch, n, d)), x)
        # One square under the other, as an image ``side`` wide.
        grid, square = (n / self.side, self.side), (self.side, self.side)
        return Averaged(grid, square).add(m, prefix, x)


@dataclass(frozen=True)
class Standardised:
    """A scale, and where ``stored`` a shift and a scale per channel that are no parameters."""

    stored: bool = False

    def add(self, m: Maker, prefix: str, x: str) -> str:
        d, acts = m.shape(x)[-1], m.style.acts
        x = m.add(f"{prefix}_scale", Scale(), x)
        if not self.stored:
            return x
        shift, scale = (
            m.source(Tensor(f"{prefix}_{name}", (d,), acts)) for name in ("mean", "spread")
        )
        return m.add(
            f"{prefix}_spread_mul", Multiply(), m.add(f"{prefix}_shift", Add(), x, shift), scale
        )


@dataclass(frozen=True)
class UnitLength:
    """Each row over its length."""

    def add(self, m: Maker, prefix: str, x: str) -> str:
        length = m.add(f"{prefix}_length", Reduce("norm2", (2,), keep=True), x)
        return m.add(f"{prefix}_unit", Map("div"), x, length)


@dataclass(frozen=True)
class Product:
    """A matrix from the width that there is to ``width``."""

    name: str
    width: Expr
    bias: bool = True

    def add(self, m: Maker, prefix: str, x: str) -> str:
        return m.linear(f"{prefix}_{self.name}", x, self.width, m.shape(x)[-1], self.bias)


@dataclass(frozen=True)
class Softly:
    """A softmax over each row, behind which ``more`` zeros stand."""

    more: Expr = ZERO

    def add(self, m: Maker, prefix: str, x: str) -> str:
        batch, n, d = m.shape(x)
        x = m.add(f"{prefix}_softmax", SoftmaxOver(2), x)
        return m.add(f"{prefix}_zeros", Resize((batch, n, d + self.more)), x)


@dataclass(frozen=True)
class Acted:
    """An activation."""

    function: str
    name: str = "act"

    def add(self, m: Maker, prefix: str, x: str) -> str:
        return m.add(f"{prefix}_{self.name}", Activation(self.function), x)


@dataclass(frozen=True)
class Halves:
    """An activation of the second half of each row, times the first half."""

    function: str

    def add(self, m: Maker, prefix: str, x: str) -> str:
        half = m.shape(x)[-1] / 2
        first, second = m.add_many(f"{prefix}_halves", Split(((half,), (half,))), x)
        acted = m.add(f"{prefix}_act", Activation(self.function), second)
        return m.add(f"{prefix}_mul", Multiply(), first, acted)


@dataclass(frozen=True)
class Ended:
    """Learned rows that stand at ends of lines and of images: held, and no tokens of ``G``."""

    names: tuple[str, ...]
    width: Expr

    def add(self, m: Maker, prefix: str, x: str) -> str:
        for name in self.names:
            m.vector(f"{prefix}_{name}", self.width)
        return x


@dataclass(frozen=True)
class Fed:
    """A feed-forward block."""

    feed: FeedForward

    def add(self, m: Maker, prefix: str, x: str) -> str:
        return self.feed.add(m, x, f"{prefix}_")


@dataclass(frozen=True)
class Convolved(ABC):
    """A step that looks at positions beside one another, of which ``into_one`` become one."""

    @property
    @abstractmethod
    def into_one(self) -> Expr:
        """How many positions become one."""

    @abstractmethod
    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds the step behind ``x (batch, n, d)``."""


@dataclass(frozen=True)
class Resampling(ABC):
    """A step that makes ``queries`` rows of the ``positions`` of an image."""

    queries: Expr
    positions: Expr

    @abstractmethod
    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds the step behind ``x (batch, positions, c)``."""


Steps = tuple[Step, ...]


def two_products(width: Expr, activation: str, bias: bool) -> Steps:
    """The common end: a product, an activation and a product, both ``width`` wide."""
    return Product("1", width, bias), Acted(activation), Product("2", width, bias)


def tokens_for(steps: Steps) -> Expr:
    """How many positions of the tower become one token."""
    found = ONE
    for step in steps:
        if isinstance(step, Beside):
            found *= step.count
        elif isinstance(step, Averaged):
            found *= Mul(*step.kernel)
        elif isinstance(step, Squares):
            found *= step.side**2
        elif isinstance(step, Resampling):
            found *= step.positions / step.queries
        elif isinstance(step, Convolved):
            found *= step.into_one
    return found


def project(m: Maker, prefix: str, x: str, steps: Steps) -> str:
    """Adds the steps in order."""
    for step in steps:
        x = step.add(m, prefix, x)
    return x
