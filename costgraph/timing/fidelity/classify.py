"""Which calibrated form an operation takes, and the sizes that the form needs.

Decided by the operation that does the tensor work, opened if it is fused:

* fused attention: ``decode`` with one query per sequence, or with the few of a step that
  verifies; ``prefill`` for a prompt, whole, in chunks or behind what is cached, and for queries
  of which there are many; also over the states of an encoder;
* latent attention in tiles: ``mla``; its absorbed variant where the latent
  vectors are keys and values at once, else the one over expanded heads;
* products grouped by expert: ``moe`` (:mod:`.expert_block`);
* other products with tensor work, convolutions as implicit products: ``gemm``;
* narrowing of activations at run time: ``quantize``, the share that the gemm form
  adds for it;
* scans and recurrences, whatever engine they use, and the rest: ``elementwise``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sympy import Add, Expr, Integer, Max, Mul, floor

from costgraph.counting.count import Row
from costgraph.counting.mixed import MixedRow
from costgraph.errors import HardwareError
from costgraph.hardware.machine import Engine, Machine
from costgraph.ir.graph import Node
from costgraph.ir.program import Phase
from costgraph.ir.tensor import Tensor
from costgraph.ops.conv import Conv
from costgraph.ops.experts import ExpertLinear
from costgraph.ops.flash import FlashAttention
from costgraph.ops.fused import Fused
from costgraph.ops.latent import SplitFlash
from costgraph.ops.linear import Linear
from costgraph.ops.quant import NarrowResult, QuantizeTo, plain
from costgraph.ops.recurrent import GatedDelta
from costgraph.ops.scan import StateSpaceDual
from costgraph.ops.tables import TableLinear
from costgraph.timing.fidelity.expert_block import block_of, grouped_product, is_member
from costgraph.timing.fidelity.forms import filled_tiles
from costgraph.timing.fidelity.light import stand_ins
from costgraph.timing.fidelity.table import BY_ROWS

ONE, ZERO = Integer(1), Integer(0)
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
#: Variants fitted on products that quantise their operand.
NARROW = ("fp8", "fp8_block", "nvfp4")
#: Queries per sequence that kernels of decode steps pack into tiles at most: above them a block
#: of rows is full by itself (FlashAttention's tiles have 64 or 128 rows).
FEW = Integer(128)
#: Operations with a state: element-wise, even where chunks are products.
SCANS = (StateSpaceDual, GatedDelta)


@dataclass(frozen=True)
class Case:
    """An operation as its form sees it.

    Attributes:
        kind: of the form.
        variants: fitted variants that serve it, the best first.
        features: sizes that the form takes.
        dtype: data type of its products.
        floor: False where another operation carries the floor of their block.
        product: the same operation in the gemm form, for devices on which
            nothing was fitted for ``kind``.
        block: of an operation that is timed by the roofline because the timings of
            its block cover it: the block's grouped product. Its errors are theirs.
        long: of attention of a few queries: the same as a prefill, whose parameters say
            what queries after the first add.
        lone: of attention whose query heads each have a cached head of their own.
    """

    kind: str
    variants: tuple[str, ...]
    features: dict[str, Any]
    dtype: str = "bf16"
    floor: bool = True
    product: Case | None = None
    block: Case | None = None
    long: Case | None = None
    lone: bool = False


LIGHT = Case("elementwise", ("map", "any", "fp32-add", "bf16-add"), {"cols": ZERO})


def attention_variants(compute: str, cache_bits: Expr) -> tuple[str, ...]:
    """Variants of fused attention: compute type and the cache's.

    Wide attention over a narrow cache never takes the parameters of narrow attention:
    their efficiency is a share of another peak.
    """
    wide = ("bf16-bf16", "fp16-fp16", "fp32-fp32")
    if compute in ("fp32", "tf32"):
        return wide[::-1]
    if compute in ("fp8", "int8"):
        return ("fp8-fp8", "bf16-fp8", *wide)
    return ("bf16-fp8", *wide) if cache_bits.is_number and cache_bits <= 8 else wide


def classify(phase: Phase, row: Row, machine: Machine) -> Case:
    """How the calibrated forms see an operation.

    Raises:
        HardwareError: the device lacks a figure that the form needs.
    """
    operands = row.graph.operands(row.node)
    # Some accountings count element-wise work at tensor peaks: the operation itself decides.
    types = [d for e, d in row.node.op.work(operands, row.node.outputs) if e is Engine.TENSOR]
    op = row.node.op
    if isinstance(op, TableLinear):
        raise HardwareError(
            f"{row.name}: no product by look-ups was timed: state fidelity=ideal, or kernel=convert"
        )
    if not types or isinstance(op, SCANS):
        if is_member(row.graph, row.node):
            grouped = grouped_product(row.graph)
            inside = replace(row, node=grouped) if grouped is not None else None
            timed = None if inside is None else classify(phase, inside, machine)
            return replace(LIGHT, floor=False, block=timed)
        if isinstance(op, QuantizeTo):
            narrow = GEMM.get(op.format.compute, ())
            if op.format.splits(_summed_by_users(row)):
                narrow = _in_blocks(narrow)
            return Case("quantize", tuple(v for v in narrow if v in NARROW), {})
        names = stand_ins(row.node, machine)
        columns = row.node.outputs[0].shape[-1] if names[0] in BY_ROWS else ZERO
        return replace(LIGHT, variants=names, features={"cols": phase.bind(columns)})
    compute = machine.resolve(Engine.TENSOR, types[0])[1]
    variants = GEMM.get(compute, ("bf16",))
    k, n = (phase.bind(x) for x in product_sizes(row.node, operands))
    main, given = main_node(row.node, operands)
    if isinstance(main.op, Linear):
        weight = given[1]
        if weight.dtype.compute == compute and weight.dtype.splits(weight.shape[-1]):
            variants = _in_blocks(variants)
    sizes = {"k": k, "n": n}
    if machine.kind == "cpu":
        sizes |= {x: phase.bind(y) for x, y in _products_of(main, given).items()}
    product = Case("gemm", variants, sizes, types[0])
    if isinstance(main.op, SplitFlash):
        return _latent(phase, given, product)
    if isinstance(main.op, FlashAttention):
        steps = row.steps if isinstance(row, MixedRow) else phase.walks_contexts
        return _attention(phase, given, compute, machine, product, steps)
    if isinstance(main.op, ExpertLinear):
        block = block_of(row.graph, row.node)
        rows = main.op.gemm(given)[1]
        sizes = {"inner": block.inner, "rows": rows, "tokens": block.tokens, "d": block.hidden}
        return Case(
            "moe",
            variants,
            {name: phase.bind(size) for name, size in sizes.items()},
            types[0],
            floor=block.first == row.node.name,
            product=product,
        )
    return product


def _in_blocks(variants: tuple[str, ...]) -> tuple[str, ...]:
    """The same with products that meet several scales in a sum first, where they are fitted."""
    return tuple(sorted(variants, key=lambda v: v != "fp8_block"))


def _summed_by_users(row: Row) -> Expr:
    """The summed size of the product that takes an operation's result; else the last axis."""
    for user in row.graph.consumers[row.node.output]:
        main, given = main_node(user, row.graph.operands(user))
        if isinstance(main.op, Linear):
            return given[1].shape[-1]
    return row.node.outputs[0].shape[-1]


def main_node(node: Node, operands: tuple[Tensor, ...]) -> tuple[Node, tuple[Tensor, ...]]:
    """The first operation with tensor work, and its operands; opens fused ones."""
    if isinstance(node.op, NarrowResult):
        return main_node(replace(node, op=node.op.inner), operands)
    if isinstance(node.op, Fused):
        for inner in node.op.body.nodes:
            given = node.op.body.operands(inner)
            if _has_products(inner, given):
                return main_node(inner, given)
    return node, operands


def _products_of(node: Node, operands: tuple[Tensor, ...]) -> dict[str, Expr]:
    """How many products an operation consists of, and the rows of each."""
    op, first = node.op, operands[0].shape
    if isinstance(op, ExpertLinear):
        groups, rows, _, _ = op.gemm(operands)
        return {"batch": groups, "m": rows}
    if isinstance(op, Conv):
        return {"batch": ONE, "m": Mul(first[0], *node.outputs[0].shape[2:])}
    if op.kind == "sv-matmul":
        return {"batch": first[0] * first[1], "m": first[2]}
    if "qk-matmul" in op.kind or isinstance(op, FlashAttention):
        return {"batch": first[0] * first[2], "m": first[1]}
    if op.kind in ("head-linear", "block-linear"):
        return {"batch": operands[1].shape[0], "m": first[0] * first[1]}
    contract = op.contract if isinstance(op, Linear) else 1
    return {"batch": ONE, "m": Mul(*first[:-contract])}


def _has_products(node: Node, operands: tuple[Tensor, ...]) -> bool:
    return any(engine is Engine.TENSOR for engine, _ in node.op.work(operands, node.outputs))


def _attention(
    phase: Phase,
    operands: tuple[Tensor, ...],
    compute: str,
    machine: Machine,
    product: Case,
    steps: bool,
) -> Case:
    query, keys = operands[:2]
    b, q, h, dh = (phase.bind(x) for x in query.shape)
    t, hk = phase.bind(keys.shape[1]), phase.bind(keys.shape[2])
    if machine.multiprocessors is None and machine.kind == "gpu":
        raise HardwareError(
            f"calibrated attention needs the number of multiprocessors of {machine.name!r}: "
            "state onchip.multiprocessors in its file"
        )
    sm = machine.multiprocessors or ONE
    sizes = {"q": q, "T": t, "dh": dh, "heads": b * h, "groups": b * hk, "sm": sm}
    sizes["tiles"] = filled_tiles(h, hk, Max)
    variants = attention_variants(compute, keys.dtype.bits)
    decode = Case("decode", variants, sizes, product.dtype, product=product, lone=h == hk)
    prefill = replace(decode, kind="prefill")
    if q == 1:
        return decode
    return replace(decode, long=prefill) if few_queries(q, steps) else prefill


def few_queries(q: Expr, steps: bool) -> bool:
    """True if ``q`` queries per sequence attend in the way of a decode step.

    Kernels are chosen by the queries. Those of a step of a generation (``steps``: drafted tokens
    and their verification) are few, however long the context. A prompt's take the prefill's
    kernel, whether it comes whole, in chunks, or behind what is cached: so a chunk that ends
    where it began takes what a prompt takes, and one that is cut in two takes no other form.
    """
    return steps and not (q.is_number and q > FEW)


def _latent(phase: Phase, operands: tuple[Tensor, ...], product: Case) -> Case:
    query, keys, values = operands[0], operands[2], operands[4]
    b, q = (phase.bind(x) for x in query.shape[:2])
    form = "decode" if values.name == keys.name else "prefill"
    bits = keys.dtype.bits
    stored = ("fp8", "bf16") if bits.is_number and bits <= 8 else ("bf16", "fp8")
    sizes = {"T": phase.bind(keys.shape[1]), "tokens": b * q, "q": q}
    variants = tuple(f"{form}-bf16-{x}" for x in stored)
    return Case("mla", variants, sizes, product.dtype, product=product)


def product_sizes(node: Node, operands: tuple[Tensor, ...]) -> tuple[Expr, Expr]:
    """(summed size, result width) of a product, so that ``k·n`` is its second operand's size.

    Of siblings in one kernel the width is their joint one; stacks of matrices count
    all their columns; a convolution is the product of its implicit GEMM.
    """
    op = plain(node.op)
    if isinstance(op, Fused):
        inner = [
            product_sizes(n, op.body.operands(n))
            for n in op.body.nodes
            if _has_products(n, op.body.operands(n))
        ]
        return inner[0][0], Add(*(n for _, n in inner))
    if isinstance(op, SplitFlash):
        return Add(operands[0].shape[3], operands[1].shape[3]), operands[2].shape[1]
    if isinstance(op, FlashAttention):
        return operands[1].shape[3], operands[1].shape[1]
    if isinstance(op, Conv):
        out, *summed = operands[1].shape
        return Mul(*summed), out
    if op.kind == "split-qk-matmul":
        return Add(operands[0].shape[3], operands[1].shape[3]), operands[2].shape[1]
    second = operands[1].shape
    if op.kind == "merge-rows":  # half of the rows against the other half
        return second[3], floor(second[1] / 2)
    if op.kind == "qk-matmul":
        return second[3], second[1]
    if op.kind == "sv-matmul":
        return second[1], second[3]
    if op.kind == "block-linear":  # (blocks, in, out)
        return second[1], second[0] * second[2]
    if len(second) == 3:  # (heads or experts, out, in)
        return second[2], second[0] * second[1]
    return second[-1], second[0]
