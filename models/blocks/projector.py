"""Projectors: what turns features of a tower into rows of a language model.

A projector is a row of steps over ``(batch, n, d)``; families differ in which steps and
in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sympy import Expr, Integer, Mul

from costgraph.models.blocks.style import Maker, Norm
from costgraph.ops import Activation, AsSequence
from costgraph.ops.image import AsImage, Rearrange
from costgraph.ops.pool import Pool
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

    def add(self, m: Maker, prefix: str, x: str) -> str:
        return m.norm(f"{prefix}_norm", x, m.shape(x)[-1], self.norm)


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
class Product:
    """A matrix from the width that there is to ``width``."""

    name: str
    width: Expr
    bias: bool = True

    def add(self, m: Maker, prefix: str, x: str) -> str:
        return m.linear(f"{prefix}_{self.name}", x, self.width, m.shape(x)[-1], self.bias)


@dataclass(frozen=True)
class Acted:
    """An activation."""

    function: str
    name: str = "act"

    def add(self, m: Maker, prefix: str, x: str) -> str:
        return m.add(f"{prefix}_{self.name}", Activation(self.function), x)


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
    return found


def project(m: Maker, prefix: str, x: str, steps: Steps) -> str:
    """Adds the steps in order."""
    for step in steps:
        x = step.add(m, prefix, x)
    return x
