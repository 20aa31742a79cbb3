"""Products by look-ups: the algorithm itself, run and counted, against the operation."""

from __future__ import annotations

import random

import pytest
from sympy import Integer, Rational, expand

import costgraph as cg
from costgraph.errors import CostgraphError
from costgraph.hardware import load_hardware
from costgraph.hardware.machine import Engine
from costgraph.hardware.systems import alone
from costgraph.ir.tensor import Role, Tensor
from costgraph.models import load_model
from costgraph.ops.tables import TableLinear
from costgraph.passes.precision.quantize import Quantize
from costgraph.passes.precision.scheme import ROW, Scheme, grouped
from costgraph.rewriting.pipeline import run
from costgraph.symbols import B, q

MACHINE = alone(load_hardware("h100"))


def multiplied(weights, x, planes, mu, group):
    """``W x`` by tables, with what it takes: (result, additions for tables, look-ups, weighing).

    ``weights`` are rows of whole numbers below ``2^planes``; scales are all one.
    """
    n, builds, lookups, weighing = len(x), 0, 0, 0
    tables = []
    for start in range(0, n, mu):
        chunk = (x[start : start + mu] + [0] * mu)[:mu]
        table = [0]
        builds += 1  # the empty sum, written like every entry
        for value in chunk:
            table += [entry + value for entry in table]
            builds += len(table) // 2
        tables.append(table)
    result = []
    for row in weights:
        total = 0
        for first in range(0, n, group):
            for plane in range(planes):
                found = 0
                for start in range(first, min(first + group, n), mu):
                    bits = [(w >> plane) & 1 for w in row[start : start + mu]]
                    found += tables[start // mu][sum(b << i for i, b in enumerate(bits))]
                    lookups += 1
                total += found << plane
                weighing += 2
        result.append(total)
    return result, builds, lookups, weighing


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
@pytest.mark.parametrize("mu", [2, 4, 8])
@pytest.mark.parametrize(("ic", "oc", "group"), [(16, 3, 16), (32, 5, 16), (64, 2, 8)])
def test_the_operation_counts_what_the_algorithm_does(planes, mu, ic, oc, group):
    rng = random.Random(ic * planes + mu)
    weights = [[rng.randrange(2**planes) for _ in range(ic)] for _ in range(oc)]
    rows = [[rng.randint(-9, 9) for _ in range(ic)] for _ in range(2)]
    builds = lookups = weighing = 0
    for x in rows:
        found, *counted = multiplied(weights, x, planes, mu, group)
        assert found == [sum(w * v for w, v in zip(row, x, strict=True)) for row in weights]
        builds, lookups, weighing = (
            a + b for a, b in zip((builds, lookups, weighing), counted, strict=True)
        )
    kind = grouped(f"int{planes}", group).over(Integer(ic))
    from costgraph.ir.dtypes import dtype

    fp16 = dtype("fp16")
    x = Tensor("x", (Integer(1), Integer(2), Integer(ic)), fp16)
    w = Tensor("w", (Integer(oc), Integer(ic)), kind, Role.WEIGHT)
    op = TableLinear(planes=Integer(planes), mu=Integer(mu))
    out = op.infer((x, w))[0].named("y")
    assert op.builds((x, w)) == builds
    assert op.lookups((x, w)) == lookups
    work = op.work((x, w), (out,))
    assert work == {(Engine.VECTOR, "fp32"): builds + 2 * lookups + weighing}
    assert op.cost((x, w), (out,)).bytes_of(Role.WEIGHT) == oc * ic * kind.bits_per_element / 8


def body(program):
    return next(n.op.body for n in program.graph.nodes if n.op.kind == "repeat")


def quantized(name, **options):
    return body(run(load_model(name), (Quantize(**options),), MACHINE)[0])


@pytest.mark.parametrize(
    ("weights", "planes", "mu"), [("bcq3", 3, 8), ("int4", 4, 4), ("ternary", 2, 4), ("int2", 2, 8)]
)
def test_look_ups_take_the_place_of_products(weights, planes, mu):
    """q·m·n/µ look-ups and 2^µ·n/µ entries per row, instead of 2·m·n."""
    made = quantized("llama-2-7b", weights=weights, kernel="tables", mu=mu)
    node = made.node("up_proj")
    operands = made.operands(node)
    assert expand(node.op.lookups(operands) - planes * 11008 * (4096 // mu) * B * q) == 0
    assert expand(node.op.builds(operands) - 2**mu * (4096 // mu) * B * q) == 0
    assert not any(e is Engine.TENSOR for e, _ in node.op.work(operands, node.outputs))
    # What moves is what the product moves.
    plain = quantized("llama-2-7b", weights=weights)
    before = plain.node("up_proj")
    assert (
        node.op.cost(operands, node.outputs).bytes
        == before.op.cost(plain.operands(before), before.outputs).bytes
    )


def test_formats_that_are_no_sums_of_bits_stay_products_and_say_so():
    for weights in ("nf4", "e4m3", "gobo3", "squeezellm4", "mxfp4", "olaccel4"):
        program, trace = run(
            load_model("llama-2-7b"), (Quantize(weights=weights, kernel="tables"),), MACHINE
        )
        assert body(program).node("up_proj").op.kind == "linear"
        assert any("no sum of bits" in m.reason for m in trace.misses)
    program, trace = run(
        load_model("mixtral-8x7b"), (Quantize(weights="int4", kernel="tables"),), MACHINE
    )
    assert body(program).node("expert_up").op.kind == "expert-linear"
    assert any("experts" in m.reason for m in trace.misses)


def test_activations_that_are_narrow_too_are_scaled_or_read_first():
    def work(activations):
        made = quantized("llama-2-7b", weights="int2", activations=activations, kernel="tables")
        node = made.node("up_proj")
        (flops,) = node.op.work(made.operands(node), node.outputs).values()
        return flops

    assert expand(work("int8") - work("none") - B * q * 11008) == 0
    assert expand(work("posit8") - work("none") - 2 * B * q * 4096) == 0


def test_sparse_outliers_are_products_beside_the_tables():
    made = quantized("llama-2-7b", weights="int3", kernel="tables", outliers=Rational(1, 100))
    plain = quantized("llama-2-7b", weights="int3", kernel="tables")
    more, less = (
        g.node("up_proj").op.work(g.operands(g.node("up_proj")), g.node("up_proj").outputs)
        for g in (made, plain)
    )
    (key,) = more
    assert expand(more[key] - less[key] - Rational(2, 100) * B * q * 4096 * 11008) == 0


def test_tables_split_among_devices_and_fuse():
    one = cg.compile("llama-2-7b", "h100", "quantize{weights=bcq3,kernel=tables},fuse")
    two = cg.compile("llama-2-7b", "2xh100", "quantize{weights=bcq3,kernel=tables},parallel{tp=2}")
    assert two.tpot.evaluate(B=1, T=2000) < one.tpot.evaluate(B=1, T=2000)


def test_no_calibrated_form_knows_them():
    compiled = cg.compile(
        "llama-2-7b", "h100", "quantize{weights=bcq3,kernel=tables}", fidelity="calibrated"
    )
    with pytest.raises(CostgraphError, match="no product by look-ups was timed"):
        assert compiled.tpot


def test_a_planar_scheme_has_a_scale_for_each_plane():
    scheme = Scheme(
        grouped("int4", 128).base,
        ROW,
        planar=True,
    )
    assert scheme.over(Integer(64)).bits_per_element == 4 * (1 + Integer(16) / 64)
    assert (
        scheme.narrowed(Integer(2), "two").over(Integer(64)).bits_per_element == 2 + Integer(1) / 2
    )
