"""A program as its checkpoint stores it: every matrix in its own format.

Layers that a checkpoint tells apart are cut apart; those that it does not stay one region.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import InputError, ModelError, clip
from costgraph.ir.dtypes import DType
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.checkpoint.described import (
    EMBED,
    ENDS,
    EXPERTS,
    EYES,
    HEAD,
    INSTEAD,
    LAYERS,
    ROUTER,
    Described,
    Rule,
)
from costgraph.models.checkpoint.layout import Operand
from costgraph.models.checkpoint.names import Module, Names, Pattern
from costgraph.ops.latent import HeadLinear
from costgraph.ops.linear import Linear
from costgraph.rewriting.formats import Layers, formatted_graph, is_wide
from costgraph.rewriting.layers import Range, divided, patterned, written_out

#: Who makes the nodes, for their origin.
MADE_BY = "checkpoint"
#: What a matrix is stored as, and how what it multiplies is narrowed; None for what stays.
Given = tuple[DType | None, Operand | None]


@dataclass(frozen=True)
class Place:
    """A weight where it stands.

    Attributes:
        graph: that holds it.
        tensor: the weight.
        layer: number of its layer; None outside layers, or where it is not known.
        layered: it stands in a layer.
        eyes: it belongs to a vision tower.
    """

    graph: Graph
    tensor: Tensor
    layer: int | None
    layered: bool
    eyes: bool


Ask = Callable[[Place], Given]


@dataclass(frozen=True)
class Numbers:
    """The numbers of the layers that a graph of a region stands for.

    ``whole`` is false where it is not known which: then the numbers are those of all layers,
    of which ``count`` are meant.
    """

    layers: tuple[int, ...]
    whole: bool = True
    count: int = 0


Dims = Mapping[Expr, Expr]


def numbered(graph: Graph, dims: Dims) -> dict[int | str, Numbers]:
    """The layers of every region, by the name of its node.

    Where a pattern repeats several, or layers are gathered, by the identity of the graphs
    inside. ``dims`` are the values of symbols that count layers.
    """
    found: dict[int | str, Numbers] = {}
    nodes = [
        (n.name, n.op) for n in graph.nodes if isinstance(n.op, Repeat) and n.op.rounds != "other"
    ]
    lengths = [_length(region, dims) for _, region in nodes]
    total, at = sum(lengths), 0
    for (name, region), length in zip(nodes, lengths, strict=True):
        inner = _inner(region)
        if region.places:
            found[id(region.body)] = Numbers(region.places)
        elif region.shared_instances is not None:
            gathered = Numbers(tuple(range(total)), False, length)
            found.update((id(r.body), gathered) for r in (region, *inner))
        elif inner:
            rounds = int(region.count)
            period, offset = length // rounds, 0
            for part in inner:
                places = (at + r * period + offset for r in range(rounds))
                own = int(part.count)
                found[id(part.body)] = Numbers(tuple(p + i for p in places for i in range(own)))
                offset += own
        else:
            found[name] = Numbers(tuple(range(at, at + length)))
        at += length
    return found


def _inner(region: Repeat) -> list[Repeat]:
    """The regions that a pattern repeats; none of a plain region."""
    return [m.op for m in region.body.nodes if isinstance(m.op, Repeat)]


def _length(region: Repeat, dims: Dims) -> int:
    """Layers of a region, of those inside it where it repeats a pattern."""
    count = int(region.count.xreplace(dict(dims)))
    inner = _inner(region)
    return count * (sum(int(r.count) for r in inner) if inner else 1)


@dataclass
class _Choice:
    """What a checkpoint says of one graph, as the rewrite asks for it."""

    ask: Ask
    kv: DType | None
    dynamic: bool
    dims: Dims
    eyes: bool
    name: str = MADE_BY
    top: Graph | None = None
    numbers: dict[int | str, Numbers] = field(default_factory=dict)

    def cut(self, graph: Graph) -> tuple[Graph, Mapping[str, Range]]:
        """The graph cut into runs of layers that are stored alike."""
        graph = self._flattened(graph)
        self.top, ranges = divided(graph, self._cuts(graph), self.name)
        return self.top, ranges

    def _flattened(self, graph: Graph) -> Graph:
        """Patterns written out where their layers are stored differently."""
        self.top, self.numbers = graph, numbered(graph, self.dims)
        if patterned(graph) and self._differs(graph):
            try:
                graph = written_out(graph)
            except InputError as error:
                raise ModelError(f"the checkpoint tells layers apart: {error}") from None
            self.top, self.numbers = graph, numbered(graph, self.dims)
        return graph

    def _differs(self, graph: Graph) -> bool:
        """Whether layers that one graph of a region stands for are stored differently."""
        return any(
            len({self._signature(body, layer) for layer in numbers.layers}) > 1
            for body in graph.walk()
            if (numbers := self.numbers.get(id(body))) is not None and numbers.whole
        )

    def _asked(self, graph: Graph, tensor: Tensor, layer: int | None) -> Given:
        return self.ask(Place(graph, tensor, layer, graph is not self.top, self.eyes))

    def _signature(self, body: Graph, layer: int) -> tuple[Given, ...]:
        weights = (t for t in body.sources if t.role is Role.WEIGHT)
        return tuple(self._asked(body, t, layer) for t in weights)

    def _cuts(self, graph: Graph) -> Mapping[str, list[tuple[Expr, Expr, bool]]]:
        """Runs of layers that are stored alike."""
        found: dict[str, list[tuple[Expr, Expr, bool]]] = {}
        for node in graph.nodes:
            region = node.op
            numbers = self.numbers.get(node.name)
            if not isinstance(region, Repeat) or numbers is None:
                continue
            parts: list[tuple[Expr, Expr, bool]] = []
            for _, run in groupby(numbers.layers, partial(self._signature, region.body)):
                layers = list(run)
                parts.append((Integer(layers[0]), Integer(len(layers)), False))
            if len(parts) == 1:
                found[node.name] = [(parts[0][0], region.count, False)]
                continue
            plain = not region.parts and region.carried == len(node.outputs)
            if not plain or not region.count.is_Integer:
                raise ModelError(
                    f"the checkpoint tells layers of {node.name!r} apart, whose count is a symbol "
                    f"or which take parts or give more than one result: {INSTEAD}"
                )
            found[node.name] = parts
        return found

    def _given(self, graph: Graph, tensor: Tensor, layer: Layers | None) -> Given:
        if layer is not None:
            return self._asked(graph, tensor, int(layer[0]))
        numbers = self.numbers.get(id(graph))
        if numbers is None:
            return self._asked(graph, tensor, None)
        if numbers.whole:
            return self._asked(graph, tensor, numbers.layers[0])
        given = [self._asked(graph, tensor, i) for i in numbers.layers]
        for one in sorted(set(given), key=given.count):
            # Lists name the layers that have the matrix, and no others.
            if given.count(one) in (numbers.count, len(given)):
                return one
        raise ModelError(
            f"the checkpoint stores {tensor.name!r} differently in different layers, and which "
            f"of them it stands for here is not known: {INSTEAD}"
        )

    def prepared(self, graph: Graph, layer: Layers | None) -> Graph:
        """The graph as it is: formats of checkpoints need no operations besides."""
        return graph

    def stored(self, graph: Graph, tensor: Tensor, layer: Layers | None) -> DType | None:
        """The format of a weight, or of a cache."""
        if tensor.role is Role.KV:
            return self.kv if is_wide(tensor.dtype) else None
        if tensor.role is not Role.WEIGHT:
            return None
        made = self._given(graph, tensor, layer)[0]
        return None if made == tensor.dtype else made

    def feeds(self, graph: Graph, layer: Layers | None) -> Mapping[str, DType | None]:
        """Products of weights, with what their operand is narrowed to."""
        found: dict[str, DType | None] = {}
        own = {t.name for t in graph.sources}
        for node in graph.nodes:
            if isinstance(node.op, Linear) and node.inputs[1] in own:
                w = graph.tensors[node.inputs[1]]
                operand = self._given(graph, w, layer)[1] if w.role is Role.WEIGHT else None
                found[node.name] = None if operand is None else operand.over(w.shape[-1])
        return found

    def product(self, node: Node, x: Tensor, w: Tensor, narrowed: bool) -> dict[str, Any]:
        """Nothing beside the formats."""
        return {}


def stored_as(program: Program, ask: Ask, kv: DType | None = None, dynamic: bool = True) -> Program:
    """The program with every weight in the format that ``ask`` gives it."""

    def made(graph: Graph) -> Graph:
        eyes = graph.name.endswith(" vision")
        return formatted_graph(graph, _Choice(ask, kv, dynamic, dict(program.dims), eyes))

    return program.rewritten(made)


# --- descriptions ----------------------------------------------------------------


class Reader:
    """Answers for a :class:`Described` checkpoint, and remembers which of its names it met."""

    def __init__(self, described: Described) -> None:
        self.described = described
        self.kept = Names(described.kept)
        self.targets = [Names(rule.targets) for rule in described.rules]
        self.met: set[tuple[int, int]] = set()
        self.used: dict[str, None] = {}
        self.routers = False
        self.unnamed: dict[str, None] = {}
        self.layers = 0
        self._answers: dict[tuple[Module, str, tuple[Expr, ...], int | None], Given] = {}

    def __call__(self, place: Place) -> Given:
        kind, module = kind_of(place), module_of(place)
        if kind is None:
            return None, None
        self.layers = max(self.layers, 1 + (place.layer or 0))
        key = (module, kind, place.tensor.shape, place.layer)
        if key not in self._answers:
            self._answers[key] = self._answer(kind, module, place.tensor, place.layer)
        return self._answers[key]

    def _answer(self, kind: str, module: Module, tensor: Tensor, layer: int | None) -> Given:
        found: Rule | None = None
        for index, rule in enumerate(self.described.rules):
            if rule.targets:
                named = self._naming(index, self.targets[index], module, tensor, layer)
                hit = bool(named) and kind not in (EMBED,)
            else:
                hit = kind in (rule.kinds or self.described.reach)
            if hit and found is None:
                found = rule
        stays = self._naming(-1, self.kept, module, tensor, layer)
        routed = kind == ROUTER and module.leaf in ("router", "shared_gate")
        if routed and not stays and found is None and self.described.converts:
            self.routers = True
        listed = kind in self.described.reach and (self.kept or any(self.targets))
        if listed and not module.known:
            self.unnamed[module.leaf] = None
        if found is None or found.layout is None or stays:
            return None, None
        self.used[found.layout.name] = None
        return found.layout.over(tensor.shape), found.operand

    def _naming(
        self, where: int, names: Names, module: Module, tensor: Tensor, layer: int | None
    ) -> set[int]:
        named = names.naming(module, layer) if names else set()
        self.met.update((where, i) for i in named)
        if module.leaf.startswith("expert_"):
            for index in named:
                count = names.experts(index)
                if count is not None and count != tensor.shape[0]:
                    raise ModelError(
                        f"{self.described.key} names {count} of {tensor.shape[0]} experts "
                        f"({clip(names.patterns[index].text)}): experts that are stored "
                        f"differently are not read; {INSTEAD}"
                    )
        return named

    @property
    def unmet(self) -> list[Pattern]:
        """Names of the description that are of no matrix that is counted.

        Of experts one is named for all. Norms and biases stay wide by themselves: lists of
        what stays wide may name them.
        """
        lists = [(-1, self.kept), *enumerate(self.targets)]
        found = {
            pattern.plain or pattern.text: pattern
            for where, names in lists
            for index, pattern in reversed(list(enumerate(names.patterns)))
            if (where, index) not in self.met and not (where < 0 and pattern.no_matrix)
        }
        return list(reversed(found.values()))


def module_of(place: Place) -> Module:
    """What checkpoints call a weight."""
    own = {t.name for t in place.graph.sources} if place.layered and not place.eyes else set()
    beside = "down_proj.weight" in own and "expert_down.weight" in own
    return Module(place.tensor.name.removesuffix(".weight"), place.eyes, place.layered, beside)


#: What no method converts with the other linear modules, small as it is: routers, the scores
#: of indexers, pools of rows and the mixers of several streams (DeepSeek-V3.2, V4 and GLM-5: vLLM
#: and SGLang give them no quantisation, and the files no scales).
_APART = frozenset(
    ("router", "shared_gate", "index_weights_proj", "pool_kv_proj", "pool_gate_proj",
     "index_pool_kv_proj", "index_pool_gate_proj", "attn_hc", "mlp_hc", "head_hc",
     "attn_res_proj", "mlp_res_proj", "output_res_proj")
)  # fmt: skip
#: Kimi K3's widths around its experts, which its list forgets (SGLang; the index's total).
_NORMED = frozenset(("latent_down", "latent_up"))


def kind_of(place: Place) -> str | None:
    """Which kind of matrix a weight is; None for what is no matrix of a product or look-up."""
    tensor, graph = place.tensor, place.graph
    users = graph.consumers[tensor.name]
    if len(tensor.shape) < 2 or not users:
        return None
    if any(u.op.kind == "embedding" for u in users):
        return EMBED
    for user in users:
        product = isinstance(user.op, (Linear, HeadLinear))
        if not product or user.inputs[1] != tensor.name:
            return None
    if place.eyes:
        return EYES
    leaf = tensor.name.removesuffix(".weight")
    if leaf in _APART or (leaf in _NORMED and "latent_norm.weight" in graph.tensors):
        return ROUTER
    if leaf == "lm_head":
        return HEAD
    if leaf.startswith("expert_"):
        return EXPERTS
    return LAYERS if place.layered else ENDS


def as_described(program: Program, described: Described, caches: bool = True) -> Program:
    """The program with the formats of its checkpoint; notes say which, and what is assumed.

    ``caches``: those of the caches, too.

    Raises:
        ModelError: the description gives no matrix of this model a format, or tells apart
            what the graph does not.
    """
    described = described if caches else replace(described, kv=None)
    reader = Reader(described)
    operands = [r.operand for r in described.rules if r.operand is not None]
    dynamic = not operands or any(o.dynamic for o in operands)
    made = stored_as(program, reader, described.kv, dynamic)
    if program.ahead is not None:
        # Its layer stands behind those of the model.
        layers = reader.layers

        def behind(place: Place) -> Given:
            at = None if place.layer is None else layers + place.layer
            return reader(replace(place, layer=at))

        made = replace(made, ahead=stored_as(program.ahead, behind, described.kv, dynamic))
    if not reader.used:
        raise ModelError(
            f"{program.name}: {described.key} ({described.method}) gives none of the model's "
            f"matrices a format: is it that of another model? {INSTEAD}"
        )
    shown = described.shown(tuple(reader.used))
    note = f"counted as the checkpoint ({described.method}) stores it: {shown}"
    assumed = list(described.assumed)
    if reader.routers:
        assumed.append("routers of experts are taken to be stored in 16 bit")
    if reader.unnamed:
        shown = ", ".join(list(reader.unnamed)[:6]) + (" …" if len(reader.unnamed) > 6 else "")
        assumed.append(
            f"{described.key} lists names, and how it would name {shown} is not known: they are "
            "counted as if it did not"
        )
    unmet = reader.unmet
    behind_last = [p for p in unmet if p.beyond(reader.layers)]
    for names, what in (
        ([p for p in unmet if p not in behind_last], "what is no matrix of the graph"),
        (behind_last, f"what is behind the last layer, {reader.layers - 1}"),
    ):
        if names:
            shown = ", ".join(clip(p.text, 60) for p in names[:4])
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            assumed.append(f"{described.key} names {what}: {shown}{more}")
    return replace(made.assuming(*assumed), notes=(*made.notes, note))
