"""A graph while it is being rewritten: the same questions, answered from kept indices.

A :class:`~costgraph.ir.graph.Graph` never changes; making a new one for every hit of
a rule costs its whole size each time. A :class:`Draft` is changed in place, by the
driver of :mod:`costgraph.rewriting.rewrite` alone, at the cost of the part that changes. It
notes which tensors a question looks at, so that after a change only those
questions need to be asked again that it may answer differently.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from costgraph.errors import VerifyError
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Spec, same_shape
from costgraph.ir.tensor import Tensor

_T = TypeVar("_T")
#: Distance between neighbours in the order: room to put nodes between them.
_GAP = 2**64
#: Stands for all tensors among those that were looked at.
EVERYTHING = ""


class _ByTensor(Mapping[str, _T]):
    """A mapping by tensor name; to go through it is to look at all names."""

    _data: Mapping[str, object]
    _seen: set[str]

    def __iter__(self) -> Iterator[str]:
        self._seen.add(EVERYTHING)
        return iter(self._data)

    def __len__(self) -> int:
        self._seen.add(EVERYTHING)
        return len(self._data)


class _Watched(_ByTensor[_T]):
    """What is known of each tensor; notes the names it is asked for."""

    _data: Mapping[str, _T]

    def __init__(self, data: Mapping[str, _T], seen: set[str]) -> None:
        self._data = data
        self._seen = seen

    def __getitem__(self, name: str) -> _T:
        self._seen.add(name)
        return self._data[name]


class _Users(_ByTensor[tuple[Node, ...]]):
    """The users of each tensor in their order, which is found when it is asked for."""

    _data: Mapping[str, Mapping[str, Node]]

    def __init__(
        self,
        data: Mapping[str, Mapping[str, Node]],
        position: Callable[[Node], int],
        seen: set[str],
    ) -> None:
        self._data = data
        self._position = position
        self._seen = seen
        self._known: dict[str, tuple[Node, ...]] = {}

    def __getitem__(self, name: str) -> tuple[Node, ...]:
        self._seen.add(name)
        found = self._known.get(name)
        if found is None:
            found = tuple(sorted(self._data[name].values(), key=self._position))
            self._known[name] = found
        return found

    def forget(self, names: Iterable[str]) -> None:
        """The users of these tensors changed, or their order did."""
        for name in names:
            self._known.pop(name, None)


@dataclass(frozen=True)
class Change:
    """Tensors whose form, maker or users changed, and nodes that only moved."""

    tensors: Collection[str]
    moved: tuple[str, ...]


class Draft:
    """A graph under change. Rules ask; :meth:`put` is the driver's.

    Attributes:
        tensors, producer, consumers, outputs: as in :class:`~costgraph.ir.graph.Graph`.
        stretched: grows when all positions changed at once.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._seen: set[str] = set()
        self._tensors = {t.name: t for t in graph.sources}
        self._producer: dict[str, Node] = {}
        self._users: dict[str, dict[str, Node]] = {name: {} for name in self._tensors}
        self._modules: dict[str, dict[str, Node]] = {}
        self._nodes: dict[str, Node] = {}
        #: Positions in order, and who stands there.
        self._order: list[int] = []
        self._at: dict[int, Node] = {}
        self._place: dict[str, int] = {}
        self.stretched = 0
        self.outputs: Collection[str] = dict.fromkeys(graph.outputs)
        self.tensors: Mapping[str, Tensor] = _Watched(self._tensors, self._seen)
        self.producer: Mapping[str, Node] = _Watched(self._producer, self._seen)
        self._by_use = _Users(self._users, self.position, self._seen)
        self.consumers: Mapping[str, tuple[Node, ...]] = self._by_use
        for index, node in enumerate(graph.nodes):
            self._enter(node)
            self._stand(node, index * _GAP)
            self._order.append(index * _GAP)

    # --- questions

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All operations, producers before consumers."""
        self._seen.add(EVERYTHING)
        return tuple(self._at[place] for place in self._order)

    def operands(self, node: Node) -> tuple[Tensor, ...]:
        """The tensors that ``node`` takes, in operand order."""
        return tuple(self.tensors[name] for name in node.inputs)

    def position(self, node: Node) -> int:
        """Grows along the order of the nodes; without other meaning."""
        return self._place[node.name]

    def node(self, name: str) -> Node | None:
        """The node called ``name``, if there is one."""
        return self._nodes.get(name)

    def is_free(self, name: str) -> bool:
        """True if neither a node nor a tensor is called ``name``."""
        return name not in self._nodes and name not in self._tensors

    def inside(self, module: str) -> Collection[Node]:
        """Nodes whose names start with ``module`` and a point."""
        return self._modules.get(module, {}).values()

    def made_from(self, names: Iterable[str], goals: Collection[str], since: Node) -> bool:
        """True if a tensor is one of ``goals`` or made from one, however far.

        Nothing that stands before ``since`` uses a goal: there the search ends.
        """
        floor = self._place[since.name]
        open_ = list(names)
        seen: set[str] = set()
        while open_:
            name = open_.pop()
            if name in goals:
                return True
            node = self.producer.get(name)
            if node is None or node.name in seen or self._place[node.name] < floor:
                continue
            seen.add(node.name)
            open_.extend(node.inputs)
        return False

    # --- for the driver

    def graph(self) -> Graph:
        """The graph as it stands; weights and caches that nothing uses are dropped."""
        return self._graph.with_nodes(self._at[place] for place in self._order)

    def watched(self, question: Callable[[], _T]) -> tuple[_T, frozenset[str]]:
        """The answer to a question, and the tensors that it looked at."""
        self._seen.clear()
        answer = question()
        return answer, frozenset(self._seen)

    def put(self, gone: Collection[Node], made: Collection[Node]) -> Change:
        """Nodes ``made`` in the place of the last of ``gone``.

        What stands between the first and the last of ``gone`` and uses a result
        moves behind it; the order is kept otherwise.

        Raises:
            VerifyError: an invariant of graphs would break; nothing is changed then.
        """
        names = {n.name for n in gone}
        places = [self._place[name] for name in names]
        self._check_names(names, gone, made)
        late = self._late(names, min(places), max(places), made)
        self._check_forms(names, made)
        last = max(places)
        for node in gone:
            self._leave(node)
        for node in (*gone, *late):
            place = self._place.pop(node.name)
            del self._at[place]
            del self._order[bisect_left(self._order, place)]
        for node in made:
            self._enter(node)
        self._insert(last, (*made, *late))
        for node in late:
            self._by_use.forget(node.inputs)
        touched = {x for n in (*gone, *made) for x in (*n.inputs, *(t.name for t in n.outputs))}
        return Change(touched, tuple(n.name for n in late))

    # --- what must hold

    def _check_names(self, names: set[str], gone: Collection[Node], made: Collection[Node]) -> None:
        left = {t.name for n in gone for t in n.outputs}
        here: set[str] = set()
        tensors: set[str] = set()
        for node in made:
            if node.name in here or (node.name in self._nodes and node.name not in names):
                raise VerifyError(f"two nodes would be called {node.name!r}")
            here.add(node.name)
            for tensor in node.outputs:
                if tensor.name in tensors or (
                    tensor.name in self._tensors and tensor.name not in left
                ):
                    raise VerifyError(f"tensor {tensor.name!r} would have two producers")
                tensors.add(tensor.name)
        for name in left - tensors:
            if name in self.outputs or any(u not in names for u in self._users[name]):
                raise VerifyError(f"{name!r} is still needed")

    def _late(
        self, names: set[str], first: int, last: int, made: Collection[Node]
    ) -> tuple[Node, ...]:
        """What stands in between and uses a result, in its order."""
        waiting = {t.name for n in made for t in n.outputs}
        late: list[Node] = []
        for place in self._order[bisect_left(self._order, first) : bisect_left(self._order, last)]:
            node = self._at[place]
            if node.name not in names and not waiting.isdisjoint(node.inputs):
                late.append(node)
                waiting.update(t.name for t in node.outputs)
        behind = {t.name for n in late for t in n.outputs}
        if any(not behind.isdisjoint(n.inputs) for n in made):
            raise VerifyError("the rewritten nodes would form a cycle")
        return tuple(late)

    def _check_forms(self, names: set[str], made: Collection[Node]) -> None:
        """New nodes make what they state, users outside still make what they state."""
        forms: dict[str, Tensor] = {}
        for node in made:
            self._check_node(node, forms)
            forms.update((t.name, t) for t in node.outputs)
        for name, tensor in forms.items():
            old = self._tensors.get(name)
            if old is None or old == tensor or _alike(old, tensor):
                continue
            if name in self.outputs:
                raise VerifyError(f"the result {name!r} would change its form")
            for user in self._users[name].values():
                if user.name not in names:
                    self._check_node(user, forms)

    def _check_node(self, node: Node, forms: Mapping[str, Tensor]) -> None:
        operands = []
        for name in node.inputs:
            tensor = forms.get(name) or self._tensors.get(name)
            if tensor is None:
                raise VerifyError(f"node {node.name!r} would use {name!r}, which nothing makes")
            operands.append(tensor)
        specs = node.op.infer(operands)
        agree = len(specs) == len(node.outputs) and all(
            _alike(s, t) for s, t in zip(specs, node.outputs, strict=True)
        )
        if not agree:
            shown = ", ".join(map(str, node.outputs))
            raise VerifyError(f"node {node.name!r} would state {shown} and make something else")

    # --- indices

    def _enter(self, node: Node) -> None:
        self._nodes[node.name] = node
        for name in node.inputs:
            self._users[name][node.name] = node
        for tensor in node.outputs:
            self._tensors[tensor.name] = tensor
            self._producer[tensor.name] = node
            self._users.setdefault(tensor.name, {})
        self._by_use.forget(node.inputs)
        for module in _modules(node.name):
            self._modules.setdefault(module, {})[node.name] = node

    def _leave(self, node: Node) -> None:
        del self._nodes[node.name]
        for name in node.inputs:
            self._users[name].pop(node.name, None)
        for tensor in node.outputs:
            del self._producer[tensor.name]
            del self._tensors[tensor.name]
        self._by_use.forget(node.inputs)
        for module in _modules(node.name):
            self._modules[module].pop(node.name, None)

    # --- order

    def _stand(self, node: Node, place: int) -> None:
        self._place[node.name] = place
        self._at[place] = node

    def _insert(self, start: int, nodes: Collection[Node]) -> None:
        """Nodes from the free position ``start`` on."""
        index = bisect_left(self._order, start)
        stop = self._order[index] if index < len(self._order) else start + _GAP
        step = (stop - start) // len(nodes) if nodes else 0
        if nodes and step == 0:
            self._stretch()
            self._insert(start * _GAP, nodes)
            return
        places = [start + i * step for i in range(len(nodes))]
        self._order[index:index] = places
        for node, place in zip(nodes, places, strict=True):
            self._stand(node, place)

    def _stretch(self) -> None:
        """More room everywhere."""
        self._order = [place * _GAP for place in self._order]
        self._at = {place * _GAP: node for place, node in self._at.items()}
        self._place = {name: place * _GAP for name, place in self._place.items()}
        self.stretched += 1


def _alike(a: Spec | Tensor, b: Tensor) -> bool:
    """True if two results have one shape, format and role."""
    return a.dtype == b.dtype and a.role is b.role and same_shape(a.shape, b.shape)


def _modules(name: str) -> Iterator[str]:
    """``a.b`` and ``a`` of ``a.b.c``."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
