"""Caches whose last tokens stay wide (KIVI), row by row, and keys cached before rotation."""

from __future__ import annotations

import pytest
from sympy import Integer, Rational, expand

import costgraph as cg
from costgraph.counting.footprint import footprint
from costgraph.errors import CostgraphError
from costgraph.hardware import load_hardware
from costgraph.hardware.machine import Engine
from costgraph.hardware.systems import alone
from costgraph.ir.cost import Direction
from costgraph.ir.tensor import Role
from costgraph.models import load_model
from costgraph.ops.attention import KVAppend
from costgraph.ops.pattern import Window
from costgraph.passes.precision.quantize import Quantize
from costgraph.rewriting.pipeline import run
from costgraph.symbols import B, T, q

MACHINE = alone(load_hardware("h100"))
#: Bytes of a row of one head of 128 elements, in 16 bit and as KIVI stores it in 2.
WIDE, NARROW = Rational(256), Rational(128 * 3, 8)


def body(program):
    return next(n.op.body for n in program.graph.nodes if n.op.kind == "repeat")


def quantized(program, **options):
    return run(program, (Quantize(**options),), MACHINE)[0]


class Rows:
    """A cache, one entry per token: narrow or wide. Counts what a step moves."""

    def __init__(self, recent: int, window: int | None = None) -> None:
        self.recent, self.window = recent, window
        self.rows: list[str] = []

    def step(self, new: int) -> dict[str, int]:
        """Appends ``new`` rows; what a kernel that makes them all at once writes and reads."""
        old = len(self.rows)
        before = [*self.rows, *["new"] * new]
        kept = len(before) if self.window is None else min(len(before), self.window)
        moved = {"wide": 0, "narrow": 0, "again": 0}
        after = []
        for at, row in enumerate(before):
            from_end = len(before) - at
            if from_end > kept:
                continue
            form = "wide" if from_end <= self.recent else "narrow"
            if row != form:
                moved[form] += 1
                moved["again"] += row == "wide" and at < old
            after.append(form)
        self.rows = after
        return moved

    @property
    def bytes(self):
        return sum(WIDE if row == "wide" else NARROW for row in self.rows)


@pytest.fixture(scope="module")
def large():
    return load_model("llama-2-7b")


def append_of(program):
    graph = body(program)
    node = graph.node("k_append")
    return node, graph.operands(node)


@pytest.mark.parametrize("recent", [0, 1, 7, 128])
@pytest.mark.parametrize("prompt", [1, 128, 150])
def test_every_token_moves_what_a_row_by_row_cache_moves(large, recent, prompt):
    node, operands = append_of(quantized(large, kv="kivi2", kv_recent=recent))
    cost = node.op.cost(operands, node.outputs)
    rows = Rows(recent)
    for step in range(12):
        new = prompt if step == 0 else 1
        moved = rows.step(new)
        at = {B: 1, q: new, T: len(rows.rows)}
        heads = 32
        written = moved["wide"] * WIDE + moved["narrow"] * NARROW
        assert cost.bytes_of(Role.KV, Direction.WRITE).subs(at) == heads * written
        assert cost.bytes_of(Role.KV, Direction.READ).subs(at) == heads * moved["again"] * WIDE
        assert cost.total_flops.subs(at) == 3 * heads * 128 * moved["narrow"]
        assert node.outputs[0].bytes.subs(at) == heads * rows.bytes
        assert node.outputs[0].narrow.subs(at) == heads * 128 * rows.rows.count("narrow")


@pytest.mark.parametrize("chunk", [1, 3, 16, 50])
def test_chunks_of_a_prompt_move_each_row_as_often_as_it_changes(large, chunk):
    node, operands = append_of(quantized(large, kv="kivi2", kv_recent=16))
    cost = node.op.cost(operands, node.outputs)
    rows = Rows(16)
    for _ in range(12):
        moved = rows.step(chunk)
        at = {B: 1, q: chunk, T: len(rows.rows)}
        assert cost.bytes_of(Role.KV, Direction.READ).subs(at) == 32 * moved["again"] * WIDE
        written = moved["wide"] * WIDE + moved["narrow"] * NARROW
        assert cost.bytes_of(Role.KV, Direction.WRITE).subs(at) == 32 * written


@pytest.mark.parametrize("recent", [4, 100])
def test_a_sliding_window_keeps_its_last_tokens_wide(recent):
    """What stays after a step, where the attention itself has a window."""
    from costgraph.ir.dtypes import Recent, dtype, with_groups
    from costgraph.ir.tensor import Tensor

    wide = dtype("fp16")
    made = with_groups(dtype("int2"), Integer(32), Integer(16), Integer(16))
    from dataclasses import replace

    kind = replace(made, recent=Recent(Integer(recent), wide))
    rows, window = Rows(recent, 20), 20
    for step in range(60):
        new = 7 if step == 0 else 1
        held = min(len(rows.rows), window + new - 1 - new) if rows.rows else 0
        cache = Tensor("c", (Integer(1), Integer(held), Integer(1), Integer(128)), kind, Role.KV)
        x = Tensor("x", (Integer(1), Integer(new), Integer(1), Integer(128)), wide)
        op = KVAppend(Window(Integer(window)))
        (spec,) = op.infer((cache, x))
        cost = op.cost((cache, x), (spec.named("out"),))
        moved = rows.step(new)
        assert spec.stored == rows.bytes
        assert cost.total_flops == 3 * 128 * moved["narrow"]
        written = moved["wide"] * WIDE + moved["narrow"] * NARROW
        assert cost.bytes_of(Role.KV, Direction.WRITE) == written


def test_memory_is_the_published_formula(large):
    """n_q·(2 + 32/32)/8·2·L·dk + R·2·2·L·dk bytes per sequence, all of it 16 bit below R."""
    need = footprint(quantized(large, kv="kivi2").graph).kv
    for context in (1, 64, 127, 128, 129, 4000):
        wide = min(context, 128)
        wanted = (context - wide) * Rational(3, 8) * 2 * 32 * 4096 + wide * 2 * 2 * 32 * 4096
        assert need.subs({B: 1, T: context}) == wanted


def test_a_request_is_the_sum_of_its_steps():
    for text, more in (
        ("quantize{kv=kivi2},fuse", {}),
        ("quantize{kv=int4,kv-recent=R},page-kv", {"R": 100}),
    ):
        compiled = cg.compile("llama-2-7b", "a6000", text)
        for prompt, generated in ((90, 60), (10, 3), (200, 20)):
            whole = compiled.latency.evaluate(B=2, S=prompt, N=generated, **more)
            steps = (compiled.tpot.evaluate(B=2, T=prompt + i, **more) for i in range(1, generated))
            first = compiled.ttft.evaluate(B=2, S=prompt, **more)
            assert whole == pytest.approx(first + sum(steps), rel=1e-12)


def test_bytes_grow_with_the_tokens_that_stay_wide(large):
    found = [
        footprint(quantized(large, kv="kivi2", kv_recent=r).graph).kv.subs({B: 1, T: 500})
        for r in (0, 1, 128, 499, 500, 501, 10**6)
    ]
    assert found == sorted(found)
    assert found[-1] == found[-3] == footprint(large.graph).kv.subs({B: 1, T: 500})


def test_blocks_hold_what_is_narrow_and_a_buffer_the_rest(large):
    made = cg.compile(large, "h100", "quantize{kv=kivi2},page-kv{block=16}").program
    need = footprint(made.graph).kv
    row = 2 * 32 * 32
    for context in (100, 128, 129, 1000):
        blocks = -(-max(context - 128, 0) // 16)
        wanted = row * (blocks * 16 * NARROW + min(context, 128) * WIDE)
        assert need.subs({B: 1, T: context}) == wanted


def test_a_window_of_recent_tokens_lies_on_one_device():
    with pytest.raises(CostgraphError, match="keeps its last tokens wide"):
        cg.compile("llama-2-7b", "2xh100", "quantize{kv=kivi2},parallel{cp=2}")
    cg.compile("llama-2-7b", "2xh100", "quantize{kv=kivi2},parallel{tp=2}")


def test_the_survey_has_no_such_cache():
    compiled = cg.compile("llama-2-7b", "h100", "quantize{kv=kivi2}", accounting="survey")
    with pytest.raises(CostgraphError, match="kv-recent=0"):
        assert compiled.tpot
    plain = cg.compile("llama-2-7b", "h100", "quantize{kv=kivi2,kv-recent=0}", accounting="survey")
    assert plain.tpot.evaluate(B=1, T=9) > 0


# --- keys before rotation -----------------------------------------------------------------


@pytest.mark.parametrize(
    "model", ["llama-2-7b", "llama-3-70b", "stablelm-2-1.6b", "gpt2", "deepseek-v2-lite"]
)
def test_keys_are_rotated_where_they_are_read(model):
    program = load_model(model)
    plain = body(quantized(program, kv="int3", kv_recent=0))
    made = body(quantized(program, kv="kvquant3"))
    rotations = [n for n in plain.nodes if n.op.kind == "rope"]
    left = [n for n in made.nodes if n.op.kind == "rope"]
    appended = {n.inputs[1] for n in plain.nodes if n.op.kind == "kv-append"}
    moved = [n for n in rotations if n.output in appended]
    assert len(left) == len(rotations) - len(moved)
    assert bool(moved) == (model != "gpt2")
    # 3 FLOP per rotated element of every cached key, instead of every new one.
    for node in moved:
        x, table = plain.operands(node)
        rows, rotary = x.shape[0] * x.shape[2], table.shape[1]
        caches = [n for n in plain.nodes if n.op.kind == "kv-append" and n.inputs[1] == node.output]
        decode = made.tensors[caches[0].inputs[0]].dtype.decode
        assert expand((decode - 2) * x.shape[3] * rows - 3 * rotary * rows) == 0


def test_kvquant_reads_its_keys_with_rotation_and_its_values_without():
    made = body(quantized(load_model("llama-2-7b"), kv="kvquant3"))

    def converted(name):
        node = made.node(name)
        return node.op.work(made.operands(node), node.outputs)[Engine.VECTOR, "fp32"]

    outliers = 2 * Rational(1, 100)  # found and added as the rest is converted
    assert expand(converted("qk_matmul") - (2 + 3 + outliers) * B * T * 4096) == 0
    assert expand(converted("sv_matmul") - (2 + outliers) * B * T * 4096) == 0
    keys, values = (made.tensors[n].dtype for n in ("k_cache", "v_cache"))
    assert keys.bits_per_element == Rational("3.32")
    assert values.bits_per_element == Rational("3.32") + Rational(32, 4096)


def test_a_kept_cache_keeps_its_rotated_keys():
    program = load_model("llama-2-7b")
    made = body(quantized(program, kv="kvquant3", keep="k_cache"))
    assert [n.name for n in made.nodes] == [n.name for n in body(program).nodes]
    assert made.tensors["k_cache"].dtype.bits == 16
    assert made.tensors["v_cache"].dtype.bits == 3
