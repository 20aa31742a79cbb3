"""Quantisation of weights, activations and caches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import sympy
from sympy import Expr, Integer

from costgraph.errors import InputError, clip, nearest
from costgraph.hardware.machine import Machine
from costgraph.hardware.systems import System
from costgraph.ir.dtypes import DType, compute_type
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Program
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.linear import Linear
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
    weights: str = option("word", NONE, "format of weights", choices=(NONE, *WEIGHTS))
    activations: str = option("word", NONE, "format of activations", choices=(NONE, *ACTIVATIONS))
    kv: str = option("word", NONE, "format of caches", choices=(NONE, *KV))
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
    keep: str = option(
        "word",
        "lm_head|embed|positions|router",
        "what stays wide: parts of names, A|B, each optionally NAME:3 or NAME:0-3 for layers; "
        "'none' for nothing",
    )
    first: Expr = option("integer", ZERO, "first layers that stay wide", minimum=0)
    last: Expr = option("integer", ZERO, "last layers that stay wide", minimum=0)
    outliers: Expr = option("probability", ZERO, "fraction of elements kept in 16 bit")
    outlier_index_bits: Expr = option(
        "number", Integer(16), "bits that locate one sparse outlier weight", minimum=0
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
                    raise InputError(f"{name}: unknown {clip(value)}{nearest(value, spec.choices)}")
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
        scheme = None if weights == NONE else _changed(WEIGHTS[weights], changes)
        if scheme is not None and isinstance(self.bits, Expr):
            base = replace(scheme.base, name=f"{weights}:{self.bits}b", bits=self.bits)
            scheme = replace(scheme, base=base)
        return (
            scheme,
            None if activations == NONE else ACTIVATIONS[activations],
            None if kv == NONE else _changed(KV[kv], kv_changes),
        )

    def run(self, program: Program, system: System) -> Outcome:
        schemes = self.schemes
        if schemes == (None, None, None):
            miss = Miss(self.name, program.name, "no format given: state a preset or a format")
            return Outcome(program, (), (miss,))
        hits = Hits()
        plan = _Plan(self, system.device, *schemes, parse_keep(self.keep))
        made = formatted(program, plan, hits)
        return Outcome(made, tuple(dict.fromkeys(hits.names)), tuple(plan.misses))


def _changed(scheme: Scheme, changes: Mapping[str, Any]) -> Scheme:
    """The scheme with options applied; a stated group opens up a block format."""
    if not changes:
        return scheme
    base = scheme.base
    if base.grouped:
        scheme = replace(scheme, group=base.group, scale_bits=base.scale_bits)
        base = replace(base, group=None, scale_bits=ZERO)
    elif scheme.group == TENSOR and "group" not in changes:
        return scheme
    return replace(scheme, base=base, **changes)


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

    def stored(self, graph: Graph, tensor: Tensor, layer: Layers | None) -> DType | None:
        """The format that the options give a weight or a cache."""
        scheme = {Role.WEIGHT: self.weights, Role.KV: self.kv}.get(tensor.role)
        if scheme is None or len(tensor.shape) < 2:
            return None
        if self.stays((tensor.name, *users(graph, tensor.name)), layer):
            self._miss(tensor.name, "in the keep list")
            return None
        if tensor.role is Role.WEIGHT and not is_converted(graph, tensor.name):
            self._miss(tensor.name, "no matrix of a product and no table of a look-up")
            return None
        if not is_wide(tensor.dtype):
            self._miss(tensor.name, f"already stored as {tensor.dtype}")
            return None
        made = scheme.over(row_of(graph, tensor))
        fraction = self.made_by.outliers
        if tensor.role is Role.WEIGHT and fraction != 0:
            if self.activations is not None:
                made = _mixed(made, tensor.dtype, fraction)
            else:
                extra = fraction * (tensor.dtype.bits + self.made_by.outlier_index_bits)
                made = replace(made, name=f"{made.name}+sparse", bits=made.bits + extra)
        if made.bits_per_element == tensor.dtype.bits_per_element and made.bits.is_number:
            self._miss(tensor.name, f"{made} is no narrower than {tensor.dtype}")
        return made

    def feeds(self, graph: Graph, layer: Layers | None) -> dict[str, DType | None]:
        """Products that the options reach, with the format that their operand takes."""
        found: dict[str, DType | None] = {}
        if self.weights is None and self.activations is None:
            return found
        for node in graph.nodes:
            if self.activations is not None and node.op.kind == "conv":
                self._miss(node.name, "convolutions keep their activations wide")
            if not isinstance(node.op, Linear):
                continue
            x, w = graph.operands(node)[:2]
            if self.stays((node.name, w.name), layer):
                continue
            scheme = self.activations
            if scheme is not None and not is_wide(x.dtype):
                self._miss(node.name, f"its operand is already stored as {x.dtype}")
                scheme = None
            format = None
            if scheme is not None:
                format = scheme.over(w.shape[-1])
                if self.made_by.outliers != 0:
                    format = _mixed(format, x.dtype, self.made_by.outliers)
            found[node.name] = format
        return found

    def product(self, node: Node, x: Tensor, w: Tensor, narrowed: bool) -> dict[str, Any]:
        """Outliers, and the type that the target has for the product."""
        fraction = self.made_by.outliers
        changes: dict[str, Any] = {}
        if narrowed:
            changes["outliers"] = fraction
        elif fraction != 0 and w.dtype.name.endswith("+sparse"):
            changes["sparse"] = fraction
        stated = compute_type(x.dtype, w.dtype)
        runs = executing(self.machine, stated)
        if narrowed and runs != stated:
            changes["compute"] = runs
            self._miss(node.name, f"{self.machine.name} lacks {stated}: runs as {runs}")
        return changes

    def _miss(self, where: str, why: str) -> None:
        miss = Miss(self.name, where, why)
        if miss not in self.misses:
            self.misses.append(miss)


def _mixed(narrow: DType, wide: DType, fraction: Expr) -> DType:
    """A fraction of the elements in the wide format instead of the narrow one."""
    bits = narrow.bits * (1 - fraction) + wide.bits * fraction
    return replace(narrow, name=f"{narrow.name}+{wide.name}", bits=bits)
