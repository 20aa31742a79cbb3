"""Calibrated time of operations, as terms of a formula.

Which form an operation takes follows from its work: fused attention takes the
decode form with one query and the prefill form otherwise; anything else with
tensor work takes the gemm form; the rest is element-wise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sympy import Add, Expr, Integer, Rational

from costgraph import roofline
from costgraph.count import Row
from costgraph.errors import HardwareError, InputError, clip, nearest
from costgraph.fidelity.calibration import Calibration, Fit, load_calibration, shipped, transfer
from costgraph.fidelity.forms import Parts, form_of
from costgraph.fidelity.table import RIDGE
from costgraph.formula.envelope import dominates
from costgraph.formula.terms import Arm, Term, make_term
from costgraph.graph import Node
from costgraph.machine import Engine, Machine
from costgraph.ops.flash import FlashAttention
from costgraph.ops.fused import Fused
from costgraph.program import Phase
from costgraph.tensor import Tensor

if TYPE_CHECKING:
    from costgraph.api import Compiled

ONE = Integer(1)
#: What ``fidelity`` may be, and the quantile of the errors that each stands for.
FIDELITIES = {"ideal": "", "calibrated": "", "low": "q10", "median": "q50", "high": "q90"}
#: Fitted variants that serve a compute type, the best first.
GEMM = {
    "bf16": ("bf16", "fp16", "fp32"),
    "fp16": ("bf16", "fp16", "fp32"),
    "fp8": ("fp8", "fp8_block", "bf16", "fp16", "fp32"),
    "int8": ("fp8", "fp8_block", "bf16", "fp16", "fp32"),
    "fp4": ("nvfp4", "fp8", "bf16", "fp16", "fp32"),
    "int4": ("nvfp4", "fp8", "bf16", "fp16", "fp32"),
    "tf32": ("fp32", "bf16", "fp16"),
    "fp32": ("fp32", "bf16", "fp16"),
}


def attention_variants(compute: str, cache_bits: Expr) -> tuple[str, ...]:
    """Variants of fused attention: compute type and the cache's."""
    wide = ("bf16-bf16", "fp16-fp16", "fp32-fp32")
    if compute in ("fp8", "int8"):
        return ("fp8-fp8", "bf16-fp8", *wide)
    return ("bf16-fp8", "fp8-fp8", *wide) if cache_bits.is_number and cache_bits <= 8 else wide


@dataclass(frozen=True)
class Calibrated:
    """A calibration at work on a device.

    Attributes:
        fidelity: a key of :data:`FIDELITIES`.
        machine: the device with its figures.
        own: its calibration; without one, parameters are transferred.
    """

    fidelity: str
    machine: Machine
    own: Calibration | None

    def on(self, machine: Machine) -> roofline.Timing:
        """How operations take time on ``machine``: this device, or its symbols."""
        return lambda phase, row: self.terms(phase, row, machine)

    def terms(self, phase: Phase, row: Row, machine: Machine) -> Iterator[Term]:
        """The terms of one operation: its floor, and the norm of its arms."""
        cost = row.cost.mapped(phase.bind)
        arms = roofline.arms(cost, machine)
        if not arms:
            return
        kind, variants, facts = classify(phase, row, self.machine)
        fit, _ = self.fit(kind, variants, facts.ridge)
        values: dict[str, Any] = {k: exact(v) for k, v in fit.values.items()}
        tensor = [a for a in arms if a.resource.startswith("tensor:")]
        memory = [a for a in arms if a.resource == "memory"]
        others = [a for a in arms if a not in tensor and a not in memory]
        features = facts.features | {
            "C": Add(*(a.expr for a in tensor)),
            "M": Add(*(a.expr for a in memory)),
            "Q": Integer(0),
            "quant": Integer(0),
            "resident": Integer(0),
        }
        if kind == "elementwise":
            features["C"], others = Integer(0), others + tensor
        parts: Parts = form_of(kind).build(features, values)
        name = tensor[0].resource if tensor else "latency"
        combined = [Arm(parts.compute, name), Arm(parts.memory, "memory")]
        # The fitted arms absorb vector work; it counts only where it could exceed them.
        # Decided on the device's figures, so that its symbols change nothing.
        figures = self.machine.bindings()
        sizes = [c.expr.xreplace(figures) for c in combined]
        combined += [
            a for a in others if not any(dominates(x, a.expr.xreplace(figures)) for x in sizes)
        ]
        count = phase.bind(row.count)
        if FIDELITIES[self.fidelity]:
            count *= exact(fit.quantile(FIDELITIES[self.fidelity]))
        for made in (
            make_term(count, combined, (row.name,), norm=exact(float(parts.norm))),
            make_term(count, (Arm(parts.floor, "latency"),), (row.name,)),
        ):
            if made is not None:
                yield made

    def fit(self, kind: str, variants: tuple[str, ...], ridge: float) -> tuple[Fit, bool]:
        """The parameters for an operation, and whether they are transferred.

        Raises:
            HardwareError: nothing was fitted for operations of this kind.
        """
        found = None if self.own is None else self.own.find(kind, variants)
        if found is not None:
            return found, False
        if self.machine.kind != "gpu":
            raise HardwareError(
                f"no calibration of {kind} operations for {self.machine.name!r}, and those of "
                "GPUs do not carry over to it; measure it: costgraph calibrate --this-machine"
            )
        general = transfer()
        found = general.find(kind, variants)
        if found is None:
            raise HardwareError(
                f"no calibration of {kind} operations ({', '.join(variants)}) to transfer"
            )
        slope = general.slope.get(kind)
        if slope is None or "ec" not in found.values:
            return found, True
        moved = min(found.values["ec"] * ridge**-slope, 1.0)
        return replace(found, values={**found.values, "ec": moved}), True

    def assumptions(self, compiled: Compiled) -> tuple[str, ...]:
        """Sentences for the formulas: what was fitted, with its error on unseen data."""
        shown: dict[str, str] = {}
        for phase in compiled.program.phases:
            for row in compiled.rows[phase.name]:
                if not row.cost.bytes and not row.cost.flops:
                    continue
                kind, variants, facts = classify(phase, row, self.machine)
                fit, moved = self.fit(kind, variants, facts.ridge)
                held = fit.heldout
                key = f"{kind} {fit.variant}"
                shown[key] = (
                    f"{key} {'transferred, devices left out' if moved else 'fitted, held out'}: "
                    f"{held['mean']:.0f}/{held['median']:.0f} %"
                )
        band = FIDELITIES[self.fidelity]
        words = {
            "": "calibrated: forms fitted on measured timings",
            "q10": "low band: every operation at the 10 % quantile of its errors",
            "q50": "median band: every operation at the median of its errors",
            "q90": "high band: every operation at the 90 % quantile of its errors",
        }[band]
        return (
            f"{words}; mean/median error per operation: {'; '.join(shown.values())}",
            "calibrated times are of kernels in sequence, operands read from memory (not L2); "
            "sums over contexts by quadrature within 1e-9",
        )


@dataclass(frozen=True)
class Facts:
    """Sizes of an operation that its form takes, and its ridge point in units of 300 FLOP/byte."""

    features: dict[str, Any]
    ridge: float = 1.0


def exact(value: float) -> Rational:
    """A fitted value to six digits as an exact number."""
    return Rational(f"{value:.6g}")


def classify(phase: Phase, row: Row, machine: Machine) -> tuple[str, tuple[str, ...], Facts]:
    """The kind of an operation, the variants that serve it, and what its form takes."""
    operands = row.graph.operands(row.node)
    # Some accountings count element-wise work at tensor peaks: the operation itself decides.
    types = [d for e, d in row.node.op.work(operands, row.node.outputs) if e is Engine.TENSOR]
    if not types:
        return "elementwise", ("any",), Facts({})
    compute = machine.resolve(Engine.TENSOR, types[0])[1]
    ridge = float(machine.ridge(types[0])) / RIDGE
    op = row.node.op
    if isinstance(op, FlashAttention):
        return _attention(phase, operands, compute, machine, ridge)
    k, n = _product(row.node, operands)
    facts = Facts({"k": phase.bind(k), "n": phase.bind(n)}, ridge)
    return "gemm", GEMM.get(compute, ("bf16",)), facts


def _attention(
    phase: Phase, operands: tuple[Tensor, ...], compute: str, machine: Machine, ridge: float
) -> tuple[str, tuple[str, ...], Facts]:
    query, keys = operands[:2]
    b, q, h, dh = (phase.bind(x) for x in query.shape)
    t, hk = phase.bind(keys.shape[1]), phase.bind(keys.shape[2])
    if machine.multiprocessors is None and machine.kind == "gpu":
        raise HardwareError(
            f"calibrated attention needs the number of multiprocessors of {machine.name!r}: "
            "state onchip.multiprocessors in its file"
        )
    sm = machine.multiprocessors or ONE
    facts = Facts({"q": q, "T": t, "dh": dh, "heads": b * h, "groups": b * hk, "sm": sm}, ridge)
    kind = "decode" if q == 1 else "prefill"
    return kind, attention_variants(compute, keys.dtype.bits), facts


def _product(node: Node, operands: tuple[Tensor, ...]) -> tuple[Expr, Expr]:
    """(summed size, result width) of a product; of siblings in one kernel their joint width."""
    if isinstance(node.op, Fused):
        inner = [
            _product(n, node.op.body.operands(n))
            for n in node.op.body.nodes
            if any(engine is Engine.TENSOR for engine, _ in n.op.work(
                node.op.body.operands(n), n.outputs))
        ]  # fmt: skip
        return inner[0][0], Add(*(n for _, n in inner))
    second = operands[1].shape
    if node.op.kind == "qk-matmul":
        return second[3], second[1]
    if node.op.kind == "sv-matmul":
        return second[1], second[3]
    return second[-1], second[0]


def calibrated(
    fidelity: str,
    machine: Machine,
    hardware: Any,
    calibration: str | os.PathLike[str] | None = None,
) -> Calibrated:
    """The calibration that a compile asks for.

    A file given, else one beside the device's own file (``x.toml``,
    ``x.calibration.toml``), else the shipped one of the device, else none.

    Raises:
        InputError: the fidelity is unknown.
        HardwareError: the calibration file is wrong.
    """
    if fidelity not in FIDELITIES:
        raise InputError(f"unknown fidelity {clip(fidelity)}{nearest(str(fidelity), FIDELITIES)}")
    if fidelity == "ideal":
        raise InputError("a calibration changes nothing at fidelity 'ideal': use 'calibrated'")
    if calibration is not None:
        return Calibrated(fidelity, machine, load_calibration(Path(os.fsdecode(calibration))))
    if isinstance(hardware, (str, os.PathLike)) and str(hardware).endswith(".toml"):
        beside = beside_of(Path(os.fsdecode(hardware)))
        if beside.is_file():
            return Calibrated(fidelity, machine, load_calibration(beside))
    return Calibrated(fidelity, machine, shipped(machine.name))


def beside_of(device: Path) -> Path:
    """The calibration that stands beside a device's file."""
    return device.with_name(f"{device.stem}.calibration.toml")
