"""Drafts that are speculated themselves: inner rounds against a simulation, limits, memory."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sympy import Rational, expand

import costgraph as cg
from costgraph.counting.count import parameters
from costgraph.errors import CostgraphError
from costgraph.formula.terms import Limit
from costgraph.models.ahead import FUSING
from costgraph.symbols import T, q, symbol

TARGET, MIDDLE, SMALL, ON = "opt-13b", "opt-1.3b", "opt-125m", "h100"
AT = {"B": 2, "T": 700}


def compiled(inner: str, outer: str = "gamma=4,alpha=7/10", passes: str = "", **more: str):
    options = f"draft={more.get('middle', MIDDLE)},{outer}"
    if inner:
        small = f"draft={more.get('small', SMALL)},{inner}" if more.get("small", SMALL) else inner
        options += f",draft-passes='{more.get('own', '')}speculative{{{small}}}'"
    return cg.compile(TARGET, ON, f"{passes}speculative{{{options}}}")


def facts(made: cg.Compiled, inner: bool = True) -> list[tuple]:
    """Phases as what is run, where and how often; without those of the draft's draft if asked."""
    return [
        (p.graph, p.bindings, p.weight, p.tokens)
        for p in made.program.phases
        if inner or not p.name.startswith("draft-draft")
    ]


def of(made: cg.Compiled, name: str) -> dict[tuple[int, int], object]:
    """How often phases run in a round of the target, by positions and tokens behind the root."""
    round_ = made.program.phase("verify").weight
    found: dict[tuple[int, int], object] = {}
    for p in made.program.phases:
        if p.name.startswith(name) and p.span is not None:
            values = dict(p.bindings)
            key = int(values[q]), int(values[T] - T - values[q] + 1)
            found[key] = found.get(key, 0) + p.weight / round_
    return found


def played(gamma: int, inner: int, alphas: list[float], hit: float, rounds: int = 200_000):
    """Inner rounds of many rounds of the target, token by token: passes of draft and its draft."""
    rng = np.random.default_rng(2024 + gamma)
    verified: dict[tuple[int, int], int] = {}
    drafted: dict[tuple[int, int], int] = {}
    written = np.zeros(rounds, int)
    while (open_ := written < gamma).any():
        found = rng.random(rounds) < hit
        length = np.where(found, np.minimum(inner, gamma - written - 1), 0)
        alive, kept = open_.copy(), np.zeros(rounds, int)
        for i in range(inner):
            drafting = open_ & (i < length)
            for place, n in zip(
                *np.unique((written + i)[drafting], return_counts=True), strict=True
            ):
                drafted[1, int(place)] = drafted.get((1, int(place)), 0) + int(n)
            alive = alive & drafting & (rng.random(rounds) < alphas[i])
            kept += alive
        for place in range(gamma):
            here = length[open_ & (written == place)]
            for size, n in zip(*np.unique(here, return_counts=True), strict=True):
                key = (int(size) + 1, place)
                verified[key] = verified.get(key, 0) + int(n)
        written = np.where(open_, written + kept + 1, written)
    assert (written == gamma).all()  # nothing is cut off
    return {k: n / rounds for k, n in verified.items()}, {k: n / rounds for k, n in drafted.items()}


@pytest.mark.parametrize(
    ("gamma", "options", "inner", "alphas", "hit"),
    [
        (5, "gamma=2,alpha=8/10", 2, [0.8] * 2, 1),
        (8, "gamma=3,alpha=6/10", 3, [0.6] * 3, 1),
        (6, "gamma=9,alpha=9/10", 9, [0.9] * 9, 1),
        (7, "alphas=p90|p50|p70", 3, [0.9, 0.5, 0.7], 1),
        (6, "draft=copy,gamma=4,alpha=7/10,hit=3/5", 4, [0.7] * 4, 0.6),
    ],
)
def test_inner_rounds_run_as_often_as_a_simulation_says(gamma, options, inner, alphas, hit):
    small = "" if "draft=" in options else SMALL
    made = compiled(options, f"gamma={gamma},alpha=1/2", small=small)
    verified, drafted = played(gamma, inner, alphas, hit)
    told = of(made, "draft-verify")
    assert told.keys() == verified.keys()
    for key, share in told.items():
        assert float(share) == pytest.approx(verified[key], abs=5e-3), key
    steps = of(made, "draft-draft")
    if small:
        assert steps.keys() == drafted.keys()
        for key, share in steps.items():
            assert float(share) == pytest.approx(drafted[key], abs=7e-3), key
    else:
        assert not steps  # copies take no time


def test_inner_rounds_are_exact_in_symbols():
    made = compiled("gamma=2,alpha=b", "gamma=4,alpha=a")
    b = symbol("b")
    told = of(made, "draft-verify")
    wanted = {(3, 0): 1, (3, 1): 1 - b, (2, 2): 1 - b, (1, 3): 1 - b + b**3}
    assert {k: expand(v) for k, v in told.items()} == wanted
    # The symbols of both are explained and bounded.
    assert made.tpot.meanings["b"].startswith("speculative, draft-passes: speculative, alpha")
    limits = {(x.expr, x.bound) for x in made.program.limits}
    assert {(symbol("a"), 1), (b, 1)} <= limits
    assert all(isinstance(x, Limit) for x in made.program.limits)


def test_the_time_is_that_of_the_rounds():
    """What the phases weigh, summed by hand from the three models' own steps."""
    made = compiled("gamma=2,alpha=4/5", "gamma=3,alpha=7/10", "fuse,")
    b, e = Rational(4, 5), sum(Rational(7, 10) ** i for i in range(4))
    steps = {m: cg.compile(m, ON, "fuse") for m in (TARGET, MIDDLE, SMALL)}

    def step(name: str, width: int, behind: int) -> float:
        """Seconds of a pass over so many positions, so many tokens behind the round's root."""
        phases = [p for p in made.program.phases if p.name.startswith(name)]
        values = [(dict(p.bindings)[q], dict(p.bindings)[T] - T, p.name) for p in phases]
        (found,) = (n for wide, at, n in values if (wide, at) == (width, behind + width - 1))
        return float(made.time(found).evaluate(**AT))

    # 3 tokens: a round of 2 drafts, then of 1 (if one came out) or none (if one or two did).
    inner = (
        step("draft-draft", 1, 0)
        + (1 + (1 - b)) * step("draft-draft", 1, 1)
        + step("draft-verify", 3, 0)
        + (1 - b) * step("draft-verify", 2, 1)
        + (b * (1 - b) + (1 - b) ** 2) * step("draft-verify", 1, 2)
    )
    whole = (inner + step("verify", 4, 0)) / e
    assert float(made.tpot.evaluate(**AT)) == pytest.approx(float(whole), rel=1e-9)
    # And each pass is that of its model.
    for model, phase, shift in ((SMALL, "draft-draft", 0), (MIDDLE, "draft-verify-3", 2)):
        alone = float(steps[model].tpot.evaluate(B=2, T=700 + shift))
        assert float(made.time(phase).evaluate(**AT)) == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize("options", ["gamma=0", "gamma=3,hit=0"])
def test_an_inner_draft_that_drafts_nothing_is_none(options):
    made = compiled(f"{options},alpha=1/2")
    assert facts(made) == facts(compiled(""))
    assert any("draft: decode: nothing is drafted" in u for u in made.undone)


def test_one_token_is_not_drafted_for():
    made, plain = compiled("gamma=2", "gamma=1,alpha=a"), compiled("", "gamma=1,alpha=a")
    assert [f[1:] for f in facts(made, inner=False)] == [f[1:] for f in facts(plain)]
    assert float(made.tpot.evaluate(**AT, a=0.6)) == pytest.approx(
        float(plain.tpot.evaluate(**AT, a=0.6)), rel=1e-9
    )
    assert any("no more than 0 are drafted for it, not 2" in u for u in made.undone)


def test_inner_acceptance_from_none_to_all():
    """With none, the draft writes every token itself, and wider; with all, 1 in γ' + 1 rounds."""
    none = of(compiled("gamma=2,alpha=0", "gamma=6,alpha=1/2"), "draft-verify")
    assert sum(none.values()) == 6
    every = of(compiled("gamma=2,alpha=1", "gamma=6,alpha=1/2"), "draft-verify")
    assert every == {(3, 0): 1, (3, 3): 1}
    plain = float(compiled("", "gamma=6").tpot.evaluate(**AT))
    times = [
        float(compiled(f"gamma=2,alpha={a}", "gamma=6").tpot.evaluate(**AT))
        for a in ("0", "1/2", "9/10", "1")
    ]
    assert times[0] > plain > times[-1]
    assert all(a > b for a, b in pairwise(times))


def test_an_inner_draft_like_the_draft_saves_nothing():
    alike = compiled("gamma=3,alpha=1", small=MIDDLE)
    assert float(alike.tpot.evaluate(**AT)) > float(compiled("").tpot.evaluate(**AT))


def test_all_models_are_in_memory_in_every_phase():
    alone = {m: cg.compile(m, ON, "").program for m in (TARGET, MIDDLE, SMALL)}
    made = compiled("gamma=2,alpha=4/5")
    weights = sum(int(t.bytes * n) for p in alone.values() for t, n in p.weights())
    for phase in made.program.phases:
        held = sum(int(t.bytes * n) for t, n in phase.weights())
        assert held == weights, phase.name
    assert made.parameters == sum(parameters(p) for p in alone.values())
    # The cache of the smallest, keys and values of 12 layers, beside those that were there.
    at = {"B": 3, "S": 1000, "N": 200}
    more = made.memory.evaluate(**at) - compiled("").memory.evaluate(**at)
    small = sum(int(t.bytes * n) for t, n in alone[SMALL].weights())
    cache = 2 * 12 * 768 * 2 * 3
    assert 1199 * cache <= more - small <= (1199 + 5) * cache


def test_the_prompt_is_read_by_all_three():
    made = compiled("gamma=2,alpha=4/5", passes="fuse,")
    alone = [cg.compile(m, ON, "fuse").ttft for m in (TARGET, MIDDLE, SMALL)]
    size = {"B": 2, "S": 512}
    assert float(made.ttft.evaluate(**size)) == pytest.approx(
        sum(float(t.evaluate(**size)) for t in alone), rel=1e-9
    )


def test_options_of_the_inner_draft_are_its_own():
    made = compiled(
        'gamma=2,alpha=4/5,draft-passes="quantize{preset=w4a16}"',
        passes="fuse,quantize{preset=fp8},",
    ).program
    for name, model, passes in (
        ("draft-draft", SMALL, "fuse,quantize{preset=w4a16}"),
        ("draft-verify", MIDDLE, "fuse,quantize{preset=fp8}"),
    ):
        alone = cg.compile(model, ON, passes).program.phase("decode").graph
        graph = made.phase(name).graph
        assert {(t.name, t.dtype) for t, _ in graph.weights()} == {
            (t.name, t.dtype) for t, _ in alone.weights()
        }
        if name == "draft-draft":
            assert graph == alone


def test_cascades_go_on_downwards():
    """A draft of a draft's draft: each chunk that one asks for is a chain of the next."""
    inner = f'gamma=3,alpha=1/2,draft-passes="speculative{{draft={SMALL},gamma=1,alpha=1/2}}"'
    made = cg.compile(
        TARGET, ON,
        f"speculative{{draft=opt-6.7b,gamma=4,alpha=1/2,draft-passes="
        f"'speculative{{draft={MIDDLE},{inner}}}'}}",
    )  # fmt: skip
    names = [p.name for p in made.program.phases if p.span is None]
    assert names == ["prefill", "draft-prefill", "draft-draft-prefill", "draft-draft-draft-prefill"]
    half, rounds = Rational(1, 2), of(made, "draft-verify")
    assert rounds == {(4, 0): 1, (3, 1): half, (2, 2): half, (1, 3): half}
    # Of the three tokens in the first: one is drafted first, the draft's own may follow, …
    deepest = of(made, "draft-draft-draft")
    assert deepest[1, 0] == 1
    assert all(phase.weight > 0 for phase in made.program.phases)
    weights = {int(sum(t.bytes * n for t, n in p.weights())) for p in made.program.phases}
    assert len(weights) == 1


def test_the_best_length_is_searched_for_with_an_inner_draft():
    made = compiled("gamma=2,alpha=4/5", "gamma=optimal,alpha=8/10,at-context=700", "fuse,")
    chosen = int(made.trace.passes[-1].gamma)
    times = {
        g: float(
            compiled("gamma=2,alpha=4/5", f"gamma={g},alpha=8/10", "fuse,").tpot.evaluate(
                B=1, T=700
            )
        )
        for g in (chosen - 1, chosen, chosen + 1)
    }
    assert min(times, key=times.get) == chosen


@pytest.mark.parametrize(
    ("inner", "outer", "words"),
    [
        ("gamma=2", "tree=t2|1", "not with a given tree"),
        ("gamma=2", "gamma=3,stop=1/5", "not with a draft that stops"),
        ("gamma=2", "gamma=3,drafts=2", "not with independent drafts"),
        ("gamma=2", "gamma=3,schedule=pearl", "not with schedule=pearl"),
        ("gamma=2", "gamma=3,batch=sync", "not with batch=sync"),
        ("gamma=2", "gamma=17", "at most 16, not 17"),
        ("gamma=2", "gamma=g", "must be a number"),
        ("gamma=2,batch=sync", "gamma=3", "not with batch=sync"),
        ("gamma=2,schedule=stairs", "gamma=3", "not with schedule=stairs"),
        ("gamma=2,fallback=1/5", "gamma=3", "not with a draft that falls back"),
        ("gamma=2,accepted=2", "gamma=3", "give an acceptance"),
        ("gamma=g", "gamma=3", "must be a number"),
        ("gamma=optimal", "gamma=3", "give the draft a number"),
    ],
)
def test_what_is_no_cascade_is_refused(inner, outer, words):
    with pytest.raises(CostgraphError, match=words) as caught:
        compiled(inner, f"{outer},alpha=1/2" if "alpha" not in outer else outer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ("draft=heads,gamma=2", "writes token by token"),
        ("draft=pass,gamma=2", "writes token by token"),
        ("draft=lookahead", "not with draft=lookahead"),
    ],
)
def test_what_drafts_for_a_draft_writes_token_by_token(inner, words):
    with pytest.raises(CostgraphError, match=words):
        compiled(inner, small="")


@pytest.mark.parametrize(
    "draft", [f"{TARGET},share=vocabulary", "skip,skip-mlp=3", "eagle", "heads"]
)
def test_only_a_model_of_its_own_is_speculated_itself(draft):
    inner = "draft-passes='speculative{draft=copy,gamma=2}'"
    with pytest.raises(CostgraphError, match=r"model of its own|layers as they are"):
        cg.compile(TARGET, ON, f"speculative{{draft={draft},gamma=4,{inner}}}")


@pytest.mark.parametrize(
    ("target", "draft", "small", "fronts"),
    [
        ("whisper-large-v3", "whisper-small", "whisper-tiny", 6),
        ("qwen2.5-vl-7b", "qwen2-vl-7b", "qwen2.5-0.5b", 5),
        ("mamba-2.8b", "mamba-130m", "skip,layers=4", 2),
        ("llama-2-13b", "llama-2-7b", "eagle3", 3),
    ],
)
def test_cascades_of_all_kinds_of_models(target, draft, small, fronts):
    inner = f"draft-passes='speculative{{draft={small},gamma=2,alpha=4/5}}'"
    made = cg.compile(target, "h200", f"fuse,speculative{{draft={draft},gamma=3,{inner}}}")
    phases = made.program.phases
    assert len([p for p in phases if p.span is None]) == fronts
    round_ = made.program.phase("verify").weight
    rounds = sum(p.weight for p in phases if p.name.startswith("draft-verify")) / round_
    b = Rational(4, 5)
    assert rounds == 1 + (1 - b) + (b * (1 - b) + (1 - b) ** 2)
    if "skip" not in small:  # its layers are the draft's own
        assert len({sum(t.bytes * n for t, n in p.weights()) for p in phases}) == 1
    assert any("recurrent states" in a for a in made.program.assumptions) == (target[:5] == "mamba")
    if small == "eagle3":  # fused once in each inner round that drafts
        runs = [
            n.op.presence.runs * p.weight / round_
            for p in phases
            for n in p.graph.nodes
            if n.name == FUSING and p.name.startswith("draft-draft") and p.span is not None
        ]
        assert sum(runs) == 1 + (1 - b)
