"""UPerNet (Xiao et al., arXiv 1807.10221): parts of an image from several stages at once."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.models.blocks import Maker, Style
from costgraph.models.blocks.image import conv
from costgraph.models.inverted import Step
from costgraph.models.stages import Maps
from costgraph.models.vision import OnePass
from costgraph.ops import Add
from costgraph.ops.arrays import Join
from costgraph.ops.pool import AdaptivePool, Resize


@dataclass(frozen=True)
class Beside:
    """A second classifier, of one stage.

    Attributes:
        stage: its place among those that are read.
        width, count: channels and number of its convolutions.
        joined: what they read stands beside what they make in one more.
    """

    stage: int
    width: int
    count: int
    joined: bool


@dataclass(frozen=True)
class UperNet(OnePass):
    """A pyramid whose coarsest stage is averaged over several grids.

    Attributes:
        stem: the network, and the stages that are read.
        width: channels in which they come together.
        grids: sides of the grids.
        labels: kinds of parts.
        beside: the second classifier, or None.
    """

    stem: Maps
    width: int
    grids: tuple[int, ...]
    labels: Expr
    beside: Beside | None

    def positions(self, style: Style) -> Expr:
        return self.stem.positions(style)

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        near, wide = Step(self.width, activation="relu"), Step(self.width, 3, activation="relu")
        stages = self.stem.add(m)
        *finer, last = stages
        parts = [last]
        for index, side in enumerate(self.grids):
            x = m.add(f"grid{index}_mean", AdaptivePool((Integer(side),) * 2), last)
            parts.append(self._fit(m, f"grid{index}_fit", near.add(m, f"grid{index}", x), last))
        x = wide.add(m, "grids", m.add("grids_beside", Join(1), *parts))
        sides = [near.add(m, f"side{index}", stage) for index, stage in enumerate(finer)]
        made = [x]
        for index in reversed(range(len(sides))):
            larger = self._fit(m, f"down{index}_fit", made[0], sides[index])
            made.insert(0, m.add(f"down{index}", Add(), sides[index], larger))
        made = [wide.add(m, f"out{i}", x) for i, x in enumerate(made[:-1])] + made[-1:]
        fitted = [self._fit(m, f"out{i}_fit", x, made[0]) for i, x in enumerate(made[1:], 1)]
        x = wide.add(m, "fused", m.add("all_beside", Join(1), made[0], *fitted))
        found = [self._classes(m, "classes", x)]
        if self.beside is not None:
            found.append(self._second(m, stages, self.beside))
        return m.build(*found)

    def _fit(self, m: Maker, name: str, x: str, like: str) -> str:
        """Adds a map in the grid of another one."""
        shape = (*m.shape(x)[:2], *m.shape(like)[2:])
        return m.add(name, Resize(shape, "linear"), x)

    def _classes(self, m: Maker, name: str, x: str) -> str:
        """Adds a classifier of each pixel."""
        x = conv(m, name, x, self.labels, 1)
        size = m.style.image or self.stem.network.size
        return m.add(f"{name}_enlarge", Resize((*m.shape(x)[:2], *size), "linear"), x)

    def _second(self, m: Maker, stages: list[str], beside: Beside) -> str:
        """Adds the second classifier."""
        step = Step(beside.width, 3, activation="relu")
        x = start = stages[beside.stage]
        for index in range(beside.count):
            x = step.add(m, f"second{index}", x)
        if beside.joined:
            x = step.add(m, "second_both", m.add("second_beside", Join(1), start, x))
        return self._classes(m, "second_classes", x)
