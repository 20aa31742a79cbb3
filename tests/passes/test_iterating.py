"""Whole sequences refined in iterations: denoising, refining, Jacobi."""

from __future__ import annotations

import random

import pytest
from sympy import Integer, Rational

import costgraph as cg
from costgraph.errors import CostgraphError, PipelineError
from costgraph.passes.iterating.cycles import fast_steps, slow_steps
from costgraph.symbols import K, N, S, T, q

ANSWER = {"B": 1, "S": 900, "N": 256, "K": 256}


def at(formula, **values):
    names = {s.name for s in formula.symbols}
    return formula.evaluate(**{k: v for k, v in values.items() if k in names})


# --- flows

#: Iterations of all blocks but the first, milliseconds of a sequential step and of an
#: iteration, other seconds, patches, totals printed and speed-ups (arXiv 2505.24791).
MEASURED = {
    "CIFAR-10": ("n53.9|4.9|4.0|3.0|6.1", 5.69, 12.8, 0.27, "tarflow-cifar", 2.69, 3.6, 1.08, 2.4),
    "CIFAR-100": ("n7.5|4.7|4.0|4.0|5.2", 5.92, 13.1, 0.15, "tarflow-cifar", 2.02, 4.5, 0.15, 2.9),
    "AFHQ": ("n6.6|6.0|5.2|5.0|5.9|4.5|4.0", 21.11, 387.6, 5.35, "tarflow-afhq", 41.25, 4.2,
             5.35, 0.8),
}  # fmt: skip


def total(compiled, sequential, jacobi):
    """Seconds of a request whose steps take measured milliseconds."""
    each = {"sequential": sequential, "jacobi": jacobi}
    return sum(float(p.steps) * each[p.name] / 1000 for p in compiled.program.phases)


@pytest.mark.parametrize("data", MEASURED)
def test_two_measured_constants_reproduce_the_published_totals(data):
    each, t1, tj, other, model, printed, speed, base_other, ujd = MEASURED[data]
    plain = cg.compile(model, "l40s")
    made = cg.compile(model, "l40s", f"jacobi{{each={each}}}")
    seconds = total(made, t1, tj) + other
    assert seconds == pytest.approx(printed, rel=0.04)
    before = total(plain, t1, tj) + base_other
    assert before / seconds == pytest.approx(speed, rel=0.04)
    # The two-constant model itself: 3.70, 4.63, 4.30.
    expected = {"CIFAR-10": 3.70, "CIFAR-100": 4.63, "AFHQ": 4.30}[data]
    assert before / seconds == pytest.approx(expected, abs=0.015)
    # Inverting the total without a sequential block, the first one is above the threshold.
    patches = int(plain.program.phases[0].span.upper) + 1
    threshold = (patches - 1) * t1 / tj
    rest = float(made.program.phase("jacobi").steps)
    first = (before / ujd - other) / (tj / 1000) - rest
    assert first > threshold
    iterations = [float(x) for x in each[1:].split("|")]
    assert max(iterations) < threshold


def test_the_threshold_is_a_crossover_of_graph_times():
    plain = cg.compile("tarflow-afhq", "l40s", "fuse")
    all_blocks = cg.compile("tarflow-afhq", "l40s", "fuse,jacobi{iterations=n,sequential=0}")
    ((interval),) = cg.wins(plain.latency, all_blocks.latency, "n", B=16)
    step, whole = plain.time("sequential"), all_blocks.time("jacobi").evaluate(B=16)
    block = sum(step.evaluate(B=16, T=t) for t in range(1, 1024))
    assert float(interval.upper) == pytest.approx(block / whole)
    assert 45 < float(interval.upper) < 65  # 56 with the times that the paper measured


def test_blocks_that_stay_sequential_are_plain():
    plain = cg.compile("tarflow-cifar", "l40s")
    same = cg.compile("tarflow-cifar", "l40s", "jacobi{sequential=6}")
    assert same.program.phases == plain.program.phases
    assert plain.parameters == same.parameters
    with pytest.raises(PipelineError, match="only 6 blocks"):
        cg.compile("tarflow-cifar", "l40s", "jacobi{sequential=7}")
    with pytest.raises(PipelineError, match="2 numbers for 5 blocks"):
        cg.compile("tarflow-cifar", "l40s", "jacobi{each=n1|2}")


@pytest.mark.parametrize(("d", "blocks", "layers", "patch", "patches", "classes", "name"), [
    (256, 6, 6, 2, 256, 0, "tarflow-cifar"), (768, 8, 8, 8, 1024, 3, "tarflow-afhq"),
])  # fmt: skip
def test_flows_have_the_parameters_that_torch_counts(
    d, blocks, layers, patch, patches, classes, name
):
    torch = pytest.importorskip("torch")
    nn, channels = torch.nn, 3 * patch * patch
    with torch.device("meta"):
        norms = [nn.LayerNorm(d), nn.LayerNorm(d)]
        widths = ((d, 3 * d), (d, d), (d, 4 * d), (4 * d, d))
        layer = nn.ModuleList([*norms, *(nn.Linear(*w) for w in widths)])
        ends = nn.ModuleList([nn.Linear(channels, d), nn.Linear(d, 2 * channels)])
        tables = torch.empty(patches + classes, d)
    count = sum(p.numel() for p in layer.parameters()) * layers + tables.numel()
    count += sum(p.numel() for p in ends.parameters())
    assert cg.compile(name, "l40s").parameters == blocks * count


# --- denoising with features kept


@pytest.mark.parametrize(("prompt", "answer", "kp", "kr", "factor"), [
    (900, 256, 25, 2, 5.90), (900, 256, 50, 8, 10.9), (1000, 128, 100, 8, 20.9),
])  # fmt: skip
def test_kept_features_leave_as_many_positions_as_published(prompt, answer, kp, kr, factor):
    plain = cg.compile("llada-8b", "rtx-4090")
    kept = cg.compile("llada-8b", "rtx-4090", f"feature-cache{{prompt={kp},response={kr}}}")
    sizes = {S: Integer(prompt), N: Integer(answer), K: Integer(answer)}
    positions = sum(p.weight * p.bind(q) for p in kept.program.phases).xreplace(sizes) / answer
    expected = prompt / Rational(kp) + answer * (
        Rational(1, kr) + (1 - Rational(1, kr)) * Rational(1, 4)
    )
    assert positions == expected
    assert float((prompt + answer) / positions) == pytest.approx(factor, abs=0.05)
    # The check of values and attention to all positions come on top: a smaller factor.
    point = {"B": 1, "S": prompt, "N": answer, "K": answer}
    work = at(plain.flops, **point) / at(kept.flops, **point)
    assert 0.8 * factor < work < factor
    assert 1 < at(plain.latency, **point) / at(kept.latency, **point) < work
    assert kept.program.generated == N
    # 4·d numbers per position and layer, of two bytes.
    held = at(kept.memory, **point) - at(plain.memory, **point)
    assert held == pytest.approx(4 * (prompt + answer) * 4096 * 32 * 2, rel=0.15)


@pytest.mark.parametrize("steps", [
    "feature-cache{prompt=1,response=1}", "feature-cache{prompt=1,update=1}", "blocks{cache=none}",
])  # fmt: skip
def test_refreshing_everything_is_plain_denoising(steps):
    plain, same = cg.compile("llada-8b", "h100"), cg.compile("llada-8b", "h100", steps)
    assert same.program.phases == plain.program.phases
    assert same.undone


def test_one_token_a_step_is_plain_denoising_in_n_steps():
    plain = cg.compile("llada-8b", "h100")
    for text in ("blocks{cache=none,tokens=1}", "slow-fast{region=1,slow=1,fast=0}"):
        one = cg.compile("llada-8b", "h100", text)
        assert one.latency.expr == plain.latency.expr.xreplace({K: N})


def test_blocks_work_on_what_their_cache_leaves():
    """The sums of every block's steps, written out, for each kind of cache."""
    plain = cg.compile("dream-7b", "h100")
    step = plain.time("denoise")
    size, point = 32, {"B": 2, "S": 100, "N": 96, "K": 48}
    whole = at(step, **point)
    for kind in ("prefix", "dual"):
        made = cg.compile("dream-7b", "h100", f"blocks{{cache={kind},size={size}}}")
        one = made.time("denoise-block")
        opening = at(made.time("denoise"), **point)
        assert opening == pytest.approx(whole, rel=0.05)  # it stores keys and values as well
        blocks, steps = 3, 48 // 3
        seconds = sum(
            opening + (steps - 1) * at(one, **point, block=j) for j in range(1, blocks + 1)
        )
        assert at(made.latency, **point) == pytest.approx(seconds, rel=1e-12)
        assert made.program.generated == N
    made = cg.compile("dream-7b", "h100", f"blocks{{cache=causal,size={size}}}")
    assert [p.name for p in made.program.phases] == ["prompt", "denoise", "keep"]
    assert made.program.phases[1].bind(T) == S + 32 * made.program.phases[1].span.symbol
    orders = [
        at(cg.compile("dream-7b", "h100", f"blocks{{cache={kind}}}").flops, **point)
        for kind in ("causal", "dual", "prefix")
    ]
    assert orders == sorted(orders)
    with pytest.raises(cg.CostgraphError, match="multiple of 32"):
        made.latency.evaluate(B=1, S=10, N=33, K=33)
    with pytest.raises(cg.CostgraphError, match="takes a step at least"):
        made.latency.evaluate(B=1, S=10, N=96, K=2)


# --- cycles


def test_published_speed_ups_of_cycles_agree_with_one_baseline():
    """Throughputs over speed-ups, with and without a cache (arXiv 2506.10848): 1.60 token/s."""
    for speed, factor in ((25.00, 15.63), (48.80, 30.50), (54.75, 34.22)):
        assert speed / factor == pytest.approx(1.60, abs=0.005)
    # As the tool has it, speed-ups of cycles and of a cache multiply the same way.
    texts = ("", "slow-fast", "feature-cache", "slow-fast,feature-cache")
    plain, cycles, kept, both = (
        at(cg.compile("llada-8b", "rtx-4090", t).latency, **ANSWER) for t in texts
    )
    assert plain / both == pytest.approx(plain / cycles * plain / kept)


def test_slow_steps_end_when_one_settles():
    rng, most = random.Random(7), 8
    for settled in (Rational(1, 10), Rational(1, 2), Rational(9, 10)):
        runs = []
        for _ in range(20_000):
            steps = 1
            while steps < most and rng.random() >= settled:
                steps += 1
            runs.append(steps)
        mean = sum(runs) / len(runs)
        assert float(slow_steps(settled, Integer(most))) == pytest.approx(mean, rel=0.02)
    assert slow_steps(Integer(0), Integer(8)) == 8
    assert slow_steps(Integer(1), Integer(8)) == 1


def test_fast_steps_fill_in_what_is_confident():
    rng = random.Random(11)
    for positions, confident in ((1, 0.3), (8, 0.2), (16, 0.5), (16, 0.01), (30, 0.9)):
        runs = []
        for _ in range(4000):
            left, steps = positions, 0
            while left:
                left -= max(1, sum(rng.random() < confident for _ in range(left)))
                steps += 1
            runs.append(steps)
        assert fast_steps(positions, confident)[-1] == pytest.approx(sum(runs) / 4000, rel=0.02)
    assert fast_steps(12, 0.0)[-1] == 12
    assert fast_steps(12, 1.0)[-1] == 1


#: Regions, chances to settle, most slow steps, positions of each, chances to be confident;
#: and what a cycle takes on average, where it was found by hand.
CYCLES = [
    (16, "0.2", 8, 2, "0.85", 5.662), (8, "0.1", 8, 1, "0.5", 7.041), (4, "0.2", 8, 1, "0.5", None),
    (16, "0.9", 8, 1, "0.3", None), (5, "0.3", 4, 3, "0.6", None), (12, "1", 8, 1, "0.4", None),
    (1, "0.5", 8, 1, "0.5", 1), (7, "0.05", 3, 2, "1", None),
]  # fmt: skip


@pytest.mark.parametrize("cycle", CYCLES, ids=str)
def test_cycles_take_what_simulated_ones_take(cycle):
    region, settled, most, each, confident, known = cycle
    rng, runs = random.Random(str(cycle)), []
    for _ in range(12_000):
        left, slow, steps, exploring = region, 0, 0, True
        while left > 0:
            steps += 1
            if exploring:
                left, slow = left - each, slow + 1
                exploring = slow < most and rng.random() >= float(settled)
            else:
                left -= max(1, sum(rng.random() < float(confident) for _ in range(left)))
        runs.append(steps)
    text = f"region={region},settled={settled},most={most},each={each},confident={confident}"
    made = cg.compile("llada-8b", "h100", f"slow-fast{{{text}}}")
    steps = float(made.program.phases[0].weight / N * region)
    assert steps == pytest.approx(sum(runs) / len(runs), rel=0.012)
    if known is not None:
        assert steps == pytest.approx(known, abs=6e-4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slow=20,fast=4,region=16", "24 steps for a region of 16"),
        ("settled=0.2,region=4", "steps for a region of 4: each fills in one"),
        ("region=3", "7 steps for a region of 3"),
        ("region=300", "N = 256 is below 300: a region is no longer than the answer"),
        ("region=r", "a region is no longer|a step fills in one"),
        ("slow=x,region=16", "x|a step fills in one"),
        ("settled=p,region=8,fast=5", "a step fills in one position"),
        ("settled=0.1,most=m,fast=0", "slow steps fill in no more|a step fills"),
    ],
)
def test_regions_fill_and_answers_hold_them(text, words):
    values = {"r": 300, "x": 14, "p": 0.001, "m": 40}

    def seconds():
        formula = cg.compile("llada-8b", "h100", f"slow-fast{{{text}}}").latency
        known = {"B": 1, "S": 100, "N": 256, **values}
        return formula.evaluate(**{s.name: known[s.name] for s in formula.symbols})

    with pytest.raises(CostgraphError, match=words):
        seconds()


def test_cycles_decide_the_number_of_steps():
    made = cg.compile("llada-8b", "h100", "slow-fast{region=16,slow=3,fast=5}")
    assert made.program.phases[0].weight == N / 2
    assert "K" not in {s.name for s in made.latency.symbols}
    with pytest.raises(PipelineError, match="no number K"):
        cg.compile("llada-8b", "h100", "blocks{tokens=2},slow-fast")


def test_a_step_decides_one_token_at_least():
    with pytest.raises(PipelineError, match="one token at least, not 1/2"):
        cg.compile("llada-8b", "h100", "blocks{tokens=0.5}")
    for cache in ("none", "dual"):
        made = cg.compile("llada-8b", "h100", f"blocks{{tokens=m,cache={cache}}}").latency
        with pytest.raises(CostgraphError, match="a step decides one token at least"):
            made.evaluate(B=1, S=64, N=64, m=0.5)


# --- refining


def test_one_iteration_over_one_position_is_the_first_step():
    plain = cg.compile("bart-large", "h100")
    one = cg.compile("bart-large", "h100", "refine{iterations=1}")
    for source in (5, 300):
        point = {"B": 2, "S": source, "N": 1}
        assert at(one.flops, **point) == at(plain.flops, **point)
        assert at(one.latency, **point) == pytest.approx(at(plain.latency, **point))


def test_refining_gains_positions_over_iterations_while_memory_bounds():
    plain = cg.compile("t5-base", "a100-80g")
    encode = at(plain.time("encode"), B=1, S=8)
    for iterations in (1, 4, 10):
        made = cg.compile("t5-base", "a100-80g", f"refine{{iterations={iterations}}}")
        ratios = []
        for n in (16, 64):
            before = at(plain.latency, B=1, S=8, N=n) - encode
            after = at(made.latency, B=1, S=8, N=n) - encode
            ratios.append(before / after * iterations / n)
            assert 0.5 < ratios[-1] <= 1.01


def test_a_length_predictor_and_candidates_are_counted():
    plain = cg.compile("bart-large", "h100", "refine")
    made = cg.compile("bart-large", "h100", "refine{lengths=512}")
    assert made.parameters - plain.parameters == 512 * 1024
    five = cg.compile("bart-large", "h100", "refine{candidates=5}")
    point = {"B": 1, "S": 30, "N": 40}
    step = plain.time("refine")
    larger = at(step, **{**point, "B": 5})
    assert at(five.time("refine"), **point) == pytest.approx(larger, rel=1e-12)
    with pytest.raises(PipelineError, match="no encoder"):
        cg.compile("gpt2", "h100", "refine{lengths=5}")


@pytest.mark.parametrize("text", ["blocks", "feature-cache", "slow-fast", "jacobi"])
@pytest.mark.parametrize("model", ["gpt2", "bert-base", "dit-xl-2", "whisper-tiny"])
def test_other_models_are_refused(model, text):
    with pytest.raises(PipelineError, match=text):
        cg.compile(model, "h100", text)


@pytest.mark.parametrize("model", ["mamba-130m", "gemma-2-2b", "llada-8b", "dit-xl-2"])
def test_what_cannot_be_refined_is_refused(model):
    with pytest.raises(PipelineError, match="refine"):
        cg.compile(model, "h100", "refine")
