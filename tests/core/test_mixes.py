"""Steps of mixed work: what a mix costs, against its parts and against whole prompts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from sympy import Add, Integer

import costgraph as cg
from costgraph.compiling.mixing import mixed_step, step_cost, step_items
from costgraph.counting.count import flat
from costgraph.counting.mixed import looks_back
from costgraph.errors import InputError, MissingRuleError
from costgraph.ir.cost import Direction
from costgraph.ir.mix import Mix
from costgraph.ir.tensor import Role
from costgraph.symbols import B, T, q, symbol

MODELS = sorted(p.stem for p in (Path(__file__).parents[2] / "models" / "configs").glob("*.json"))
MIX = Mix.of((3, 1, 700), (2, 1, 90), (1, 256, 256), (2, 128, 640))
#: Several tokens a step, or sizes that groups cannot tell: refused in one line.
REFUSED = {
    "bart-large", "flan-t5-xl", "long-t5-tglobal-base", "t5-base", "t5-small", "tarflow-afhq",
    "tarflow-cifar",
    "whisper-large-v3", "whisper-small", "whisper-tiny",
}  # fmt: skip


@cache
def compiled(model, passes=""):
    return cg.compile(model, "h100", passes)


def generating():
    return [m for m in MODELS if compiled(m).program.decoding]


@pytest.mark.slow
def test_a_mix_is_the_sum_of_its_parts_less_the_weights_read_once():
    """To the integer, on all shipped models that generate; weights by another way.

    What is made of weights alone (gates of Llama 3.2 Vision) runs once a step as well.
    Operations on tokens alone read as many weights as one batch of equal sequences with as
    many tokens and sequences does, at the graph's own symbols.
    """
    seen = 0
    for name in generating():
        made = compiled(name)
        if name in REFUSED:
            with pytest.raises(InputError, match="step"):
                step_cost(made, MIX)
            continue
        whole = step_cost(made, MIX)
        parts = [step_cost(made, Mix((g,))) for g in MIX.groups]
        for role in Role:
            if role is not Role.WEIGHT:
                each = Add(*(p.bytes_of(role=role) for p in parts))
                none = {B: Integer(0), q: Integer(0)}
                alone = (
                    r.count * r.cost.bytes_of(role=role).xreplace(none) for r in made.rows["decode"]
                )
                # A table of distances is as long as its group's context: each has its own.
                once = Add(*(amount for amount in alone if not amount.has(T)))
                again = (len(MIX.groups) - 1) * once
                assert whole.bytes_of(role=role) == each - again, (name, role)
        equal = {B: MIX.sequences, q: MIX.tokens / MIX.sequences}
        found = flat(step_items(made, MIX))
        # Of what looks at tokens alone, only forms that decode steps have not run apart.
        apart = {r.name for r in found if r.name.startswith("prompt.") and not looks_back(r)}
        weighty = {r.name for r in found if r.cost.bytes_of(role=Role.WEIGHT) != 0} & apart
        ends = {r.rpartition(".")[2] for r in weighty}
        assert ends <= {"k_up", "v_up", "softmax", "scan", "delta"}, name
        for row in found:
            if looks_back(row) or row.name.startswith("prompt."):
                continue
            original = next(r for r in made.rows["decode"] if r.name == row.name)
            read = original.cost.bytes_of(role=Role.WEIGHT)
            if looks_back(original) or read.xreplace({q: 1 / B}).has(B):
                continue  # a table of positions: rows of each length
            wanted = original.cost.bytes_of(role=Role.WEIGHT).xreplace(equal)
            assert row.cost.bytes_of(role=Role.WEIGHT) == wanted, (name, row.name)
        read = whole.bytes_of(role=Role.WEIGHT)
        most = max(p.bytes_of(role=Role.WEIGHT) for p in parts)
        assert most <= read < Add(*(p.bytes_of(role=Role.WEIGHT) for p in parts))
        seen += 1
    assert seen > 80


def test_matrices_that_meet_earlier_positions_are_read_once_for_all_groups():
    """A memory of states is projected anew in each step, for all groups in one product.

    Blocks of earlier rows become one by two matrices (NSA). Rows are each group's own.
    """
    for model, passes, names in (
        ("transfo-xl-wt103", "", {"k_proj", "v_proj", "r_proj"}),
        ("llama-3.2-1b", "nsa", {"nsa_k_compress", "nsa_v_compress"}),
    ):
        made = compiled(model, passes)
        found = [r for r in flat(step_items(made, MIX)) if r.name.rpartition(".")[2] in names]
        apart = [{r.name: r for r in flat(step_items(made, Mix((g,))))} for g in MIX.groups]
        assert {r.name.rpartition(".")[2] for r in found} == names
        assert not any(r.name.startswith("prompt.") for r in found)
        for row in found:
            each = [rows[row.name].cost for rows in apart]
            (weights,) = {c.bytes_of(role=Role.WEIGHT) for c in each}
            assert row.cost.bytes_of(role=Role.WEIGHT) == weights
            assert row.cost.total_flops == Add(*(c.total_flops for c in each))


#: Amounts that do not add up chunk by chunk, and why.
LATENT = "caches of latent attention are expanded for every chunk"
EXPERTS = "each chunk touches experts of its own"
CAPPED = "scores that are capped are a rectangle, smaller for chunks"
WINDOWS = dict.fromkeys(("written", "read"), "windows are shorter than a chunk")
BIASES = {"flops": "biases of experts are added where these are touched"}
QUANTIZED = {"written": "cached latents are narrowed again before they are expanded"}
ELSEWHERE = {
    **dict.fromkeys(("deepseek-r1", "deepseek-v3", "deepseek-v3.2"), QUANTIZED),
    **{name: {"flops": CAPPED} for name in ("gemma-2-2b", "gemma-2-9b")},
    **dict.fromkeys(("gpt-oss-20b", "gpt-oss-120b"), WINDOWS | BIASES),
    "llama-3.2-11b-vision": {"read": "layers that look at the image read its rows"},
    "mimo-v2-flash": WINDOWS,
    "transfo-xl-wt103": {"flops": "distances and states are projected"},
}  # fmt: skip


@pytest.mark.slow
def test_chunks_of_a_prompt_are_the_prompt_and_the_caches_read_again():
    """On all shipped models that generate, to the integer.

    What a chunk has beside its tokens: weights, and the logits of its last position. Where an
    amount is other, it is known why, and it is other.
    """
    S, C, seen = 512, 256, 0
    for name in generating():
        if name in REFUSED:
            continue
        made = compiled(name)
        rows, ops = made.rows["prefill"], {r.node.op.kind for r in made.rows["prefill"]}
        apart = dict(ELSEWHERE.get(name, {}))
        if any("expert" in kind for kind in ops):
            apart["weights"] = EXPERTS
        if any(r.name.rpartition(".")[2] == "k_up" for r in rows):
            apart |= dict.fromkeys(("flops", "weights"), LATENT)
        whole = step_cost(made, Mix.of((1, S, S)))
        chunks = [step_cost(made, Mix.of((1, C, end))) for end in range(C, S + 1, C)]
        again = len(chunks) - 1
        idle = [
            r.total.mapped(lambda e: e.xreplace({B: Integer(1)}).subs(q, 0))
            for r in rows
            if not looks_back(r)
        ]

        def kv(cost, direction):
            return cost.bytes_of(role=Role.KV, direction=direction)

        # Each chunk reads the cache up to its end; rows are written once.
        cached = kv(whole, Direction.READ) / S
        found = {
            "flops": Add(*(c.total_flops for c in chunks)) - whole.total_flops
            - again * Add(*(c.total_flops for c in idle)),
            "weights": Add(*(c.bytes_of(role=Role.WEIGHT) for c in chunks))
            - whole.bytes_of(role=Role.WEIGHT)
            - again * Add(*(c.bytes_of(role=Role.WEIGHT) for c in idle)),
            "read": Add(*(kv(c, Direction.READ) for c in chunks))
            - cached * sum(range(C, S + 1, C)),
            "written": Add(*(kv(c, Direction.WRITE) for c in chunks)) - kv(whole, Direction.WRITE),
        }  # fmt: skip
        assert {key for key, value in found.items() if value != 0} == set(apart), name
        seen += not apart
    assert seen > 70


@pytest.mark.parametrize(
    ("model", "on", "passes"),
    [
        ("llama-3.1-8b", "h100", "fuse"),
        ("deepseek-v2-lite", "h100", "fuse"),
        ("gpt-oss-20b", "h100", "fuse"),
        ("mamba-2.8b", "h100", ""),
        ("llama-3.1-70b", "4xh100", "fuse,parallel{tp=2,dp=2}"),
        ("qwen3-30b-a3b", "4xh100", "fuse,parallel{ep=4}"),
    ],
)
@pytest.mark.parametrize("fidelity", ["ideal", "calibrated"])
def test_mixes_of_one_group_are_the_phases(model, on, passes, fidelity):
    made = cg.compile(model, on, passes, fidelity=fidelity)
    decode = mixed_step(made, Mix.of(("c", 1, "T")))
    assert decode(c=24, T=900) == pytest.approx(made.tpot(B=24, T=900), rel=1e-6)
    prompt = mixed_step(made, Mix.of((4, "C", "C")))
    assert prompt(C=512) == pytest.approx(made.time("prefill")(B=4, S=512), rel=1e-6)
    # Two groups of one kind are one group.
    two = mixed_step(made, Mix.of(("c", 1, "T"), ("b", 1, "T")))
    assert two(c=8, b=16, T=900) == pytest.approx(decode(c=24, T=900), rel=1e-6)


@pytest.mark.parametrize("fidelity", ["ideal", "calibrated"])
def test_a_joint_step_takes_less_than_its_parts_and_more_than_each(fidelity):
    made = cg.compile("llama-3.1-8b", "h100", "fuse", fidelity=fidelity)
    mix = mixed_step(made, Mix.of(("c", 1, "T"), (1, "C", "P")))
    part = mixed_step(made, Mix.of((1, "C", "P")))
    for c, t, chunk, end in ((1, 100, 16, 32), (64, 2000, 512, 4096), (8, 500, 2048, 2048)):
        both, alone = mix(c=c, T=t, C=chunk, P=end), part(C=chunk, P=end)
        step = made.tpot(B=c, T=t)
        assert max(alone, step) <= both < alone + step
    with pytest.raises(InputError, match="ends where its context does"):
        mix(c=1, T=100, C=200, P=100)


def test_the_chunk_at_which_a_step_becomes_bound_by_compute():
    """Products of a decode step of c tokens and a chunk: at the machine's balance, by hand."""
    made = cg.compile("llama-3.1-8b", "h100", "fuse")
    step = mixed_step(made, Mix.of(("c", 1, "T"), (1, "C", "P")))
    found = {op: x for x in step.crossover("C", c=32, T=1024, P=4096) for op in x.ops}
    down = found["down_proj+mlp_add"]
    machine = made.bound
    (peak,) = (p for (e, d), p in machine.peaks.items() if (e.value, d) == ("tensor", "bf16"))
    width, hidden = 14336, 4096
    # 2·n·w·d/F = (2·w·d + 2·n·(w + 2·d))/BW at n = c + C tokens, the residual in and out.
    bandwidth = machine.memory.bandwidth
    n = (2 * width * hidden / bandwidth) / (
        2 * width * hidden / peak - 2 * (width + 2 * hidden) / bandwidth
    )
    assert float(down.value) == pytest.approx(float(n) - 32, rel=1e-6)


def test_wrong_mixes_are_refused_in_one_line():
    made = compiled("gpt2")
    with pytest.raises(InputError, match="context as long"):
        Mix.of((1, 20, 10))
    with pytest.raises(InputError, match="group"):
        Mix(())
    with pytest.raises(InputError):
        Mix.of((0, 1, 10))
    ahead = "fuse,speculative{draft=llama-3.2-1b,schedule=pearl}"
    with pytest.raises(InputError, match="one of decode steps, not"):
        mixed_step(cg.compile("llama-3.1-8b", "h100", ahead), MIX)
    with pytest.raises(MissingRuleError, match="no rule for mixes"):
        mixed_step(cg.compile("llama-3.1-8b", "h100", "fuse,early-exit{exit=16,p=0.5}"), MIX)
    with pytest.raises(InputError, match="no positions beyond"):
        mixed_step(made, Mix.of((1, 1, "T")))(T=1025)


@pytest.mark.parametrize("fidelity", ["ideal", "calibrated"])
def test_sizes_of_a_mix_are_whole_whatever_they_are_called(fidelity):
    """A budget has a largest whole value, of every symbol, after renaming as well."""
    made = cg.compile("llama-3.2-1b", "h100", "fuse", fidelity=fidelity)
    step = made.step(("users", 1, "seen"), (1, "piece", "reached"))
    at = {"users": 32, "seen": 1024, "piece": 512, "reached": 4096}
    for name in at:
        others = {k: v for k, v in at.items() if k != name}
        budget = 1.5 * step(**at)
        most = step.solve_for(name, budget, **others).largest
        if name == "piece" and most == others["reached"]:
            continue
        assert step(**others | {name: most}) <= budget < step(**others | {name: most + 1})
    renamed = step.substitute({symbol("users"): symbol("places")})
    others = {k: v for k, v in at.items() if k != "users"}
    budget = 1.5 * step(**at)
    most = step.solve_for("users", budget, **others).largest
    assert renamed.solve_for("places", budget, **others).largest == most > 0


@pytest.mark.parametrize("model", ["deepseek-v2-lite", "kimi-k2"])
def test_what_two_graphs_have_in_common_runs_once(model):
    """Latent attention: all but the products of absorbed and expanded keys and values."""
    made = compiled(model)
    rows = [r.name for r in flat(step_items(made, Mix.of((4, 1, 900), (1, 64, 512))))]
    twice = {r.removeprefix("prompt.").rpartition(".")[2] for r in rows if r.startswith("prompt.")}
    assert "o_proj" not in twice
    assert {"k_up", "v_up"} < twice
    assert sum(r.endswith("o_proj") for r in rows) == 2  # of dense layers, of those with experts


@pytest.mark.parametrize("passes", ["parallel{cp=2}", "fuse,parallel{cp=2}"])
def test_prompts_whose_tokens_are_shared_otherwise_are_refused(passes):
    made = cg.compile("llama-3.2-1b", "2xh100", passes)
    with pytest.raises(InputError, match="in different ways"):
        made.step(("c", 1, "T"), (1, "C", "P"))


@pytest.mark.parametrize("passes", ["parallel{dp=2}", "fuse,parallel{ep=2}"])
def test_replicas_need_a_sequence_each_of_every_group(passes):
    model = "qwen3-30b-a3b" if "ep" in passes else "llama-3.2-1b"
    made = cg.compile(model, "2xh100", passes)
    with pytest.raises(InputError, match="needs a sequence"):
        made.step(("c", 1, "T"), (1, 64, 512))(c=8, T=900)
    step = made.step(("c", 1, "T"), (2, 64, 512))
    assert step(c=2, T=900) > 0
    with pytest.raises(InputError, match="needs a sequence"):
        step(c=1, T=900)


@pytest.mark.parametrize("fidelity", ["ideal", "calibrated"])
@pytest.mark.parametrize(
    ("model", "on", "passes"),
    [
        ("llama-3.1-8b", "h100", "fuse,speculative{draft=llama-3.2-1b,gamma=3,alpha=0.7}"),
        ("llama-3.1-8b", "h100", "speculative{draft=copy,gamma=4}"),
        ("llama-3.1-8b", "h100", "fuse,speculative{draft=heads,tree=t2|2}"),
        ("deepseek-v3", "8xh200", "fuse,speculative{draft=mtp,gamma=1},parallel{tp=8}"),
    ],
)
def test_a_group_that_drafts_is_a_round(model, on, passes, fidelity):
    """All tokens of a round at once; drafts included, and beside a chunk weights once."""
    made = cg.compile(model, on, passes, fidelity=fidelity)
    (verify,) = (p for p in made.program.decoding if p.tokens != 0)
    step = mixed_step(made, Mix.of(("c", 1, "T")))
    whole = float(verify.tokens) * float(made.tpot(B=8, T=900))
    assert step(c=8, T=900) == pytest.approx(whole, rel=1e-9)
    mix = Mix.of((8, 1, 900), (1, 512, 1024))
    both, parts = step_cost(made, mix), [step_cost(made, Mix((g,))) for g in mix.groups]
    for role in Role:
        each = Add(*(p.bytes_of(role=role) for p in parts))
        if role is Role.WEIGHT:
            assert max(p.bytes_of(role=role) for p in parts) <= both.bytes_of(role=role) < each
        elif role is not Role.ACTIVATION:
            assert both.bytes_of(role=role) == each, role
    read = [r for r in flat(step_items(made, mix)) if r.name.split(".")[-1] == "lm_head"]
    assert sum(r.phase is not None and not r.name.startswith("draft") for r in read) == 1
    joint = mixed_step(made, Mix.of(("c", 1, "T"), (1, "C", "P")))(c=8, T=900, C=512, P=1024)
    alone = mixed_step(made, Mix.of((1, "C", "P")))(C=512, P=1024)
    assert max(alone, whole) <= joint < alone + whole


@pytest.mark.parametrize(
    ("passes", "chooses"),
    [("", False), ("window", False), ("index", False), ("fuse,evict", True), ("snap-kv", True)],
)
def test_chunks_behind_caches_that_choose_are_said_to_find_what_stayed(passes, chooses):
    said = compiled("llama-3.2-1b", passes).step((1, "C", "P")).assumptions
    assert any("finds what stayed" in text for text in said) is chooses


@pytest.mark.parametrize("fuse", ["", "fuse,"])
@pytest.mark.parametrize("by", ["conv", "mean"])
def test_rows_that_become_others_are_those_of_each_group(fuse, by):
    """A step of one group is that of the phase, whichever kernels there are."""
    made = compiled("llama-3.2-1b", f"{fuse}recur{{segment=48,compressed=2,by={by}}}")
    step = made.program.phase("decode")
    for context in (96, 97):
        values = {B: Integer(3), T: Integer(context)}
        alone = step.graph.cost.mapped(lambda e, at=values: step.bind(e).xreplace(at))
        assert step_cost(made, Mix.of((3, 1, context))) == alone
