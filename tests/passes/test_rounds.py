"""Rounds of draft and verify against trees written out node by node."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer, Rational

import costgraph as cg
from costgraph.errors import InputError, VerifyError
from costgraph.ir.program import Phase, Program
from costgraph.ir.verify import verify_program
from costgraph.ops.pattern import CAUSAL, sliding
from costgraph.passes.decoding.rounds import branching
from costgraph.passes.decoding.speculative import Speculative
from costgraph.symbols import B, T, q, symbol

TARGET, DRAFT = "llama-2-13b", "llama-2-7b"


class Tree:
    """A tree of drafted tokens: the parent of each node, level by level; the root is 0."""

    def __init__(self, widths: list[int], chains: int = 0) -> None:
        self.levels: list[list[int]] = [[0]]
        self.parent: dict[int, int | None] = {0: None}
        for depth, width in enumerate(widths):
            level: list[int] = []
            for node in self.levels[-1]:
                for _ in range(chains if chains and depth == 0 else width):
                    child = len(self.parent)
                    self.parent[child] = node
                    level.append(child)
            self.levels.append(level)

    def path(self, node: int) -> list[int]:
        """The node and all before it on its branch, the root included."""
        found = [node]
        while self.parent[found[-1]] is not None:
            found.append(self.parent[found[-1]])
        return found

    def pairs(self, nodes: list[int], context: int, window: int | None) -> int:
        """Pairs that ``nodes`` compute; the root sees ``context`` positions, itself included."""
        seen = [context - 1 + len(self.path(n)) for n in nodes]
        return sum(min(s, window) if window else s for s in seen)


def case(widths: list[int], drafts: int) -> tuple[Speculative, Tree]:
    if drafts > 1:
        made = Speculative(drafts=Integer(drafts), gamma=Integer(len(widths)))
        return made, Tree([1] * len(widths), drafts)
    return Speculative(tree="t" + "|".join(map(str, widths))), Tree(widths)


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.sampled_from([1, 1, 2, 5]),
    st.integers(1, 40),
    st.sampled_from([None, 1, 3, 8, 100]),
)
def test_positions_pairs_and_rows_are_those_of_the_tree(widths, drafts, context, window):
    spec, tree = case(widths, drafts)
    made = spec.round()
    nodes = [n for level in tree.levels for n in level]
    assert made.verified == len(nodes)
    limit = None if window is None else Integer(window)
    at = {T: Integer(context) + made.verified - 1, q: made.verified}
    seen = (
        (sliding(limit).branched(made.mask.levels) if made.mask else sliding(limit))
        .pairs(q, T)
        .xreplace(at)
    )
    assert seen == tree.pairs(nodes, context, window)
    # Draft steps forward what the step before drafted: all levels but the last.
    forwarded = [n for level in tree.levels[:-1] for n in level]
    assert sum(s.count * s.width for s in made.steps) == len(forwarded)
    assert sum(s.count for s in made.steps) == len(widths)
    if window is not None:
        return  # a mean over steps is one of clipped lengths only where they are alike
    total, rows = Integer(0), Integer(0)
    for s in made.steps:
        at = {T: context + s.behind, q: s.width}
        total += s.count * (s.mask or CAUSAL).pairs(q, T).xreplace(at)
        rows += s.count * (context + s.behind)
        assert context + s.behind >= s.width
    assert total == tree.pairs(forwarded, context, None)
    # The cache holds the root's context and every level forwarded so far.
    held = [sum(map(len, tree.levels[1 : k + 1])) for k in range(len(widths))]
    assert rows == sum(context + n for n in held)


def test_the_counts_of_the_report():
    tree = Speculative(draft=DRAFT, tree="t4|2|1").round()
    assert sum(s.count * s.width for s in tree.steps) == 13
    chains = Speculative(draft=DRAFT, drafts=Integer(8)).round()
    assert sum(s.count * s.width for s in chains.steps) == 25
    assert (tree.verified, chains.verified) == (21, 33)


def test_levels_of_one_node_are_a_chain():
    assert branching(Integer(3), Integer(2), [Integer(1)] * 3).mask is None
    a, b = (
        cg.compile(TARGET, "a100", f"speculative{{draft={DRAFT},{o}}}").program.phases
        for o in ("tree=t1|1|1", "gamma=3")
    )
    assert a == b


@pytest.mark.parametrize(("widths", "drafts"), [([4, 2, 1], 1), ([1, 1, 1, 1], 8), ([3, 3], 1)])
def test_expected_tokens_of_trees_match_a_simulation(widths, drafts):
    alpha, rounds = 0.6, 20_000
    spec, tree = case(widths, drafts)
    rng = random.Random(5)
    children: dict[int, list[int]] = {}
    for node, parent in tree.parent.items():
        if parent is not None:
            children.setdefault(parent, []).append(node)

    def longest(node: int) -> int:
        """Accepted tokens of the best branch: chains are accepted each on its own."""
        kept = [c for c in children.get(node, ()) if rng.random() < alpha]
        if drafts == 1:
            kept = kept[:1]  # children are tried in turn; the first accepted one goes on
        return max((1 + longest(c) for c in kept), default=0)

    total = sum(1 + longest(0) for _ in range(rounds))
    bound = 6 * len(widths) / 2 / rounds**0.5
    expected = replace(spec, alpha=Rational(3, 5)).round().tokens
    assert abs(total / rounds - float(expected)) < bound


PIPELINES = [
    f"speculative{{draft={DRAFT},{o}}}"
    for o in ("gamma=5", "drafts=16", "tree=t64|64", "tree=t4|2|1", "gamma=2,batch=sync")
] + ["speculative{tree=t8|8}", "speculative{draft=heads,tree=t64|64}"]


@pytest.mark.parametrize("text", PIPELINES)
@pytest.mark.parametrize("fuse", ["", ",fuse", ",fuse{attention=none},page-kv"])
def test_no_cost_is_negative_however_short_the_context(text, fuse):
    made = cg.compile(TARGET, "h100", text + fuse)
    for phase in made.program.phases:
        for context in (1, 2, 7, 100):
            values = {B: Integer(2), T: Integer(context), symbol("S"): Integer(context)}
            for row in made.rows[phase.name]:
                for amount in (*row.cost.flops.values(), *row.cost.bytes.values()):
                    assert phase.bind(amount).xreplace(values) >= 0, (phase.name, row.name)


def test_a_step_of_more_positions_than_its_context_is_no_program():
    plain = cg.compile("gpt2", "a100").program
    decode = plain.phase("decode")
    wide = Phase("wide", decode.graph, ((q, Integer(4)), (T, T)), decode.span)
    with pytest.raises(VerifyError, match="4 positions at a context of T"):
        verify_program(Program("m", (wide,)))
    fits = Phase("wide", decode.graph, ((q, Integer(4)), (T, T + 3)), decode.span)
    verify_program(Program("m", (fits,)))


@pytest.mark.parametrize("model", ["mamba-130m", "qwen3-next-80b-a3b"])
def test_states_follow_one_branch(model):
    assert cg.compile(model, "h200", "speculative{draft=heads}").tpot.evaluate(B=1, T=9) > 0
    for options in ("tree=t2|2", "drafts=2"):
        with pytest.raises(InputError, match="follows one branch"):
            cg.compile(model, "h200", f"speculative{{draft=heads,{options}}}")


@pytest.mark.parametrize("options", ["gamma=100000", "gamma=7/2", "drafts=5000"])
def test_numbers_of_drafts_are_bounded(options):
    with pytest.raises(InputError, match=r"must be (at most 1024|a whole number)"):
        cg.compile("gpt2", "a100", f"speculative{{{options}}}")
