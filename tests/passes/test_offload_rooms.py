"""Farther levels of memory limit every question over workloads; experts stream as chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sympy import Add, Expr, Integer, Rational

import costgraph as cg
from costgraph.compiling.capacity import filled
from costgraph.errors import PipelineError
from costgraph.ir.cost import Direction
from costgraph.ir.tensor import MEMORY, Role
from costgraph.ops.transfer import Stream
from costgraph.showing.plot.fronts import places
from costgraph.symbols import B, S, T, q

GB = 10**9
#: Pipelines that keep so much of a model at a small host that it is full before the device.
AWAY = (
    "fuse,offload{weights=host,caches=host}",
    "fuse,offload{weights=host,attention=host,blocks=4}",
    "fuse,offload{weights=host:0.5,caches=host:0.9,activations=host,blocks=8}",
)
MODEL, AT = "llama-3.2-1b", {"S": 300, "N": 50}


def behind(gigabytes: int):
    """A device whose host has so much memory."""
    device = cg.compile("gpt2", "rtx-4090+i9-13900k").machine
    return device.with_tier("ddr", replace(device.tiers["ddr"], capacity=Integer(gigabytes * GB)))


@pytest.mark.parametrize("passes", AWAY)
def test_searches_end_where_a_level_is_full(passes):
    device = behind(4)
    compiled = cg.compile(MODEL, device, passes)
    found = cg.search(MODEL, device, passes=passes, objective="throughput", **AT).best
    assert found.batch is not None
    assert compiled.fit(B=found.batch, **AT).fits
    beyond = compiled.fit(B=found.batch + 1, **AT)
    assert beyond.fits is False
    assert "ddr of rtx-4090" in beyond.warning
    assert any("ddr memory" in why for why in found.binding)


def test_a_limit_on_memory_that_is_lifted_is_lifted_everywhere():
    passes = AWAY[0]
    held = cg.search(MODEL, behind(4), passes=passes, objective="throughput", **AT).best
    free = cg.search(
        MODEL, behind(4), passes=passes, objective="throughput", limits={"memory": None}, **AT
    ).best
    assert free.batch > held.batch


@pytest.mark.parametrize("passes", AWAY)
def test_sweeps_comparisons_and_figures_say_what_fit_says(passes):
    device, batches = behind(4), [8, 64, 128, 256, 400]
    compiled = cg.compile(MODEL, device, passes)
    truth = [compiled.fit(B=b, **AT).fits for b in batches]
    assert set(truth) == {True, False}  # the level is full within the grid
    swept = cg.sweep(MODEL, device, passes, B=batches, metrics=["memory"], **AT)
    assert swept.fits.values.ravel().tolist() == truth
    for batch, fits in zip(batches, truth, strict=True):
        (column,) = cg.compare(MODEL, device, [passes], B=batch, **AT).columns
        assert (column.fits, column.full) == (
            (fits, ()) if fits else (False, (f"ddr of {device.name}",))
        )
        given = {k: Integer(v) for k, v in AT.items()}
        parts = filled(compiled, given, ("B",))
        assert (max(float(p.xreplace({B: Integer(batch)})) for p in parts) <= 1) is fits
        step = compiled.breakdown("decode", B=batch, T=349)
        assert ("ddr of" in step.fit.warning) is not fits
    seen = [fits for *_, fits in places(compiled, batches, T=349)]
    assert seen == truth


def test_tables_name_the_level_that_is_too_small():
    said = str(cg.compare(MODEL, behind(4), [AWAY[0]], B=400, **AT))
    assert "(too large for ddr)" in said
    assert "too large" not in str(cg.compare(MODEL, behind(4), [AWAY[0]], B=8, **AT))


@pytest.mark.parametrize("blocks", [2, 16])
def test_searches_begin_with_a_sequence_for_each_group(blocks):
    passes = f"fuse,offload{{weights=host,blocks={blocks}}}"
    found = cg.search(MODEL, behind(4), passes=passes, objective="latency", **AT).best
    assert found.batch == blocks


# --- experts -----------------------------------------------------------------


def streamed(compiled, phase: str):
    """Bytes of weights that come in one step."""
    found = compiled.program.phase(phase)
    return Add(
        *(
            found.bind(row.count * size)
            for row in compiled.rows[phase]
            for (level, role, way), size in row.cost.bytes.items()
            if level != MEMORY and role is Role.WEIGHT and way is Direction.READ
        )
    )


def read_in_layers(compiled, phase: str, names: tuple[str, ...]):
    """Bytes of weights that operations read, of those with one of these names in theirs."""
    found = compiled.program.phase(phase)
    return Add(
        *(
            found.bind(row.count * size)
            for row in compiled.rows[phase]
            for (level, role, way), size in row.cost.bytes.items()
            if role is Role.WEIGHT and way is Direction.READ and any(n in row.name for n in names)
        )
    )


STACKS = ("expert_gate", "expert_up", "expert_down")


@pytest.mark.parametrize("before", ["", "fuse,", "quantize{preset=w4a16},fuse,"])
@pytest.mark.parametrize(
    "model", ["mixtral-8x7b", "deepseek-v2-lite", "qwen3-next-80b-a3b", "gpt-oss-20b"]
)
def test_chosen_experts_come_and_all_else(model, before):
    """What does not come is what no operation reads: experts that no token chose."""
    device = "gh200"
    plain = cg.compile(model, device, before.rstrip(","))
    made = {
        e: cg.compile(model, device, f"{before}offload{{weights=host,experts={e}}}")
        for e in ("all", "routed")
    }
    for batch in (1, 3):
        at = {B: Integer(batch), q: Integer(1)}
        every, chosen = (streamed(made[e], "decode").xreplace(at) for e in ("all", "routed"))
        read = read_in_layers(plain, "decode", STACKS).xreplace(at)
        many = read_in_layers(plain, "decode", STACKS).xreplace({B: Integer(2000)})
        assert chosen < every
        assert float(every - chosen) == pytest.approx(float(many - read), rel=1e-9)
    assert any("all experts of a layer come" in a for a in made["all"].assumptions)
    assert any("tokens of a step choose" in a for a in made["routed"].assumptions)
    # Where each is kept does not change with what comes.
    sizes = {"B": 2, "S": 20, "N": 5}
    assert made["all"].fit(**sizes).farther == made["routed"].fit(**sizes).farther


def test_without_experts_their_option_is_told_to_do_nothing():
    found = cg.compile("llama-3.2-1b", "gh200", "fuse,offload{weights=host,experts=routed}")
    assert any("no router chooses" in line for line in found.undone)
    assert not any("experts" in a for a in found.assumptions)


def test_groups_of_a_batch_bring_the_experts_that_all_of_them_choose():
    one, four = (
        cg.compile("mixtral-8x7b", "gh200", f"fuse,offload{{weights=host,experts=routed{more}}}")
        for more in ("", ",blocks=4")
    )
    at = {B: Integer(8)}
    assert streamed(one, "decode").xreplace(at) == streamed(four, "decode").xreplace(at)


#: Bytes of a row of keys and values of both sequences in one layer of Llama-3.1-8B.
ROW = 2 * 2 * 8 * 128 * 2
#: Of that with eight bits an element and a scale of 16 for each 128.
INT8 = Rational(8 * 128 + 16, 16 * 128)


def crossing(passes: str, model: str = "llama-3.1-8b", past: int = 19_999) -> dict[str, Expr]:
    """Bytes that decode steps behind so many rows bring for two sequences, and that they send."""
    made = cg.compile(model, "h100+epyc-9654", passes, mla="absorbed")
    at = {B: Integer(2), q: Integer(1), T: Integer(past + 1), S: Integer(5000)}
    found = {"read": Integer(0), "write": Integer(0)}
    for graph in made.program.decoding[0].graph.walk():
        for move in (m for n in graph.nodes if isinstance(n.op, Stream) for m in n.op.moved):
            found[move.direction.value] += move.bytes.xreplace(at)
    return found


@pytest.mark.parametrize(
    ("passes", "rows"),
    [
        ("", 19_999),
        ("window{size=60,sinks=4},", 63),
        ("evict{keep=1/4,by=merge},", Rational(19_999, 4)),
        ("evict{keep=1/4,most=100},", 100),
        ("snap-kv{keep=1000},", 15_999),
        ("recur{segment=512},", 19_999 - 512 * (20_000 // 512 - 1)),
        ("quantize{kv=int8},window{size=60,sinks=0},", 59 * INT8),
        ("page-kv,window{size=60,sinks=0},", 59),
    ],
)
def test_what_a_cache_keeps_comes_and_the_new_row_goes(passes, rows):
    """Whether the past, or what stays of it, is told by the rows or by the context."""
    found = crossing(f"{passes}offload{{caches=host}}")
    assert found["read"] == ROW * rows
    assert found["write"] == ROW * (INT8 if "int8" in passes else 1)


def test_chunks_come_as_far_as_they_are_filled():
    """Llama 4: three layers of four attend a chunk of 8,192, of which 3,616 rows are there."""
    found = crossing("offload{caches=host}", "llama-4-scout")
    layer = 2 * 2 * 8 * 128 * 2
    assert found == {"read": layer * (20_000 % 8192 - 1 + 19_999), "write": 2 * layer}


@pytest.mark.parametrize(
    ("passes", "rows", "more"),
    [
        ("select{block=16,blocks=8}", 128, 0),
        ("landmark{block=49,blocks=3}", 4 * 50 * 4, 400 * ROW // 2),  # keys of 400 landmarks
        ("index{top=500,width=64}", 500, 19_999 * 2 * 64 * 2),
        ("knn-memory{local=21,top=9,layer=1}", 0, (2 * 20 * 2 + 19_999 + 4 * 9) * ROW // 2),
    ],
)  # fmt: skip
def test_chosen_rows_come_alone_with_what_they_are_chosen_by(passes, rows, more):
    found = crossing(f"{passes},offload{{caches=host,rows=chosen}}")
    assert found["read"] == rows * ROW + more
    every = crossing(f"{passes},offload{{caches=host}}")
    assert every["read"] >= 19_999 * ROW
    assert every["write"] == found["write"]


def test_latents_of_chosen_rows_come_once_for_scores_and_values():
    found = crossing("offload{caches=host,rows=chosen}", "deepseek-v3.2")
    layer = 2 * 2 * (2048 * 576 + 19_999 * 128)  # sequences, bytes
    assert found["read"] == 2 * layer  # layers of two kinds


def test_rows_are_told_where_they_are_chosen_and_refused_where_nothing_comes():
    device = "h100+epyc-9654"
    for rows, said in (("all", "whichever are chosen"), ("chosen", "choice was foreseen")):
        made = cg.compile("llama-3.2-1b", device, f"select,offload{{caches=host,rows={rows}}}")
        assert any(said in a for a in made.assumptions)
        assert any("stays on the device" in a for a in made.assumptions)
    plain = cg.compile("llama-3.2-1b", device, "offload{caches=host,rows=chosen}")
    assert any("no layer chooses among the rows" in u for u in plain.undone)
    for wrong in ("weights=host", "caches=host,attention=host"):
        with pytest.raises(PipelineError, match="rows says which rows of caches come"):
            cg.compile("llama-3.2-1b", device, f"offload{{{wrong},rows=chosen}}")


def test_what_is_said_where_caches_do_not_lie_in_layers_is_true():
    """One memory for all layers stays, and that is why; nothing is said of growing."""
    model = "llama-3.2-1b"
    fed = cg.compile(model, "h100", "feedback,offload{caches=host}")
    assert any("lie outside of layers, for all of them, stay" in line for line in fed.undone)
    none = cg.compile("bert-base-uncased", "h100", "offload{caches=host}")
    assert any("no layer attends to a cache that grows" in line for line in none.undone)
    many = "caches that several layers read come once a step"
    for passes, shared in (("", False), ("share-kv,", True), ("share-kv{by=half},", True)):
        made = cg.compile(model, "h100", f"{passes}offload{{caches=host}}")
        assert any(many in line for line in made.assumptions) == shared
