"""The pass ``parallel`` against counts by hand, its own degrees, and simulated choices."""

import random
from functools import partial
from itertools import product

import pytest
from sympy import Integer, Rational, expand

import costgraph as cg
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import CostgraphError
from costgraph.hardware import load_system
from costgraph.hardware.links import Hop, least
from costgraph.hardware.machine import Engine
from costgraph.ir.regions import Region
from costgraph.ir.tensor import Role
from costgraph.ops.experts import Routing
from costgraph.passes.parallel.experts import distinct_ranks, fullest, share
from costgraph.symbols import B, S, T

ONE = Integer(1)
DEGREES = ("tp", "pp", "dp", "ep", "cp", "micro")


def leaves(graph, path=""):
    for node in graph.nodes:
        if isinstance(node.op, Region):
            for inner in node.op.graphs:
                yield from leaves(inner, f"{path}{node.name}/")
        else:
            yield f"{path}{node.name}", node, graph


def exchanged(graph):
    """Bytes and steps on each link in one run of every operation, by its name."""
    found = {}
    for name, node, where in leaves(graph):
        sent = node.op.messages(where.operands(node), node.outputs)
        if sent:
            found[name] = sent
    return found


# --- degrees of one, symbols ------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-3.2-1b", "deepseek-v2-lite", "mamba-130m", "t5-small"])
def test_degrees_of_one_give_the_same_program(name):
    ones = ",".join(f"{d}=1" for d in DEGREES)
    plain, made = cg.compile(name, "h100"), cg.compile(name, "h100", f"parallel{{{ones}}}")
    assert made.program.phases == plain.program.phases
    for metric in plain.metrics:
        assert getattr(made, metric).expr == getattr(plain, metric).expr
    assert any("every degree is one" in m.reason for m in made.trace.misses)


CASES = [
    ("llama-3-70b", "8xh100", "parallel{tp=p}", {"p": (2, 4, 8)}),
    ("llama-3-70b", "8xh100", "fuse,parallel{tp=p,sequence=true}", {"p": (2, 8)}),
    ("llama-3-70b", "8xh100", "fuse,parallel{tp=p,dp=r}", {"p": (2, 4), "r": (2,)}),
    ("llama-3-70b", "8xh100", "fuse,parallel{cp=p}", {"p": (2, 8)}),
    ("deepseek-v3", "8xh200", "fuse,parallel{ep=p}", {"p": (2, 8)}),
    ("jamba-v0.1", "8xh100", "parallel{tp=p}", {"p": (2, 8)}),
]


@pytest.mark.parametrize(("model", "system", "passes", "degrees"), CASES)
def test_symbols_for_degrees_mean_the_numbers(model, system, passes, degrees):
    made = cg.compile(model, system, passes)
    for values in product(*degrees.values()):
        given = dict(zip(degrees, values, strict=True))
        text = passes
        for symbol, value in given.items():
            text = text.replace(f"={symbol}", f"={value}")
        count = 1
        for value in given.values():
            count *= value
        device = system.partition("x")[2]
        numbers = cg.compile(model, f"{count}x{device}", text)
        for metric, at in (
            ("tpot", {"B": 16, "T": 3000}),
            ("ttft", {"B": 8, "S": 700}),
            ("memory", {"B": 16, "S": 700, "N": 50}),
        ):
            left = getattr(made, metric).evaluate(**at, **given)
            assert left == pytest.approx(getattr(numbers, metric).evaluate(**at), rel=1e-12)


@pytest.mark.parametrize(
    ("model", "system", "passes", "taken"),
    [
        ("llama-3-8b", "4xh100", "fuse,parallel{tp=p}", (1, 2, 4)),
        ("llama-3-8b", "8xmi300x", "parallel{tp=p}", (2, 4, 8)),
        ("qwen2-7b", "8xh100", "parallel{tp=p}", (1, 2, 4)),  # 28 heads
        ("gpt2", "8xh100", "parallel{tp=p}", (1, 2, 4)),  # 12 heads
        ("llama-3-8b", "4xh100", "parallel{cp=p}", (1, 2, 4)),
        ("llama-3-8b", "4xh100", "parallel{dp=p}", (1, 2, 3, 4)),
        ("llama-3-8b", "8xh100", "parallel{tp=2,dp=p}", (1, 2, 3, 4)),
        ("mixtral-8x7b", "8xh100", "fuse,parallel{ep=p}", (1, 2, 4, 8)),
        ("mixtral-8x7b", "8xh100", "parallel{tp=p,ep=p}", (1, 2, 4, 8)),
        ("llama-3-8b", "4xh100", "parallel{pp=4,micro=p}", (*range(1, 17), 20)),
    ],
)
def test_symbols_stand_for_degrees_that_numbers_may_be(model, system, passes, taken):
    """And for none that would mean another program: evaluated, bound, over arrays, in sweeps."""
    made = cg.compile(model, system, passes)
    tried = (0.5, 1, 1.5, 2, 2.5, *range(3, 17), 20)
    found, at = [], {"B": 64, "T": 90}
    for p in tried:
        try:
            value = made.tpot.evaluate(p=p, **at)
        except CostgraphError:
            for asked in (made.tpot.bind, partial(made.tpot.evaluate, **at)):
                with pytest.raises(CostgraphError) as caught:
                    asked(p=p if asked == made.tpot.bind else [2, p])
                assert "\n" not in str(caught.value)
        else:
            found.append(p)
            assert made.tpot.bind(p=p).evaluate(**at) == pytest.approx(value, rel=1e-12)
    assert tuple(found) == taken
    swept = cg.sweep(model, system, passes, metrics=["tpot"], p=list(tried), **at)
    kept = ~swept.tpot.isnull()
    assert tuple(swept.p.values[kept.values]) == taken
    assert "points left empty" in swept.attrs["errors"]


@pytest.mark.parametrize("exchange", ["tp", "ep", "cp"])
def test_a_symbol_of_one_is_close_to_no_degree_and_says_so(exchange):
    made = cg.compile("mixtral-8x7b", "8xh100", f"fuse,parallel{{{exchange}=p}}")
    alone = cg.compile("mixtral-8x7b", "h100", "fuse")
    at = {"B": 4, "T": 1000}
    assert made.tpot.evaluate(p=1, **at) == pytest.approx(alone.tpot.evaluate(**at), rel=0.01)
    assert any("at p = 1 the reads and writes of exchanges" in a for a in made.assumptions)
    assert made.setting.cautions == ("p of the 8 devices of 8xh100 run the model, any others idle",)


def test_solving_for_a_degree_that_stands_apart_is_refused():
    tpot = cg.compile("llama-3-8b", "8xh100", "fuse,parallel{tp=p}").tpot
    with pytest.raises(CostgraphError, match="evaluate at each: p must be 1, 2, 4 or 8"):
        tpot.solve_for("p", 0.002, B=1, T=1000)


def test_stages_of_one_group_say_so():
    one = cg.compile("llama-3-8b", "4xh100", "parallel{pp=4}").assumptions
    more = cg.compile("llama-3-8b", "4xh100", "parallel{pp=4,micro=4}").assumptions
    assert any("one group (micro=1)" in text for text in one)
    assert not any("micro=1" in text for text in more)


# --- exchanges by hand -------------------------------------------------------------


def test_exchanges_of_a_dense_model_are_those_of_the_paper():
    """Two all-reduces of the hidden state a layer; one after the embedding; logits gathered."""
    made = cg.compile("llama-3-70b", "8xh100", "parallel{tp=8}")
    sent = exchanged(made.program.phases[1].graph)
    assert list(sent) == [
        "embed_sum", "layers/o_proj_sum", "layers/down_proj_sum", "lm_head_all",
    ]  # fmt: skip
    hidden = B * 8192 * 2
    for name in list(sent)[:3]:
        messages = sent[name]["nvlink"]
        decode = made.program.phases[1].bind(messages.wire)
        # In the switch a buffer goes up once and comes down once.
        assert expand(decode - least("all-reduce", hidden, Integer(8), True).wire) == 0
    logits = made.program.phases[1].bind(sent["lm_head_all"]["nvlink"].wire)
    assert expand(logits - B * 128256 * 2 * Rational(7, 8)) == 0


def test_sequence_parallelism_moves_no_more_bytes_than_rings_of_all_reduces():
    """All-gather and reduce-scatter carry what a ring's all-reduce does, on a link without sums."""
    system = "4xrtx-4090"
    plain = cg.compile("llama-2-13b", system, "parallel{tp=4}")
    split = cg.compile("llama-2-13b", system, "parallel{tp=4,sequence=true}")

    def wire(made):
        phase = made.program.phases[0]
        inside = [(n, m) for n, m in exchanged(phase.graph).items() if "layers" in n]
        return expand(phase.bind(sum(x.wire for _, m in inside for x in m.values())))

    assert wire(plain) == wire(split)
    # What lies between products is in parts: activations, and the work of norms and sums.
    assert split.memory.evaluate(B=1, S=4000, N=2) < plain.memory.evaluate(B=1, S=4000, N=2)
    assert split.flops.evaluate(B=1, S=999, N=2) < plain.flops.evaluate(B=1, S=999, N=2)


def test_heads_fewer_than_devices_are_held_by_several():
    """llama-3-70b has 8 heads of keys: on 16 devices two hold the same one."""
    made = cg.compile("llama-3-70b", "2x8xh100", "parallel{tp=16}")
    whole = cg.compile("llama-3-70b", "h100")
    tensors = {n.name: n for _, n, _ in leaves(made.program.phases[1].graph)}
    assert tensors["k_proj"].outputs[0].shape[2] == 1
    assert tensors["q_proj"].outputs[0].shape[2] == 4
    cache = {"B": 1, "S": 1000, "N": 100}
    parts = [cache_bytes(c.program.phases[1].graph) for c in (made, whole)]
    assert parts[0] * 16 == parts[1] * 2
    held = [m.reason for m in made.trace.misses if m.node == "layers/k_proj"]
    assert held == ["2,048 rows instead of 1,024: fewer heads than devices, so some hold the same"]
    assert made.memory.evaluate(**cache) > whole.memory.evaluate(**cache) / 16


def test_latent_caches_are_on_every_device():
    made = cg.compile("deepseek-v3", "8xh200", "parallel{tp=8}").program.phases[1].graph
    whole = cg.compile("deepseek-v3", "h200").program.phases[1].graph
    caches = [
        {n.name: n.outputs[0].shape for _, n, _ in leaves(g) if n.op.kind == "kv-append"}
        for g in (made, whole)
    ]
    assert caches[0] == caches[1]


@pytest.mark.parametrize("model", ["deepseek-v3", "kimi-k2", "qwen3-235b-a22b", "gpt-oss-20b"])
def test_formats_change_nothing_of_what_is_split(model):
    """An operation that stores a tensor narrow says nothing about who has which part of it."""
    plain, *narrow = (
        cg.compile(model, "2xh200", f"{formats}parallel{{tp=2}}").program.phases[0].graph
        for formats in ("", "quantize{preset=fp8,kv=fp8},", "quantize{preset=w8a8},")
    )
    for made in narrow:
        assert exchanged(made).keys() == exchanged(plain).keys()


def test_a_group_over_nodes_sums_within_them_first():
    """Of n bytes 2n·7/8 within a node (n in its switch), and of an eighth 2·n/8·1/2 across."""
    sent = exchanged(cg.compile("llama-3-70b", "2x8xh100", "parallel{tp=16}").program.graph)
    found = sent["layers/o_proj_sum"]
    assert set(found) == {"nvlink", "network"}
    network = least("all-reduce", ONE, Integer(2))
    ratio = found["network"].wire / found["nvlink"].wire
    inside = least("all-reduce", ONE, Integer(8), True).wire
    assert ratio.equals(network.wire / 8 / inside)


# --- positions -----------------------------------------------------------------------


@pytest.mark.parametrize("model", ["llama-3-8b", "gemma-2-9b", "deepseek-v2-lite"])
def test_parts_of_a_prompt_share_its_work(model):
    """Products with weights and pairs of attention are shared evenly by positions."""
    whole = cg.compile(model, "h100").program.phases[0]
    part = cg.compile(model, "4xh100", "parallel{cp=4}").program.phases[0]
    before = {n: (x, g) for n, x, g in leaves(whole.graph)}
    at = {B: Integer(3), S: Integer(4000)}
    shared = 0
    for name, node, graph in leaves(part.graph):
        if name not in before or node.op.kind not in ("linear", "qk-matmul", "sv-matmul"):
            continue
        other, where = before[name]
        work = [
            p.bind(sum(n.op.work(g.operands(n), n.outputs).values())).xreplace(at)
            for p, n, g in ((part, node, graph), (whole, other, where))
        ]
        if name.endswith("lm_head") or name.endswith(("k_up", "v_up")):
            continue  # of the last position; of what is gathered
        assert work[0] * 4 == work[1], name
        shared += 1
    assert shared > 4


def test_parts_of_a_cache_share_its_attention():
    whole = cg.compile("llama-3-8b", "h100", "fuse").program.phases[1]
    made = cg.compile("llama-3-8b", "4xh100", "fuse,parallel{cp=4}")
    part = made.program.phases[1]
    found = {n: x for n, x, _ in leaves(part.graph)}
    attention = found["layers/attention"]
    assert attention.op.kind == "flash-attention"
    keys = part.graph.node("layers").op.body.operands(attention)[1]
    assert keys.shape[1] == T / 4
    assert found["layers/sv_matmul_sum"].op.kind == "merge-attention"
    # A long context: a quarter of the cache on each device, weights on all.
    caches = {"B": 8, "S": 8000, "N": 2}
    one = cg.compile("llama-3-8b", "h100", "fuse").memory.evaluate(**caches)
    weights = 2 * int(cg.compile("llama-3-8b", "h100").parameters)
    assert made.memory.evaluate(**caches) - weights < (one - weights) / 3.9
    del whole


# --- stages and replicas ---------------------------------------------------------------


def test_stages_add_up_to_a_step_and_the_slowest_is_the_interval():
    made = cg.compile("llama-3-70b", "4xh100", "parallel{pp=4}")
    one = cg.compile("llama-3-70b", "h100")
    at = {"B": 4, "T": 2000}
    step, alone = made.tpot.evaluate(**at), one.tpot.evaluate(**at)
    sends = 3 * (4 * 8192 * 2 / 450e9)
    assert step == pytest.approx(alone + sends, rel=2e-3)
    assert alone / 4 < made.interval.evaluate(**at) < step / 3.5


@pytest.mark.parametrize("micro", [1, 2, 4, 8, 32])
def test_the_bubble_of_a_prompt_is_that_of_equal_stages(micro):
    """A prompt in m groups over p stages: (m + p − 1)/m of the busiest stage's time."""
    made = cg.compile("llama-2-70b", "4xh100", f"parallel{{pp=4,micro={micro}}}")
    at = {"B": 32, "S": 2048}
    stages = [n for n in dict.fromkeys(n.unit for n in made.program.graph.nodes) if " to " not in n]
    assert len(stages) == 4
    busy = made.program.phases[0]
    one_group = made.ttft.evaluate(**at)
    ideal = cg.compile("llama-2-70b", "h100").ttft.evaluate(**at)
    bubble = (micro + 3) / micro
    # Stages differ a little (20 layers each, one with the embedding, one with the output).
    assert one_group == pytest.approx(ideal / 4 * bubble, rel=0.03)
    assert busy.rounds == micro


def test_replicas_share_the_batch_and_nothing_else():
    one = cg.compile("llama-3-8b", "h100")
    both = cg.compile("llama-3-8b", "2xh100", "parallel{dp=2}")
    assert both.tpot.evaluate(B=8, T=999) == one.tpot.evaluate(B=4, T=999)
    step = both.breakdown("decode", B=9, T=999)  # of the batch that was asked for
    assert step.bindings == {"B": 9, "q": 1, "T": 999}
    assert both.memory.evaluate(B=8, S=9, N=9) == one.memory.evaluate(B=4, S=9, N=9)
    assert both.throughput.evaluate(B=8, S=9, N=9) == pytest.approx(
        2 * one.throughput.evaluate(B=4, S=9, N=9)
    )
    # FLOP, bytes, energy and money are those of all devices.
    for metric in ("flops", "bytes"):
        assert getattr(both, metric).evaluate(B=8, S=9, N=9) == 2 * getattr(one, metric).evaluate(
            B=4, S=9, N=9
        )
    assert both.energy.evaluate(B=8, S=9, N=9) == pytest.approx(
        2 * one.energy.evaluate(B=4, S=9, N=9)
    )


@pytest.mark.parametrize("degrees", ["tp=8", "tp=4,pp=2", "tp=2,pp=4", "pp=8", "tp=2,dp=4"])
def test_memory_of_all_devices_covers_the_model(degrees):
    made = cg.compile("llama-3-70b", "8xh100", f"parallel{{{degrees}}}")
    held = made.memory.evaluate(B=8, S=100, N=10)
    assert 8 * held >= 2 * int(cg.compile("llama-3-70b", "h100").parameters)


# --- refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "system", "passes", "words"),
    [
        ("llama-3-70b", "8xh100", "parallel{tp=16}", "8xh100 has 8 devices.*16.*--on 2x8xh100$"),
        ("llama-3-70b", "8xh100", "parallel{tp=4}", "use 4 of the 8 devices.*dp=2 more would use"),
        ("llama-3-70b", "8xh100", "parallel{tp=3}", "use 3 of the 8 devices.*use 8 in all"),
        ("llama-3-70b", "h100", "parallel{tp=2}", "h100 has 1 device.*--on 2xh100"),
        ("qwen2-7b", "8xh100", "parallel{tp=8}", "28 do not divide by 8.*nearest.*: 4"),
        ("mixtral-8x7b", "8xh100", "parallel{tp=2,dp=4,ep=4}", "ep=4.*tp·dp = 8.*give ep=8"),
        ("llama-3-8b", "4xh100", "parallel{pp=33}", "not the 33 .* multiply to: use 4 in all$"),
        ("mixtral-8x7b", "3xh100", "parallel{ep=3}", "8 do not divide by 3.*that do: 2 and 4$"),
        (
            "mixtral-8x7b",
            "3xh100",
            "parallel{ep=3,tp=3}",
            "8 do not divide by 3.*that do: 2 and 4$",
        ),
        ("mixtral-8x7b", "2x8xh100", "parallel{ep=16}", "8 do not divide by 16.*that do: 8$"),
        ("mixtral-8x7b", "8xh100", "parallel{ep=4}", "use 4 of the 8 .*: ep=8 would use all$"),
        ("llama-3-70b", "8xh100", "parallel{ep=8}", "has no experts to share: give dp=8$"),
        ("llama-3-70b", "8xh100", "parallel{ep=e}", "has no experts to share: give dp=e$"),
        ("llama-3-70b", "8xh100", "parallel{tp=8,ep=8}", "no experts to share: leave ep out$"),
        ("llama-3-70b", "4xh100", "parallel{pp=4,sequence=true}", "and there is one: give tp$"),
        ("llama-3-70b", "8xh100", "parallel{tp=B}", "tp: B means something else .batch"),
        ("llama-3-70b", "8xh100", "parallel{tp=8,micro=L}", "micro: L means something else"),
        ("llama-3-70b", "8xh100", "parallel{pp=8,micro=x}", None),
        ("llama-3-70b", "8xh100", "parallel{tp=8,micro=2}", "there is one: give pp"),
        ("llama-3-70b", "8xh100", "parallel{pp=p}", "stages is a number, not a symbol"),
        ("llama-3-70b", "8xh100", "parallel{tp=p,pp=2}", "other degrees are numbers, not p"),
        ("llama-3.2-1b", "4x8xh100", "parallel{pp=32}", "16 layers: not enough for 32 stages"),
        (
            "gpt2",
            "2xh100",
            "retrieve{documents=1000},parallel{pp=2}",
            "gpt2 retrieval has no layers to deal out to 2 stages: .* goes with tp or dp, not",
        ),
        ("resnet-50", "8xh100", "parallel{tp=8}", "convolutions hold 92% .* share the batch"),
        (
            "mamba-130m",
            "2xh100",
            "parallel{cp=2}",
            "positions .* cannot .*: conv1d .* channels only",
        ),
        ("llama-3-70b", "8xh100", "parallel{tp=8,load=busiest}", "share experts: give ep"),
        ("llama-3-70b", "8xh100", "parallel{tp=8},parallel{tp=8}", "among devices already"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(model, system, passes, words):
    if words is None:
        assert cg.compile(model, system, passes).tpot.evaluate(B=8, T=9, x=2) > 0
        return
    with pytest.raises(CostgraphError, match=words) as caught:
        cg.compile(model, system, passes)
    assert "\n" not in str(caught.value)


# --- experts ------------------------------------------------------------------------------


@pytest.mark.parametrize(("experts", "chosen", "ranks"), [(8, 2, 4), (16, 4, 4), (64, 6, 8)])
def test_a_token_reaches_as_many_devices_as_simulated(experts, chosen, ranks):
    rng, per = random.Random(1), experts // ranks
    draws = [len({e // per for e in rng.sample(range(experts), chosen)}) for _ in range(40_000)]
    expected = distinct_ranks(Integer(experts), Integer(chosen), Integer(ranks))
    assert sum(draws) / len(draws) == pytest.approx(float(expected), rel=0.01)


@pytest.mark.parametrize(("experts", "chosen", "ranks"), [(8, 2, 4), (64, 6, 8), (256, 8, 16)])
@pytest.mark.parametrize("tokens", [1, 4, 32, 256])
def test_the_busiest_device_has_at_most_the_stated_rows(experts, chosen, ranks, tokens):
    """Bounds of the expected maximum, against simulated choices; not far above them."""
    rng, per = random.Random(2), experts // ranks
    totals = []
    for _ in range(400):
        load = [0] * ranks
        for _ in range(tokens):
            for e in rng.sample(range(experts), chosen):
                load[e // per] += 1
        totals.append(max(load))
    mean = sum(totals) / len(totals)
    held = share(
        Routing(), Integer(experts), Integer(chosen), (Integer(ranks),), tokens=Integer(tokens)
    )
    bound = float(held.chosen) * tokens
    assert mean <= bound * 1.02
    assert bound <= 2.2 * mean
    assert bound >= tokens * chosen / ranks


def test_the_busiest_device_of_a_skewed_model_has_the_popular_experts():
    zipf = Routing(zipf=ONE)
    held = share(zipf, Integer(8), Integer(2), (Integer(4),))
    chances = zipf.shares(Integer(8), Integer(2))
    assert held.chosen == chances[0] + chances[1]
    assert held.chosen > Rational(2, 4)
    assert fullest(held.chosen, ONE, Integer(2), Integer(10), Integer(4)) > held.chosen


def test_dispatch_sends_a_row_once_to_every_node_and_device_of_its_experts():
    made = cg.compile("deepseek-v3", "2x8xh200", "parallel{ep=16}", quantization="ignore")
    phase = made.program.phases[1]
    sent = exchanged(phase.graph)
    (links,) = (m for n, m in sent.items() if n.endswith("_dispatch"))
    nodes, devices = (
        distinct_ranks(Integer(256), Integer(8), Integer(n)) * Rational(n - 1, n) for n in (2, 16)
    )
    row = B / 16 * 7168 * 2
    assert expand(phase.bind(links["network"].wire) - row * nodes) == 0
    assert expand(phase.bind(links["nvlink"].wire) - row * (devices - nodes)) == 0


@pytest.mark.parametrize("levels", [(4,), (2, 2), (4, 2), (2, 2, 2)])
def test_rows_on_each_level_are_those_of_simulated_choices(levels):
    """Senders anywhere; a row lands in each other group on a device that needs it."""
    rng, experts, chosen = random.Random(5), 16, 4
    ranks = 1
    for n in levels:
        ranks *= n
    totals, trials = [0] * len(levels), 20_000
    for _ in range(trials):
        sender = rng.randrange(ranks)
        targets = {e * ranks // experts for e in rng.sample(range(experts), chosen)}
        size = 1
        for level, n in enumerate(levels):
            # Groups of this level that need the row, in the same group of the level outside.
            mine, outside = sender // size, size * n
            for outer in {t // outside for t in targets}:
                met = {t // size for t in targets if t // outside == outer}
                landed = 1 if outer != sender // outside else int(mine in met)
                totals[level] += len(met) - landed
            size = outside
    held = share(Routing(), Integer(experts), Integer(chosen), tuple(map(Integer, levels)))
    for total, sends in zip(totals, held.sends, strict=True):
        assert total / trials == pytest.approx(float(sends), rel=0.03)


def test_overlap_is_between_the_slower_part_and_both():
    at = {"B": 16, "S": 1000}
    for passes in ("parallel{tp=8}", "fuse,parallel{tp=8}"):
        plain = cg.compile("llama-3-70b", "8xh100", passes).ttft.evaluate(**at)
        free = cg.compile("llama-3-70b", "8xh100", f"{passes},overlap").ttft.evaluate(**at)
        halves = cg.compile("llama-3-70b", "8xh100", f"{passes},overlap{{by=halves}}")
        assert free < plain
        assert plain / 2 < halves.ttft.evaluate(**at) < plain
        assert halves.parameters == cg.compile("llama-3-70b", "8xh100", passes).parameters


def test_overlap_without_exchanges_says_so():
    made = cg.compile("llama-3-8b", "h100", "overlap")
    assert any("nothing is exchanged" in m.reason for m in made.trace.misses)
    assert made.tpot.expr == cg.compile("llama-3-8b", "h100").tpot.expr


def test_a_link_of_a_hop_is_used_as_far_as_a_ring_can():
    system = load_system("tpu-v5e-4x4")
    (hop,) = system.hops(Integer(16))
    assert isinstance(hop, Hop)
    made = cg.compile("llama-2-13b", "tpu-v5e-4x4", "parallel{tp=8,dp=2}")
    assert made.tpot.evaluate(B=16, T=100) > 0


# --- results that are stored narrow as they are made ------------------------------------------


@pytest.mark.parametrize("fuse", ["", "fuse,"])
@pytest.mark.parametrize(
    ("name", "on", "passes"),
    [
        ("llama-3.2-1b", "2xh100", "parallel{tp=2}"),
        ("llama-3.2-1b", "8xh100", "parallel{tp=8}"),
        ("llama-3.1-8b", "2x8xh100", "parallel{tp=16}"),
        ("opt-125m", "2xh100", "parallel{tp=2}"),
        ("gemma-2-9b", "4xh100", "parallel{tp=4,sequence=true}"),
        ("deepseek-v2-lite", "2xh100", "parallel{tp=2}"),
    ],
)
def test_static_scales_split_what_scales_found_at_run_time_split(name, on, passes, fuse):
    """Weights, caches, messages and FLOP of matrix products are the same on a device."""

    def counted(dynamic):
        narrow = f"quantize{{preset=w8a8,dynamic={dynamic}}}"
        made = cg.compile(name, on, f"{fuse}{narrow},{passes}")
        step = made.program.phase("decode").graph
        sent = {k.rpartition("/")[2]: v for k, v in exchanged(step).items()}
        cost = step.cost
        products = {k: v for k, v in cost.flops.items() if k[0] is Engine.TENSOR}
        weights = cost.bytes_of(Role.WEIGHT)
        return cache_bytes(step), cost.bytes_of(Role.KV), weights, products, sent

    static, dynamic = counted("false"), counted("true")
    assert static[:4] == dynamic[:4]
    assert len(static[4]) == len(dynamic[4]) > 0


def test_parts_that_devices_add_up_are_not_stored_narrow_before():
    words = "stored narrow as it is made, and devices would add up parts of it"
    with pytest.raises(CostgraphError, match=words):
        cg.compile("llama-3.2-1b", "2xh100", "quantize{preset=w8a8,dynamic=false},parallel{cp=2}")
