"""Structures of rounds, against simulations and trees that are written out."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Add, Integer, Rational

import costgraph as cg
from costgraph.errors import PipelineError
from costgraph.ops.pattern import CAUSAL
from costgraph.passes.decoding.acceptance import Constant, Measured, emitted, tree_reach
from costgraph.passes.decoding.speculative import Speculative
from costgraph.passes.decoding.structures import SHAPING, STRUCTURES
from costgraph.passes.decoding.trees import MOST_NODES, Tree, best_tree
from costgraph.showing.export.listing import show_pass
from costgraph.symbols import T, q

TARGET, DRAFT = "opt-13b", "opt-125m"
ROUNDS = 400_000


def near(simulated: np.ndarray, expected: object) -> bool:
    """Whether a simulated mean is within six standard errors."""
    return abs(simulated.mean() - float(expected)) <= 6 * simulated.std() / len(simulated) ** 0.5


def compiled(options: str, draft: str = DRAFT, **more: object) -> cg.Compiled:
    return cg.compile(TARGET, "a100", f"speculative{{draft={draft},{options}}}", **more)


@pytest.fixture(scope="module")
def plain():
    return cg.compile(TARGET, "a100")


# --- trees ----------------------------------------------------------------------------------


@cache
def forests(nodes: int) -> tuple[tuple, ...]:
    """Every forest of so many nodes: a tuple of the trees below each candidate."""
    if nodes == 0:
        return ((),)
    return tuple(
        (below, *rest)
        for first in range(1, nodes + 1)
        for below in forests(first - 1)
        for rest in forests(nodes - first)
    )


def worth(forest: tuple, shares: tuple, depth: int = 0) -> object:
    """Expected accepted tokens of a forest; None where it leaves the table."""
    if not forest:
        return 0
    if depth >= len(shares) or len(forest) > len(shares[depth]):
        return None
    total = 0
    for share, below in zip(shares[depth], forest, strict=False):
        inner = worth(below, shares, depth + 1)
        if inner is None:
            return None
        total += share * (1 + inner)
    return total


tables = st.lists(
    st.lists(st.integers(0, 9), min_size=1, max_size=4).map(
        lambda row: tuple(Rational(n, sum(row) + 2) for n in row)
    ),
    min_size=1,
    max_size=4,
).map(tuple)


@settings(max_examples=60)
@given(tables, st.integers(0, 7))
def test_the_best_tree_is_that_of_brute_force(shares, nodes):
    values = (worth(f, shares) for n in range(nodes + 1) for f in forests(n))
    best = max(v for v in values if v is not None)
    found = best_tree(Measured(shares), nodes, 4)
    assert found.size <= nodes
    assert emitted(found.reach(Measured(shares))) - 1 == best


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(1, 19))
def test_a_tree_of_given_widths_is_one_of_those_written_out(widths, a):
    tree = Tree()
    for width in reversed(widths):
        tree = Tree((tree,) * width)
    kind = Constant(Rational(a, 20))
    assert [x.expand() for x in tree.reach(kind)] == [x.expand() for x in tree_reach(kind, widths)]


def test_a_tree_of_one_candidate_a_depth_is_a_chain(plain):
    narrow = "acceptance='0.8;0.7;0.6'"
    a, b = (compiled(f"{narrow}{o}").program.phases for o in (",tree=optimal", ""))
    assert a == b
    assert compiled("tree=optimal,nodes=0").tpot.expr == plain.tpot.expr


def test_trees_emit_as_many_tokens_as_a_simulation_says():
    rng = np.random.default_rng(2)
    table = ((0.5, 0.2, 0.1), (0.4, 0.2), (0.3, 0.1))
    kind = Measured(tuple(tuple(Rational(str(x)) for x in row) for row in table))
    tree = best_tree(kind, 9, 3)
    at, tokens = [tree] * 20_000, np.ones(20_000)
    for row in table:
        ends = np.cumsum(row)
        ranks = np.searchsorted(ends, rng.random(len(at)))
        for i, (node, rank) in enumerate(zip(at, ranks, strict=True)):
            inside = node is not None and rank < len(node.children)
            at[i] = node.children[rank] if inside else None
            tokens[i] += inside
    assert near(tokens, emitted(tree.reach(kind)))


def test_nodes_without_children_are_not_forwarded():
    spec = Speculative(tree="optimal", nodes=Integer(9), alpha=Rational(7, 10))
    made, tree = spec.round(), best_tree(Constant(Rational(7, 10)), 9, 4)
    assert made.verified == 1 + tree.size == 10
    inner = 1 + sum(inner for _, inner in tree.levels[:-1])
    assert sum(s.count * s.width for s in made.steps) == inner < tree.size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("tree=optimal,nodes=999", f"at most {MOST_NODES}"),
        ("tree=optimal,gamma=99", "64 levels"),
        ("tree=optimal,alpha=a", "needs numbers for a"),
        ("nodes=optimal", "is about tree=optimal"),
        ("nodes=8", "nodes says nothing about a chain"),
        ("tree=t2|2,gamma=3", "gamma says nothing about a given tree"),
        ("tree=t2|2,nodes=3", "nodes says nothing"),
        ("gamma=optimal,tree=t2|2", "nothing to choose from with tree"),
        ("stop=0.1,fallback=0.1", "exclude one another"),
        ("stop=0.1,gamma=20", "at most 16"),
        ("stop=0.1,batch=sync", "batch=sync is not defined"),
        ("window=w1|n2|g1", "window says nothing about a chain"),
        ("iterations=2", "iterations says nothing about a chain"),
    ],
)
def test_options_that_do_nothing_are_refused(options, words):
    with pytest.raises(PipelineError, match=words):
        compiled(options)


def test_every_structure_refuses_what_it_does_not_use():
    """Over all structures and shaping options: each has an effect or is refused."""
    asked = {
        "a chain": {}, "independent drafts": {"drafts": Integer(2)}, "a given tree": {"tree": "t2"},
        "an optimal tree": {"tree": "optimal"}, "a draft that stops": {"stop": Rational(1, 5)},
        "a draft that falls back": {"fallback": Rational(1, 5)},
        "draft=lookahead": {"draft": "lookahead", "window": "w4|n3|g4"},
        "draft=jacobi": {"draft": "jacobi"}, "draft=phrases": {"draft": "phrases"},
    }  # fmt: skip
    other = {
        "gamma": Integer(3), "alpha": Rational(1, 2), "alphas": "p50|p40|p30",
        "acceptance": "0.5,0.1;0.4,0.1", "accepted": Rational(3, 2), "gain": Rational(1, 10),
        "epsilon": Rational(1, 10), "nodes": Integer(5), "window": "w3|n3|g3",
        "every": Integer(2), "iterations": Integer(2),
    }  # fmt: skip
    assert set(asked) == set(STRUCTURES)
    assert set(other) | {"drafts", "tree", "stop", "fallback"} == SHAPING
    for name, options in asked.items():
        base = Speculative(**options).round()
        for field, value in other.items():
            changed = Speculative(**{**options, field: value})
            if (name, field) == ("an optimal tree", "accepted"):
                with pytest.raises(PipelineError, match="which tree is best"):
                    changed.round()
            elif field in STRUCTURES[name][1]:
                assert changed.round() != base, (name, field)
            else:
                with pytest.raises(PipelineError, match=f"{field} says nothing about {name}"):
                    changed.round()


# --- drafts that end themselves ---------------------------------------------------------------


def simulated(gamma: int, alpha: float, share: float, hands_over: bool) -> tuple[np.ndarray, ...]:
    """Tokens, draft steps and verified positions of rounds, draft by draft."""
    rng = np.random.default_rng(7)
    doubts, stands = rng.random((2, ROUNDS, gamma)) < np.array([share, alpha])[:, None, None]
    steps = np.where(doubts.any(1), doubts.argmax(1) + 1, gamma)
    drafts = steps - (doubts.any(1) & hands_over)
    kept = np.where(stands.all(1), gamma, (~stands).argmax(1))
    return np.minimum(kept, drafts) + 1, steps, drafts + 1


@pytest.mark.parametrize("option", ["stop", "fallback"])
@pytest.mark.parametrize(("gamma", "alpha", "share"), [(5, 0.8, 0.2), (3, 0.9, 0.5), (8, 0.7, 0.1)])
def test_drafts_that_end_themselves_match_a_simulation(option, gamma, alpha, share):
    spec = Speculative(
        gamma=Integer(gamma), alpha=Rational(str(alpha)), **{option: Rational(str(share))}
    )
    made = spec.round()
    tokens, steps, verified = simulated(gamma, alpha, share, option == "fallback")
    assert near(tokens, made.tokens)
    assert near(steps, Add(*(s.count for s in made.steps)))
    for place, step in enumerate(made.steps):
        assert near(steps > place, step.count)
        assert step.behind == place
    for check in made.checks:
        assert near(verified == int(check.positions), check.share)
    assert sum(c.share for c in made.checks) == 1
    assert near(verified, made.verified)


def test_a_draft_that_is_never_unsure_is_a_chain(plain):
    assert (
        Speculative(gamma=Integer(1), stop=Rational(1, 3)).round().tokens
        == Speculative(gamma=Integer(1)).round().tokens
    )
    c = compiled("gamma=3,stop=p,alpha=0.6")
    base = compiled("gamma=3,alpha=0.6")
    for context in (10, 900):
        at = c.tpot.evaluate(B=2, T=context, p=1e-12)
        assert at == pytest.approx(base.tpot.evaluate(B=2, T=context), rel=1e-9)
    # One that always hands over leaves every token to the target, for a step of the draft.
    never = compiled("gamma=3,fallback=1")
    step = never.time("draft").evaluate(B=1, T=50) + plain.tpot.evaluate(B=1, T=50)
    assert never.tpot.evaluate(B=1, T=50) == pytest.approx(step, rel=1e-9)


def test_a_fallback_says_that_the_output_is_not_the_targets():
    (said,) = [s for s in compiled("fallback=0.2").assumptions if "not distributed" in s]
    assert "roll back" in said


# --- no draft: windows and iterations ---------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "extra"), [("w15|n5|g15", 120), ("w10|n5|g10", 80), ("w7|n5|g7", 56)]
)
def test_the_windows_of_lookahead_forward_as_many_positions_as_published(window, extra):
    assert Speculative(draft="lookahead", window=window).round().verified == 1 + extra


@settings(max_examples=25)
@given(st.integers(0, 5), st.integers(2, 4), st.integers(0, 4), st.integers(1, 9))
def test_pairs_of_a_window_are_those_of_its_mask(w, n, g, context):
    """The mask written out: who sees whom among root, columns and guesses."""
    if w + g == 0:
        return
    made = Speculative(draft="lookahead", window=f"w{w}|n{n}|g{g}").round()
    columns = [(row, column) for row in range(n - 1) for column in range(w)]
    guesses = [(i, place) for i in range(g) for place in range(n - 1)]
    seen = context  # the root
    for row, column in columns:
        own = [(r, c) for r, c in columns if (r == 0 and c <= column) or (c == column and r <= row)]
        seen += context + len(own)
    for i, place in guesses:
        seen += context + len([1 for j, p in guesses if j == i and p <= place])
    at = {T: context + made.verified - 1, q: made.verified}
    assert (made.mask or CAUSAL).pairs(q, T).xreplace(at) == seen


def test_step_compression_of_lookahead_matches_a_simulation():
    rng = np.random.default_rng(4)
    guesses, length, every, alpha = 5, 4, 3, 0.7
    spec = Speculative(
        draft="lookahead", window=f"w5|n{length + 1}|g{guesses}", alpha=Rational("0.7"),
        every=Integer(every),
    )  # fmt: skip
    stands = rng.random((ROUNDS // 4, guesses, length)) < alpha
    best = np.where(stands.all(2), length, (~stands).argmax(2)).max(1) + 1
    with_guesses = np.arange(len(best)) % every == 0
    tokens = np.where(with_guesses, best, 1)
    assert abs(tokens.mean() - float(spec.round().tokens)) < 6 * best.std() / len(best) ** 0.5
    assert spec.round().tokens == (every - 1 + spec_every_step().round().tokens) / every


def spec_every_step() -> Speculative:
    return Speculative(draft="lookahead", window="w5|n5|g5", alpha=Rational("0.7"))


def test_what_drafts_nothing_reduces_to_plain_decoding(plain):
    for options in (
        {"draft": "jacobi", "gamma": 1},
        {"draft": "lookahead", "window": "w3|n1|g3"},
        {"draft": DRAFT, "gamma": 0, "stop": "0.2"},
        {"draft": DRAFT, "gamma": 0, "schedule": "pearl"},
        {"draft": DRAFT, "gamma": 0, "schedule": "stairs"},
        {"draft": DRAFT, "gamma": 0, "schedule": "ahead"},
        {"draft": DRAFT, "tree": "optimal", "nodes": 0},
    ):
        text = ",".join(f"{k}={v}" for k, v in options.items())
        made = cg.compile(TARGET, "a100", f"speculative{{{text}}}")
        assert made.tpot.expr == plain.tpot.expr, text
        assert made.memory.expr == plain.memory.expr, text
        assert made.undone, text


def test_an_iteration_is_a_pass_over_the_block(plain):
    made = cg.compile(TARGET, "a100", "speculative{draft=jacobi,gamma=8,iterations=2}")
    assert made.program.phase("verify").query == 8
    step = made.breakdown("verify", B=1, T=99)
    assert step.bindings == {"B": 1, "q": 8, "T": 106}
    assert made.tpot.evaluate(B=1, T=99) == pytest.approx(
        made.time("verify").evaluate(B=1, T=99) * 2 / 8, rel=1e-12
    )
    # As many iterations as tokens are no gain: it is exact by then, and no sooner.
    late = cg.compile(TARGET, "a100", "speculative{draft=jacobi,gamma=8,iterations=8}")
    assert late.tpot.evaluate(B=1, T=99) >= plain.tpot.evaluate(B=1, T=99)
    with pytest.raises(PipelineError, match="exact after 8 iterations"):
        cg.compile(TARGET, "a100", "speculative{draft=jacobi,gamma=8,iterations=9}")


STRUCTURED = [
    "gamma=3", "drafts=3,gamma=3", "tree=t3|2", "tree=optimal,nodes=12", "gamma=4,stop=0.3",
    "gamma=4,fallback=0.3", "gamma=4,schedule=pearl", "gamma=4,schedule=ahead",
    "gamma=4,schedule=stairs", "gamma=2,schedule=stairs-uncached", "accepted=2.5",
]  # fmt: skip


@pytest.mark.parametrize("options", STRUCTURED)
def test_rounds_emit_one_token_per_step_of_the_span(options):
    made = compiled(options).program
    steps = [p for p in made.phases if p.span is not None]
    assert Add(*(p.weight * p.tokens for p in steps)).equals(1)


@pytest.mark.parametrize("options", STRUCTURED)
def test_no_round_beats_a_free_draft_with_free_verification(plain, options):
    """Seconds per token are at least a step of the target over the tokens of its passes."""
    made = compiled(options)
    passes = sum(
        float(p.weight) for p in made.program.phases if p.span is not None and "draft" not in p.name
    )
    for batch, context in ((1, 64), (64, 900)):
        least = plain.tpot.evaluate(B=batch, T=context)
        assert made.tpot.evaluate(B=batch, T=context) >= passes * least * (1 - 1e-12)


@pytest.mark.parametrize("alpha", ["0.5", "0.9"])
def test_the_best_tree_is_never_below_the_best_chain(alpha):
    def time(options: str) -> float:
        text = f"fuse,speculative{{draft={DRAFT},alpha={alpha},{options}}}"
        return float(cg.compile("opt-6.7b", "h100", text).tpot.evaluate(B=4, T=1024))

    at = "at-batch=4,at-context=1024"
    chain = time(f"gamma=optimal,{at}")
    tree = time(f"gamma=optimal,tree=optimal,nodes=optimal,{at}")
    assert tree <= chain
    assert tree <= time("tree=optimal,gamma=8,nodes=64")


@pytest.mark.parametrize(
    ("draft", "added"),
    [
        ("heads,gamma=5", 739_266_560),
        ("blockwise,gamma=1", 2 * 4 * 4096**2 + 5 * 4096),
        ("pass,gamma=4", 4 * 4096),
        ("skip", 0),
        ("llama-2-7b", 6_738_415_616),
        ("phrases,phrases=1000", 1000 * 4096),
    ],
)
def test_parameters_count_what_drafts_add(draft, added):
    alone, made = (
        cg.compile("llama-2-7b", "h100", p).parameters
        for p in ("fuse", f"fuse,speculative{{draft={draft}}}")
    )
    assert made - alone == added


def test_the_page_of_a_pass_is_broken_into_lines(capsys):
    show_pass("speculative", how="text")
    shown = capsys.readouterr().out
    assert "draft" in shown
    assert max(map(len, shown.splitlines())) <= 100
