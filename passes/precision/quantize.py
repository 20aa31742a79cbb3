"""Quantisation of weights, activations and caches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import sympy
from sympy import Expr, Integer, Mul

from costgraph.errors import HardwareError, InputError, clip
from costgraph.hardware.machine import Engine, Machine
from costgraph.hardware.systems import System
from costgraph.ir.dtypes import DECODE, DType, compute_type
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.attention import KVAppend
from costgraph.ops.experts import ExpertLinear
from costgraph.ops.linear import Linear
from costgraph.ops.quant import (
    COMPUTE_BITS,
    NarrowResult,
    QuantExpertLinear,
    QuantizeTo,
    QuantLinear,
)
from costgraph.ops.tokens import Embedding
from costgraph.passes.precision.families import refusals
from costgraph.passes.precision.formats import (
    ACTIVATIONS,
    KV,
    PRESETS,
    ROW,
    TENSOR,
    WEIGHTS,
    Scheme,
)
from costgraph.passes.precision.layers import (
    Keep,
    parse_keep,
    patterned,
    row_of,
    segments,
    written_out,
)
from costgraph.passes.precision.rotate import ROTATIONS, rotated
from costgraph.passes.precision.scheme import outlying, remembering
from costgraph.passes.precision.tabled import tabled
from costgraph.passes.precision.unrotated import cached_keys, unrotated
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, checked, option

ZERO = Integer(0)
ONE = Integer(1)
DEFAULT = "default"
NONE = "none"


@dataclass(frozen=True)
class Quantize(Pass):
    """Stores weights, activations and caches in narrower formats.

    Weights are those that products and look-ups convert as they load them (projections,
    kernels of convolutions, embedding tables): norms, biases, tables of relative
    positions and parameters of scans stay. A weight that meets a wide activation is
    converted in the kernel that loads it, 2 FLOP per element.
    Activations are narrowed in front of the projections; results, residuals,
    norms and attention stay in 16 bit. Caches are narrowed as they are
    appended to and converted where attention reads them.
    """

    name: ClassVar[str] = "quantize"
    title: ClassVar[str] = "store weights, activations and caches in narrower formats"
    formula: ClassVar[str] = (
        "bits/element = b + (scale + zero)/group + outer/(group·outer_group); "
        "a product runs in the narrowest type that takes both operands"
    )
    source: ClassVar[str] = "arXiv 2402.16363 §3.1.1; arXiv 2211.10438; OCP MX v1.0"
    assumptions: ClassVar[tuple[str, ...]] = (
        "quantisation: operands are converted once per kernel, 2 FLOP per element on the "
        "vector engine",
    )

    stage: ClassVar[Stage] = Stage.FORMATS

    preset: str = option("word", NONE, "formats by one name", choices=tuple(PRESETS))
    weights: str = option(
        "word", NONE, "format of weights", choices=(NONE, *WEIGHTS), refused=refusals("weights")
    )
    activations: str = option(
        "word",
        NONE,
        "format of activations",
        choices=(NONE, *ACTIVATIONS),
        refused=refusals("activations"),
    )
    kv: str = option("word", NONE, "format of caches", choices=(NONE, *KV), refused=refusals("kv"))
    bits: Expr | str = option(
        "number", DEFAULT, "payload bits of a weight, instead of the format's", choices=(DEFAULT,)
    )
    group: Expr | str = option(
        "number", DEFAULT, "weights per scale", choices=(DEFAULT, ROW, TENSOR)
    )
    scale_bits: Expr | str = option(
        "number", DEFAULT, "bits of a weight scale", choices=(DEFAULT,), minimum=0
    )
    zero_bits: Expr | str = option(
        "number", DEFAULT, "bits of a weight zero point", choices=(DEFAULT,), minimum=0
    )
    outer_group: Expr | str = option(
        "number", DEFAULT, "weight scales per second-level scale", choices=(DEFAULT,)
    )
    outer_bits: Expr | str = option(
        "number", DEFAULT, "bits of a second-level scale", choices=(DEFAULT,), minimum=0
    )
    kv_group: Expr | str = option(
        "number", DEFAULT, "cached elements per scale", choices=(DEFAULT, ROW, TENSOR)
    )
    kv_scale_bits: Expr | str = option(
        "number", DEFAULT, "bits of a cache scale", choices=(DEFAULT,), minimum=0
    )
    kv_zero_bits: Expr | str = option(
        "number", DEFAULT, "bits of a cache zero point", choices=(DEFAULT,), minimum=0
    )
    kv_recent: Expr | str = option(
        "number",
        DEFAULT,
        "last tokens of a cache that stay in 16 bit",
        choices=(DEFAULT,),
        minimum=0,
    )
    keep: str = option(
        "word",
        "lm_head|embed|positions|router",
        "what stays wide: parts of names, A|B, each optionally NAME:3 or NAME:0-3 for layers; "
        "'none' for nothing",
    )
    first: Expr = option("integer", ZERO, "first layers that stay wide", minimum=0)
    last: Expr = option("integer", ZERO, "last layers that stay wide", minimum=0)
    outliers: Expr | str = option(
        "probability", DEFAULT, "fraction of elements stored wider", choices=(DEFAULT,)
    )
    outlier_index_bits: Expr | str = option(
        "number",
        DEFAULT,
        "bits that locate one outlier weight (16 in a sparse copy)",
        choices=(DEFAULT,),
        minimum=0,
    )
    tile: Expr | str = option(
        "number",
        NONE,
        "rows of a product that share one conversion of a weight; none: all do",
        choices=(NONE,),
    )
    kernel: str = option(
        "word",
        "convert",
        "products with weights of a few bits: convert them, or look sums of activations up",
        choices=("convert", "tables"),
    )
    mu: Expr = option(
        "integer", Integer(8), "weights looked up at once", minimum=1, maximum=16, symbolic=False
    )
    decode: Expr | str = option(
        "number", DEFAULT, "FLOP to convert one weight", choices=(DEFAULT,), minimum=0
    )
    rotate: str = option(
        "word",
        NONE,
        "Hadamard transforms: on both sides of each narrow product (QuIP#), or where they "
        "cannot be folded into weights (QuaRot)",
        choices=ROTATIONS,
    )
    dynamic: bool = option(
        "flag", True, "activation scales found at run time, in a kernel of their own"
    )

    def __post_init__(self) -> None:
        for name, spec in self.options().items():
            attribute = name.replace("-", "_")
            value = getattr(self, attribute)
            if spec.kind == "word":
                if not isinstance(value, str):
                    raise InputError(f"{name} must be a word, not {clip(value)}")
                if spec.choices and value not in spec.choices:
                    raise InputError(f"{name}: {spec.unknown(value)}")
            elif spec.kind != "flag" and value not in spec.choices:
                unscaled = TENSOR in spec.choices and value in (math.inf, sympy.oo)
                made = TENSOR if unscaled else checked(name, spec, value)
                object.__setattr__(self, attribute, made)
        if not self.keep:
            object.__setattr__(self, "keep", NONE)
        parse_keep(self.keep)

    # --- formats -------------------------------------------------------------

    @property
    def schemes(self) -> tuple[Scheme | None, Scheme | None, Scheme | None]:
        """Schemes of weights, activations and caches; None leaves them alone."""
        preset = PRESETS[self.preset]
        weights, activations, kv = (
            own if own != NONE else given
            for own, given in (
                (self.weights, preset.weights),
                (self.activations, preset.activations),
                (self.kv, preset.kv),
            )
        )
        changes = {
            name: value
            for name in ("group", "scale_bits", "zero_bits", "outer_group", "outer_bits")
            if (value := getattr(self, name)) != DEFAULT
        }
        kv_changes = {
            name.removeprefix("kv_"): value
            for name in ("kv_group", "kv_scale_bits", "kv_zero_bits")
            if (value := getattr(self, name)) != DEFAULT
        }
        scheme = None if weights == NONE else WEIGHTS[weights].changed(changes)
        if scheme is not None and isinstance(self.bits, Expr):
            scheme = scheme.narrowed(self.bits, f"{weights}:{self.bits}b")
        if scheme is not None and isinstance(self.decode, Expr):
            scheme = replace(scheme, base=replace(scheme.base, decode=self.decode))
        cached = None if kv == NONE else KV[kv].changed(kv_changes)
        if cached is not None and isinstance(self.kv_recent, Expr):
            cached = replace(cached, recent=self.kv_recent)
        return (scheme, None if activations == NONE else ACTIVATIONS[activations], cached)

    @property
    def fraction(self) -> Expr | None:
        """Share of outliers that is asked for; None: that of the format, if it has any."""
        return self.outliers if isinstance(self.outliers, Expr) else None

    @property
    def index_bits(self) -> Expr | None:
        """Bits of an outlier's position, where they are stated."""
        return self.outlier_index_bits if isinstance(self.outlier_index_bits, Expr) else None

    def _supposed(self, kv: Scheme | None) -> Iterator[str]:
        """What a number rests on besides: sentences."""
        if self.tile != NONE:
            yield f"a product converts its weights once per {self.tile} rows, not once per kernel"
        if self.kernel == "tables":
            yield "look-ups and additions of table kernels run at the vector engine's fp32 peak"
        if self.rotate == "online":
            yield "rotations of the residual stream are folded into weights and norms"
        if kv is not None and kv.unrotated:
            yield "cached keys are rotated as they are read, by angles made on the fly"

    def _idle(
        self, weights: Scheme | None, activations: Scheme | None, kv: Scheme | None
    ) -> Iterator[tuple[str, str]]:
        """Options that were stated and change nothing, with the reason."""
        stated = {f.name for f in fields(self) if getattr(self, f.name) != f.default}
        scales = {"scale_bits", "zero_bits", "outer_group", "outer_bits"}
        idle: list[tuple[set[str], str]] = []
        if weights is None:
            more = {"bits", "group", "decode", "outlier_index_bits"}
            idle.append((scales | more, "no format of weights is stated"))
        elif weights.group == TENSOR and not weights.base.grouped:
            idle.append((scales, f"{weights.base.name} has one scale per tensor: state a group"))
        if kv is None:
            more = {"kv_group", "kv_scale_bits", "kv_zero_bits", "kv_recent"}
            idle.append((more, "no format of caches is stated"))
        if weights is None and activations is None:
            idle.append(({"outliers"}, "no format of weights or activations is stated"))
            if kv is None or self.rotate == "both":
                idle.append(({"rotate"}, "nothing that it would turn is narrow"))
        if self.kernel == "convert":
            idle.append(({"mu"}, "products are not looked up: state kernel=tables"))
        elif weights is not None and weights.base.planes is not None:
            idle.append(({"tile"}, "look-ups convert nothing"))
        for names, why in idle:
            for name in sorted(names & stated):
                yield name.replace("_", "-"), why

    def run(self, program: Program, system: System) -> Outcome:
        schemes = self.schemes
        if schemes == (None, None, None) and self.kernel == "convert":
            miss = Miss(self.name, program.name, "no format given: state a preset or a format")
            return Outcome(program, (), (miss,))
        log = _Log()
        plan = _Plan(self, system.device, *schemes, parse_keep(self.keep))
        made = program.rewritten(lambda g: _Rewrite(plan, log, top=True).graph(g))
        if self.kernel == "tables":
            made = tabled(made, self.mu, log.hits.append, log.miss)
        made = made.assuming(*self._supposed(schemes[2]))
        for name, why in self._idle(*schemes):
            log.miss(name, why)
        return Outcome(made, tuple(dict.fromkeys(log.hits)), tuple(log.misses))


# --- the rewrite ---------------------------------------------------------------


@dataclass
class _Log:
    hits: list[str] = field(default_factory=list)
    misses: list[Miss] = field(default_factory=list)

    def miss(self, where: str, why: str) -> None:
        found = Miss(Quantize.name, where, why)
        if found not in self.misses:
            self.misses.append(found)


@dataclass(frozen=True)
class _Plan:
    """What to do, everywhere in a program."""

    made_by: Quantize
    machine: Machine
    weights: Scheme | None
    activations: Scheme | None
    kv: Scheme | None
    keep: tuple[Keep, ...]

    @property
    def numbers_layers(self) -> bool:
        """True when layers are told apart by their number."""
        ends = (self.made_by.first, self.made_by.last)
        return any(e != 0 for e in ends) or any(k.layers for k in self.keep)

    def stays(self, names: tuple[str, ...], layer: tuple[Expr, Expr] | None) -> bool:
        """True when the keep list names one of ``names`` in a layer range."""
        return any(k.holds(name, layer) for k in self.keep for name in names)


@dataclass(frozen=True)
class _Rewrite:
    """Rewrites one graph; ``layer`` is the range of layers that it stands for."""

    plan: _Plan
    log: _Log
    top: bool = False
    layer: tuple[Expr, Expr] | None = None

    def graph(self, graph: Graph) -> Graph:
        if self.top and self.plan.numbers_layers and patterned(graph):
            graph = written_out(graph)
        graph = self._prepared(graph)
        sources = tuple(self._source(graph, t) for t in graph.sources)
        tensors = {t.name: t for t in sources}
        narrowed = {t.name for t in sources if t != graph.tensors[t.name]}
        feeds = self._feeds(graph)
        folded = {} if self.plan.made_by.dynamic else self._foldable(graph, feeds)
        narrow: dict[str, str] = {name: name for name in folded}
        nodes: list[Node] = []
        names = {n.name for n in graph.nodes} | set(graph.tensors)
        ranges = self._ranges(graph)

        def add(node: Node) -> None:
            operands = tuple(tensors[i] for i in node.inputs)
            specs = node.op.infer(operands)
            outputs = tuple(s.named(t.name) for s, t in zip(specs, node.outputs, strict=True))
            tensors.update((t.name, t) for t in outputs)
            nodes.append(replace(node, outputs=outputs))

        for node in graph.nodes:
            body = getattr(node.op, "body", None)
            if node.name in ranges:
                for part in self._split(node, ranges[node.name], names):
                    add(part)
                continue
            if isinstance(body, Graph):
                inner = replace(self, top=False).graph(body)
                add(replace(node, op=replace(node.op, body=inner)))  # type: ignore[type-var]
                continue
            if isinstance(node.op, Embedding) and node.inputs[1] in narrowed:
                # Rows are converted as they are gathered; they never pass on narrow.
                result = node.op.result or node.outputs[0].dtype
                node = replace(node, op=replace(node.op, result=result))
            if node.name not in feeds:
                if node.outputs and node.outputs[0].name in folded:
                    stored = NarrowResult(node.op, folded[node.outputs[0].name])
                    node = replace(node, op=stored, origin=self._origin(node))
                add(node)
                continue
            x = node.inputs[0]
            format = feeds[node.name]
            if format is not None and x not in narrow:
                name = _fresh(f"{x}_quant", names)
                made = replace(graph.tensors[x], name=name)
                origin = self._origin(node)
                add(Node(name, QuantizeTo(format), (x,), (made,), origin))
                narrow[x] = name
            inputs = (narrow[x] if format is not None else x, *node.inputs[1:])
            wide = graph.tensors[x].dtype
            op = self._linear(node, tensors[inputs[0]], tensors[inputs[1]], wide)
            if op == node.op and inputs == node.inputs:
                add(node)
            else:
                self.log.hits.append(node.name)
                add(replace(node, op=op, inputs=inputs, origin=self._origin(node)))
        return replace(graph, sources=sources, nodes=tuple(nodes))

    def _prepared(self, graph: Graph) -> Graph:
        """The graph with rotations where the formats want them."""
        plan, how = self.plan, self.plan.made_by.rotate
        if plan.kv is not None and plan.kv.unrotated:
            graph = unrotated(graph, lambda n: not self._stays_wide(graph, n), plan.made_by.name)
        if how == NONE:
            return graph

        def narrow(node: Node) -> bool:
            return (
                (plan.weights is not None or plan.activations is not None)
                and not plan.stays((node.name, node.inputs[1]), self.layer)
                and _is_wide(graph.tensors[node.inputs[1]].dtype)
            )

        wide = any(self._stays_wide(graph, cache) for cache in cached_keys(graph))
        caches = plan.kv is not None and not wide
        return rotated(graph, how, narrow, caches, plan.made_by.name, self._miss)

    def _stays_wide(self, graph: Graph, name: str) -> bool:
        return self.plan.stays((name, *_users(graph, name)), self.layer)

    def _origin(self, node: Node) -> Origin:
        return Origin((node.name,), self.plan.made_by.name)

    # --- sources

    def _source(self, graph: Graph, tensor: Tensor) -> Tensor:
        scheme = {Role.WEIGHT: self.plan.weights, Role.KV: self.plan.kv}.get(tensor.role)
        if scheme is None or len(tensor.shape) < 2:
            return tensor
        if self._stays_wide(graph, tensor.name):
            self._miss(tensor.name, "in the keep list")
            return tensor
        if tensor.role is Role.WEIGHT and not _is_converted(graph, tensor.name):
            self._miss(tensor.name, "no matrix of a product and no table of a look-up")
            return tensor
        if not _is_wide(tensor.dtype):
            self._miss(tensor.name, f"already stored as {tensor.dtype}")
            return tensor
        made_by = self.plan.made_by
        if tensor.role is Role.KV:
            made = self._cache(graph, tensor, scheme)
        else:
            apart = self.plan.activations is None
            made = scheme.over(row_of(graph, tensor))
            made = outlying(made, tensor.dtype, made_by.fraction, made_by.index_bits, apart)
        if made.bits_per_element == tensor.dtype.bits_per_element and made.bits.is_number:
            self._miss(tensor.name, f"{made} is no narrower than {tensor.dtype}")
        self.log.hits.append(tensor.name)
        return replace(tensor, dtype=made)

    def _cache(self, graph: Graph, tensor: Tensor, scheme: Scheme) -> DType:
        """The format of a cache: keys may have their own, and recent rows stay wide."""
        is_key = scheme.keys is not None and tensor.name in cached_keys(graph)
        chosen = scheme.keys if is_key and scheme.keys is not None else scheme
        made = chosen.over(row_of(graph, tensor), Mul(*tensor.shape[2:]))
        # Keys that are rotated as they are read bring the work of it along.
        made = replace(made, decode=made.decode + tensor.dtype.decode - DECODE)
        grows = any(isinstance(u.op, KVAppend) for u in graph.consumers[tensor.name])
        if scheme.recent != 0 and not grows:
            self._miss(tensor.name, "no step adds to it: none of its rows stay wide")
            return made
        return remembering(made, tensor.dtype, scheme.recent)

    def _miss(self, where: str, why: str) -> None:
        self.log.miss(where, why)

    # --- activations

    def _feeds(self, graph: Graph) -> dict[str, DType | None]:
        """Linear nodes to rewrite, with the format that their operand takes."""
        found: dict[str, DType | None] = {}
        if self.plan.weights is None and self.plan.activations is None:
            return found
        for node in graph.nodes:
            if self.plan.activations is not None and node.op.kind == "conv":
                self._miss(node.name, "convolutions keep their activations wide")
            if not isinstance(node.op, Linear):
                continue
            x, w = graph.operands(node)[:2]
            if self.plan.stays((node.name, w.name), self.layer):
                continue
            scheme = self.plan.activations
            if scheme is not None and not _is_wide(x.dtype):
                self._miss(node.name, f"its operand is already stored as {x.dtype}")
                scheme = None
            format = None
            if scheme is not None:
                format = scheme.over(w.shape[-1])
                fraction = self.plan.made_by.fraction
                format = outlying(format, x.dtype, fraction, self.plan.made_by.index_bits, False)
            found[node.name] = format
        return found

    def _foldable(self, graph: Graph, feeds: Mapping[str, DType | None]) -> dict[str, DType]:
        """Tensors that their producer can store narrow: all users take them so."""
        found: dict[str, DType] = {}
        for node in graph.nodes:
            if node.op.is_view or len(node.outputs) != 1 or hasattr(node.op, "body"):
                continue
            name = node.outputs[0].name
            users = graph.consumers[name]
            formats = {feeds.get(u.name) for u in users}
            format = formats.pop() if len(formats) == 1 else None
            if format is None or name in graph.outputs or isinstance(node.op, Linear):
                continue
            if all(u.inputs[0] == name and name not in u.inputs[1:] for u in users):
                found[name] = _without_scales(format)
        return found

    def _linear(self, node: Node, x: Tensor, w: Tensor, wide: DType) -> Linear:
        op = node.op
        assert isinstance(op, Linear)
        made_by, beside = self.plan.made_by, w.dtype.outliers
        narrowed = x.dtype != wide
        changes: dict[str, Any] = {}
        if narrowed:
            changes["result"] = getattr(op, "result", None) or wide
            changes["outliers"] = _wide_share(x.dtype, w.dtype, made_by.fraction)
        if beside is not None and beside.apart:
            changes["sparse"] = beside.fraction
        if isinstance(made_by.tile, Expr) and not _is_wide(w.dtype):
            changes["tile"] = made_by.tile
        stated = compute_type(x.dtype, w.dtype)
        executing = _executing(self.plan.machine, stated)
        if narrowed and executing != stated:
            changes["compute"] = executing
            self._miss(node.name, f"{self.plan.machine.name} lacks {stated}: runs as {executing}")
        if not changes:
            return op
        if isinstance(op, QuantLinear):
            return replace(op, **changes)
        if isinstance(op, ExpertLinear):
            return QuantExpertLinear(op.bias, op.contract, op.split, op.routing, **changes)
        return QuantLinear(op.bias, op.contract, op.split, **changes)

    # --- layers

    def _ranges(self, graph: Graph) -> dict[str, list[tuple[Expr, Expr, bool]]]:
        """Regions to cut: (first layer, layers, stays wide) of each part."""
        made_by, regions = self.plan.made_by, []
        if not self.top or not self.plan.numbers_layers:
            return {}
        for node in graph.nodes:
            if isinstance(node.op, Repeat) and node.op.rounds != "other":
                regions.append((node.name, node.op.count))
                if node.op.rounds == "gathered":
                    raise InputError(
                        f"quantize: layers of {graph.name!r} are gathered by kind "
                        f"({node.name!r} …): their numbers are not known"
                    )
        if not regions:
            return {}
        cuts = segments(regions, made_by.first, made_by.last, self.plan.keep)
        for node in graph.nodes:
            region = node.op
            if not isinstance(region, Repeat) or len(cuts.get(node.name, ())) <= 1:
                continue
            whole = region.shared_instances is None and not region.parts
            if not whole or region.carried != len(node.outputs):
                raise InputError(
                    f"quantize: region {node.name!r} cannot be cut into layers: its rounds "
                    "share weights, take parts or have results besides the ones they carry"
                )
        return cuts

    def _split(
        self, node: Node, parts: list[tuple[Expr, Expr, bool]], names: set[str]
    ) -> list[Node]:
        region = node.op
        assert isinstance(region, Repeat)
        made: list[Node] = []
        state = node.inputs
        for index, (start, count, wide) in enumerate(parts):
            inner = replace(self, top=False, layer=(start, count))
            body = region.body if wide else inner.graph(region.body)
            op = replace(region, body=body, count=count)
            if len(parts) == 1:
                return [replace(node, op=op)]
            final = index == len(parts) - 1
            name = _fresh(f"{node.name}_{index}", names)
            outputs = tuple(
                t if final else replace(t, name=_fresh(f"{t.name}_{index}_out", names))
                for t in node.outputs
            )
            made.append(Node(name, op, state, outputs, self._origin(node)))
            state = (*(t.name for t in outputs), *node.inputs[region.carried :])
        return made


def _users(graph: Graph, name: str) -> tuple[str, ...]:
    """Names of the nodes that use a tensor; of a fused group, those inside that do."""
    found: list[str] = []
    for node in graph.consumers[name]:
        body = getattr(node.op, "body", None)
        if isinstance(body, Graph) and name in body.consumers:
            found.extend(_users(body, name))
        else:
            found.append(node.name)
    return tuple(found)


def _is_converted(graph: Graph, name: str) -> bool:
    """True if every user of a weight converts it as it loads it; views pass it on."""
    users = graph.consumers[name]
    for user in users:
        body = getattr(user.op, "body", None)
        if isinstance(body, Graph) and name in body.consumers:
            if not _is_converted(body, name):
                return False
        elif user.op.is_view:
            if not all(_is_converted(graph, t.name) for t in user.outputs):
                return False
        elif any(n == name and i not in user.op.converted for i, n in enumerate(user.inputs)):
            return False
    return bool(users)


def _is_wide(dtype: DType) -> bool:
    return dtype.compute in ("fp16", "bf16", "tf32", "fp32") and not dtype.grouped


def _wide_share(x: DType, w: DType, columns: Expr | None) -> Expr:
    """Share of a product that runs in 16 bit: where an outlier of an operand takes part.

    A stated share is that of ``columns``, the same of both; outliers of formats lie anywhere.
    """
    if columns is not None:
        return columns
    found = [d.outliers.fraction for d in (x, w) if d.outliers and not d.outliers.apart]
    return 1 - Mul(*(1 - f for f in found))


def _without_scales(format: DType) -> DType:
    """The format with scales known beforehand, unless they are part of it."""
    if format.is_float and format.scale_bits == 8:
        return format
    return replace(format, name=format.name.split("-")[0], group=None, scale_bits=ZERO)


def _executing(machine: Machine, stated: str) -> str:
    """The type in which the machine runs work stated in a type it may lack."""
    try:
        resolved = machine.resolve(Engine.TENSOR, stated)[1]
    except HardwareError:
        return stated
    return stated if COMPUTE_BITS[resolved] == COMPUTE_BITS[stated] else resolved


def _fresh(name: str, taken: set[str]) -> str:
    made, index = name, 2
    while made in taken:
        made, index = f"{name}{index}", index + 1
    taken.add(made)
    return made
