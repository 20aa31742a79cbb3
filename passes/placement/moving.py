"""Moving operations of a layer to what computes in a level of memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.machine import Machine
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.tensor import MEMORY, Role, Tensor, inside
from costgraph.ops import Linear
from costgraph.ops.quant import plain
from costgraph.ops.transfer import AmongParts, Carry
from costgraph.passes.placement.shares import level_named
from costgraph.passes.sparsity.widths import NORMS

ONE = Integer(1)


@dataclass(frozen=True)
class Unit:
    """What computes in a level of memory.

    Attributes:
        level: by name.
        parts: parts with memory of their own that share its work.
        exchange: the link by which they exchange data; empty for none.
    """

    level: str
    parts: Expr = ONE
    exchange: str = ""

    @classmethod
    def of(cls, device: Machine, level: str) -> Unit:
        """The unit in a level that a device states."""
        tier = device.tiers[level]
        return cls(level, tier.parts, tier.exchange)

    @classmethod
    def named(cls, made_by: str, option: str, word: str, system: System) -> Unit:
        """The unit in the level that an option names.

        Raises:
            PipelineError: there is no such level, or nothing computes in it.
        """
        level = level_named(made_by, option, word, system)
        if not system.device.tiers[level].peaks:
            raise PipelineError(
                f"{made_by}: {option}: nothing computes in {level} of {system.name}"
            )
        return cls.of(system.device, level)


@dataclass(frozen=True)
class Division:
    """How tensors lie in the parts of a unit.

    Attributes:
        whole: what every part needs as a whole: operands of products, whose rows are dealt out.
        sums: of what every part makes a summand: results of products that are divided along
            their operand, as that was made by rows in the parts.
    """

    whole: frozenset[str]
    sums: frozenset[str]


def divided(graph: Graph, own: Collection[str]) -> Division:
    """How the tensors of operations lie that share their work among parts.

    Products whose operand comes from outside are divided by rows of their matrix, those behind
    them by columns; attention, and what goes element by element, as its operands are.

    Raises:
        PipelineError: an operation needs a sum that lies in parts.
    """
    whole, sums, cut = set[str](), set[str](), set[str]()
    for node in graph.nodes:
        if node.name not in own:
            continue
        needs = next((i for i in node.inputs if i in sums), None)
        if needs is not None:
            raise PipelineError(
                f"{node.name} needs the sum {needs}, of which every part makes a summand: "
                "place them apart"
            )
        op = plain(node.op)
        made = {t.name for t in node.outputs}
        rows = next((i for i in node.inputs if i in cut and len(graph.tensors[i].shape) < 4), None)
        if isinstance(op, NORMS) and rows is not None:
            raise PipelineError(
                f"{node.name} needs whole rows of {rows}, of which every part has a piece: "
                "place them apart"
            )
        if isinstance(op, Linear) and node.inputs[0] in cut:
            sums |= made
            continue
        if isinstance(op, Linear):
            whole.add(node.inputs[0])
        cut |= made
    return Division(frozenset(whole), frozenset(sums))


class _Mover:
    """Carries tensors to a unit and back, each once."""

    def __init__(self, graph: Graph, names: Collection[str], unit: Unit, made_by: str) -> None:
        self.graph, self.unit = graph, unit
        self.own = set(names)
        self.made_there = {t.name for n in graph.nodes if n.name in self.own for t in n.outputs}
        self.division = divided(graph, self.own) if unit.parts != 1 else Division(
            frozenset(), frozenset()
        )  # fmt: skip
        self.carried: dict[tuple[str, bool], str] = {}
        self.nodes: list[Node] = []
        self.made_by = made_by

    def carry(self, name: str, back: bool) -> str:
        """The name under which the other side knows a tensor."""
        key = (name, back)
        if key in self.carried:
            return self.carried[key]
        end = self.carried[key] = f"{name}.{'back' if back else self.unit.level}"
        among = name in (self.division.sums if back else self.division.whole)
        exchanged = among and bool(self.unit.exchange)
        copies = self.unit.parts if among and not exchanged else ONE
        made = replace(self.graph.tensors[name].renamed(end), spread=None, level=MEMORY)
        over = Carry(self.unit.level, back, copies)
        if not exchanged:
            self._add(made, over, name)
        elif back:
            summed = made.renamed(f"{name}.summed")
            self._add(summed, self._among("reduce-scatter"), name, inside(self.unit.level))
            self._add(made, over, summed.name)
        else:
            sent = made.renamed(f"{name}.sent")
            self._add(sent, over, name)
            self._add(made, self._among("broadcast"), sent.name, inside(self.unit.level))
        return end

    def _among(self, what: str) -> AmongParts:
        return AmongParts(what, self.unit.exchange, self.unit.parts)

    def _add(self, made: Tensor, op: Carry | AmongParts, name: str, unit: str = "") -> None:
        self.nodes.append(Node(made.name, op, (name,), (made,), Origin(made_by=self.made_by), unit))


def moved(graph: Graph, names: Collection[str], unit: Unit, made_by: str) -> Graph:
    """``graph`` with nodes run by what computes in a level of memory.

    What they take of others, and what others take of them, is carried over the link; each
    tensor once to each part that needs it. Weights and caches that they read lie where they
    run.

    Raises:
        PipelineError: the parts of the unit cannot share this work.
    """
    mover = _Mover(graph, names, unit, made_by)
    for node in graph.nodes:
        here = node.name in mover.own
        inputs = []
        for name in node.inputs:
            tensor, there = graph.tensors[name], name in mover.made_there
            stays = tensor.role is not Role.ACTIVATION and name not in graph.producer
            inputs.append(name if here == there or stays else mover.carry(name, there))
        runs = inside(unit.level) if here else node.unit
        mover.nodes.append(replace(node, inputs=tuple(inputs), unit=runs))
    outputs = tuple(mover.carry(o, True) if o in mover.made_there else o for o in graph.outputs)
    return replace(graph, nodes=tuple(mover.nodes), outputs=outputs)


def by_level(runs: Mapping[str, str]) -> dict[str, list[str]]:
    """Names of nodes by the level in which they run."""
    found: dict[str, list[str]] = {}
    for name, level in runs.items():
        found.setdefault(level, []).append(name)
    return found
