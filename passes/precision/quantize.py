"""Quantisation of weights, activations and caches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import sympy
from sympy import Expr, Integer, Mul

from costgraph.errors import InputError, clip
from costgraph.hardware.machine import Machine
from costgraph.hardware.systems import System
from costgraph.ir.dtypes import DECODE, DType, compute_type
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Program
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.attention import KVAppend
from costgraph.ops.linear import Linear
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
from costgraph.passes.precision.layers import Keep, cut, parse_keep
from costgraph.passes.precision.rotate import ROTATIONS, rotated
from costgraph.passes.precision.scheme import outlying, remembering
from costgraph.passes.precision.tabled import tabled
from costgraph.passes.precision.unrotated import cached_keys, unrotated
from costgraph.rewriting.formats import (
    Hits,
    Layers,
    executing,
    formatted,
    is_converted,
    is_wide,
    users,
)
from costgraph.rewriting.layers import Range, row_of
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, checked, option

ZERO = Integer(0)
ONE = Integer(1)
DEFAULT = "default"
NONE = "none"

#: Presets that narrow activations.
_NARROWING = tuple(name for name, preset in PRESETS.items() if preset.activations != NONE)


def _outlying(known: Mapping[str, Scheme]) -> Iterator[str]:
    """Formats that have outliers of their own."""
    return (name for name, scheme in known.items() if scheme.base.outliers)


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
        "number", DEFAULT, "weights per scale", choices=(DEFAULT, ROW, TENSOR), minimum=1
    )
    scale_bits: Expr | str = option(
        "number", DEFAULT, "bits of a weight scale", choices=(DEFAULT,), minimum=0
    )
    zero_bits: Expr | str = option(
        "number", DEFAULT, "bits of a weight zero point", choices=(DEFAULT,), minimum=0
    )
    outer_group: Expr | str = option(
        "number", DEFAULT, "weight scales per second-level scale", choices=(DEFAULT,), minimum=1
    )
    outer_bits: Expr | str = option(
        "number", DEFAULT, "bits of a second-level scale", choices=(DEFAULT,), minimum=0
    )
    kv_group: Expr | str = option(
        "number", DEFAULT, "cached elements per scale", choices=(DEFAULT, ROW, TENSOR), minimum=1
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
        under=(
            "outliers!=default",
            f"weights={'|'.join(_outlying(WEIGHTS))}",
            f"activations={'|'.join(_outlying(ACTIVATIONS))}",
        ),
    )
    tile: Expr | str = option(
        "number",
        NONE,
        "rows of a product that share one conversion of a weight; none: all do",
        choices=(NONE,),
        minimum=1,
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
        "flag", True, "activation scales found at run time, in a kernel of their own",
        under=("activations!=none", f"preset={'|'.join(_NARROWING)}"),
    )  # fmt: skip

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
        hits = Hits()
        plan = _Plan(self, system.device, *schemes, parse_keep(self.keep))
        made = formatted(program, plan, hits)
        if self.kernel == "tables":
            made = tabled(made, self.mu, hits.names.append, plan.miss)
        made = made.assuming(*self._supposed(schemes[2]))
        for name, why in (*self._idle(*schemes), *_wider(program, made)):
            plan.miss(name, why)
        return Outcome(made, tuple(dict.fromkeys(hits.names)), tuple(plan.misses))


def _wider(before: Program, after: Program) -> Iterator[tuple[str, str]]:
    """Weights that take more bits than before, with the reason."""
    known = {t.name: t.dtype.bits_per_element for t, _ in before.weights()}
    for tensor, _ in after.weights():
        bits, was = tensor.dtype.bits_per_element, known.get(tensor.name)
        if was is not None and bits.is_number and was.is_number and bits > was:
            size = f"{float(bits):.4g} bits per element as {tensor.dtype}, {float(was):.4g} before"
            yield tensor.name, f"{size}: counted as asked"


# --- what is chosen ------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What to do, everywhere in a program: a :class:`~costgraph.rewriting.formats.Choice`."""

    made_by: Quantize
    machine: Machine
    weights: Scheme | None
    activations: Scheme | None
    kv: Scheme | None
    keep: tuple[Keep, ...]
    misses: list[Miss] = field(default_factory=list, compare=False)

    @property
    def name(self) -> str:
        """For origins."""
        return self.made_by.name

    @property
    def dynamic(self) -> bool:
        """Scales of activations are found at run time."""
        return self.made_by.dynamic

    def stays(self, names: tuple[str, ...], layer: tuple[Expr, Expr] | None) -> bool:
        """True when the keep list names one of ``names`` in a layer range."""
        return any(k.holds(name, layer) for k in self.keep for name in names)

    def cut(self, graph: Graph) -> tuple[Graph, Mapping[str, Range]]:
        """The graph cut where the options tell layers apart."""
        made_by = self.made_by
        return cut(graph, made_by.name, self.keep, made_by.first, made_by.last)

    def prepared(self, graph: Graph, layer: Layers | None) -> Graph:
        """The graph with rotations where the formats want them."""
        how, name = self.made_by.rotate, self.name

        def wide_cache(cache: str) -> bool:
            return self.stays((cache, *users(graph, cache)), layer)

        if self.kv is not None and self.kv.unrotated:
            graph = unrotated(graph, lambda n: not wide_cache(n), name)
        if how == NONE:
            return graph

        def narrow(node: Node) -> bool:
            return (
                (self.weights is not None or self.activations is not None)
                and not self.stays((node.name, node.inputs[1]), layer)
                and is_wide(graph.tensors[node.inputs[1]].dtype)
            )

        wide = any(wide_cache(cache) for cache in cached_keys(graph))
        return rotated(graph, how, narrow, self.kv is not None and not wide, name, self.miss)

    def stored(self, graph: Graph, tensor: Tensor, layer: Layers | None) -> DType | None:
        """The format that the options give a weight or a cache."""
        scheme = {Role.WEIGHT: self.weights, Role.KV: self.kv}.get(tensor.role)
        if scheme is None or len(tensor.shape) < 2:
            return None
        if self.stays((tensor.name, *users(graph, tensor.name)), layer):
            self.miss(tensor.name, "in the keep list")
            return None
        if tensor.role is Role.WEIGHT and not is_converted(graph, tensor.name):
            self.miss(tensor.name, "no matrix of a product and no table of a look-up")
            return None
        if not is_wide(tensor.dtype):
            self.miss(tensor.name, f"already stored as {tensor.dtype}")
            return None
        if tensor.role is Role.KV:
            if product := _projected(graph, tensor.name):
                self.miss(
                    tensor.name, f"{product!r} projects its rows anew: no such product is known"
                )
                return None
            made = self._cache(graph, tensor, scheme)
        else:
            apart = self.activations is None
            made = scheme.over(row_of(graph, tensor), height=tensor.shape[-2])
            own = self.made_by
            made = outlying(made, tensor.dtype, own.fraction, own.index_bits, apart)
        if made.bits_per_element == tensor.dtype.bits_per_element and made.bits.is_number:
            self.miss(tensor.name, f"{made} is no narrower than {tensor.dtype}")
        return made

    def _cache(self, graph: Graph, tensor: Tensor, scheme: Scheme) -> DType:
        """The format of a cache: keys may have their own, and recent rows stay wide."""
        is_key = scheme.keys is not None and tensor.name in cached_keys(graph)
        chosen = scheme.keys if is_key and scheme.keys is not None else scheme
        made = chosen.over(row_of(graph, tensor), Mul(*tensor.shape[2:]))
        # Keys that are rotated as they are read bring the work of it along.
        made = replace(made, decode=made.decode + tensor.dtype.decode - DECODE)
        grows = any(isinstance(u.op, KVAppend) for u in graph.consumers[tensor.name])
        if scheme.recent != 0 and not grows:
            self.miss(tensor.name, "no step adds to it: none of its rows stay wide")
            return made
        return remembering(made, tensor.dtype, scheme.recent)

    def feeds(self, graph: Graph, layer: Layers | None) -> dict[str, DType | None]:
        """Products that the options reach, with the format that their operand takes."""
        found: dict[str, DType | None] = {}
        if self.weights is None and self.activations is None:
            return found
        for node in graph.nodes:
            if self.activations is not None and node.op.kind == "conv":
                self.miss(node.name, "convolutions keep their activations wide")
            if not isinstance(node.op, Linear):
                continue
            x, w = graph.operands(node)[:2]
            if self.stays((node.name, w.name), layer):
                continue
            scheme = self.activations
            if scheme is not None and not is_wide(x.dtype):
                self.miss(node.name, f"its operand is already stored as {x.dtype}")
                scheme = None
            format = None
            if scheme is not None:
                format = scheme.over(w.shape[-1])
                own = self.made_by
                format = outlying(format, x.dtype, own.fraction, own.index_bits, False)
            found[node.name] = format
        return found

    def product(self, node: Node, x: Tensor, w: Tensor, narrowed: bool) -> dict[str, Any]:
        """Outliers, and the type that the target has for the product."""
        beside, tile = w.dtype.outliers, self.made_by.tile
        changes: dict[str, Any] = {}
        if narrowed:
            changes["outliers"] = _wide_share(x.dtype, w.dtype, self.made_by.fraction)
        if beside is not None and beside.apart:
            changes["sparse"] = beside.fraction
        if isinstance(tile, Expr) and not is_wide(w.dtype):
            changes["tile"] = tile
        stated = compute_type(x.dtype, w.dtype)
        runs = executing(self.machine, stated)
        if narrowed and runs != stated:
            changes["compute"] = runs
            self.miss(node.name, f"{self.machine.name} lacks {stated}: runs as {runs}")
        return changes

    def miss(self, where: str, why: str) -> None:
        miss = Miss(self.name, where, why)
        if miss not in self.misses:
            self.misses.append(miss)


def _projected(graph: Graph, cache: str) -> str:
    """The product that reads a cache with what a step adds to it; empty where none does."""
    rows = (n.output for n in graph.consumers[cache] if isinstance(n.op, KVAppend))
    found = (u.name for r in rows for u in graph.consumers[r] if isinstance(u.op, Linear))
    return next(found, "")


def _wide_share(x: DType, w: DType, columns: Expr | None) -> Expr:
    """Share of a product that runs in 16 bit: where an outlier of an operand takes part.

    A stated share is that of ``columns``, the same of both; outliers of formats lie anywhere.
    """
    if columns is not None:
        return columns
    found = [d.outliers.fraction for d in (x, w) if d.outliers and not d.outliers.apart]
    return 1 - Mul(*(1 - f for f in found))
