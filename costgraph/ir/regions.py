"""Regions: operations that are graphs, run in rounds or side by side.

:class:`Repeat` runs one body several times, one round after the other. :class:`Parallel`
runs several bodies at once. A region's graphs are kept, never written out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

from sympy import Expr, Integer

from costgraph.errors import MissingRuleError
from costgraph.ir.cost import Access, Cost, Work, total
from costgraph.ir.op import Op, Spec, Tensors
from costgraph.ir.presence import EVERYONE, Presence

if TYPE_CHECKING:
    from costgraph.ir.graph import Graph

ONE = Integer(1)
#: What the rounds of a region are: layers of the model, or no layers.
ROUNDS = ("layers", "other")
_R = TypeVar("_R", bound="Region")


class Region(Op):
    """An operation that is made of graphs.

    Cost: the expected cost of each graph, ``times`` over, kept in that form.
    """

    @property
    @abstractmethod
    def graphs(self) -> tuple[Graph, ...]:
        """The graphs of the region, in the order in which they are counted."""

    @abstractmethod
    def with_graphs(self: _R, graphs: Sequence[Graph]) -> _R:
        """The region with other graphs in their places."""

    @property
    @abstractmethod
    def takes(self) -> tuple[tuple[int, ...], ...]:
        """For each graph the region's operand that each of its inputs is."""

    @property
    def labels(self) -> tuple[str, ...]:
        """For each graph its name in the region; empty where there is only one."""
        return ("",) * len(self.graphs)

    @property
    def units(self) -> tuple[str, ...]:
        """For each graph the unit that runs it; empty for the one that runs the region."""
        return ("",) * len(self.graphs)

    def given(self, operands: Tensors) -> tuple[Tensors, ...]:
        """For each graph the operands as its inputs see them."""
        return tuple(tuple(operands[i] for i in takes) for takes in self.takes)

    @property
    def times(self) -> Expr:
        """How often each graph runs in one execution."""
        return ONE

    @property
    def taking_part(self) -> Presence:
        """Which of a step's tokens take part."""
        return EVERYONE

    @property
    def instances(self) -> Expr:
        """How many sets of weights and caches the region holds."""
        return self.times

    @property
    def weight_sets(self) -> Expr:
        """How many sets of weights the region holds."""
        return self.instances

    @property
    def shares_weights(self) -> bool:
        """Whether weights of one name in several graphs are the same, held once."""
        return False

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return self.cost(inputs, outputs).flops

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        raise MissingRuleError("a region is counted by its graphs, not as one access list")

    def cost(self, inputs: Tensors, outputs: Tensors) -> Cost:
        inner = total(graph.cost for graph in self.graphs)
        return self.taking_part.expected(inner).scaled(self.times)


@dataclass(frozen=True)
class Repeat(Region):
    """``body`` executed ``count`` times in sequence, results fed back as operands.

    The first ``carried`` results of the body become its first ``carried``
    operands in the next round. Weights and caches of the body are one set per
    round: the region holds ``instances`` sets (``count`` unless rounds share).
    ``shared_weights`` says how many sets of weights alone it holds where places
    share weights but not caches: a fraction inside another region. ``presence`` says
    which of a step's tokens take part. ``rounds`` says what the rounds are, one of
    :data:`ROUNDS`, to passes that number layers and cut between them. Layers of one kind
    that stand all over the model are one region: ``places`` are their numbers among the
    layers of it and of the regions beside it; empty where they follow one another. Layers
    that run ``again`` for tokens that missed them name the region that holds their weights.

    The last ``parts`` operands ``(count, …)`` hold a part ``(…)`` for each round; of the
    last ``gathered`` results those of all rounds are kept, ``(count, …)`` side by side.
    """

    kind: ClassVar[str] = "repeat"
    body: Graph
    count: Expr
    carried: int = 1
    presence: Presence = EVERYONE
    shared_instances: Expr | None = None
    shared_weights: Expr | None = None
    rounds: str = "layers"
    parts: int = 0
    gathered: int = 0
    places: tuple[int, ...] = ()
    again: str = ""

    @property
    def graphs(self) -> tuple[Graph, ...]:
        return (self.body,)

    def with_graphs(self, graphs: Sequence[Graph]) -> Repeat:
        (body,) = graphs
        return replace(self, body=body)

    @property
    def takes(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(len(self.body.inputs))),)

    @property
    def times(self) -> Expr:
        return self.count

    @property
    def taking_part(self) -> Presence:
        return self.presence

    @property
    def instances(self) -> Expr:
        return self.count if self.shared_instances is None else self.shared_instances

    @property
    def weight_sets(self) -> Expr:
        return self.instances if self.shared_weights is None else self.shared_weights

    def given(self, operands: Tensors) -> tuple[Tensors, ...]:
        whole = len(operands) - self.parts
        cut = (replace(t, shape=t.shape[1:]) for t in operands[whole:])
        return ((*operands[:whole], *cut),)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        results = _results(self.body)
        once = len(results) - self.gathered
        kept = (replace(s, shape=(self.count, *s.shape), stored=None) for s in results[once:])
        return (*results[:once], *kept)


@dataclass(frozen=True)
class Body:
    """One of the graphs of a parallel region.

    Attributes:
        name: unique in its region.
        graph: what runs.
        takes: for each input of the graph, the place of the region's operand that it is.
        unit: the unit that runs it; empty for the one that runs the region.
    """

    name: str
    graph: Graph
    takes: tuple[int, ...]
    unit: str = ""


@dataclass(frozen=True)
class Parallel(Region):
    """Bodies that start together; the region ends when the last of them does.

    Its results are those of the bodies, in order. No body reads what another makes. Bodies
    on one unit share its engines, its memory and its links: the region takes at least the
    total of each. With ``one_model`` the bodies are one graph at work on parts of a batch, or
    of an image: weights of one name in several of them are the same, and on a unit once.
    """

    kind: ClassVar[str] = "parallel"
    bodies: tuple[Body, ...]
    one_model: bool = False

    @property
    def graphs(self) -> tuple[Graph, ...]:
        return tuple(b.graph for b in self.bodies)

    @property
    def shares_weights(self) -> bool:
        return self.one_model

    def with_graphs(self, graphs: Sequence[Graph]) -> Parallel:
        made = (replace(b, graph=g) for b, g in zip(self.bodies, graphs, strict=True))
        return replace(self, bodies=tuple(made))

    @property
    def takes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(b.takes for b in self.bodies)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.bodies)

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(b.unit for b in self.bodies)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        return tuple(spec for b in self.bodies for spec in _results(b.graph))


def _results(graph: Graph) -> tuple[Spec, ...]:
    results = (graph.tensors[name] for name in graph.outputs)
    return tuple(Spec(t.shape, t.dtype, t.role, t.stored, t.spread) for t in results)
