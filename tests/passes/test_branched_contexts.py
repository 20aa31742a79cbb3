"""Branches in layers that are given fewer positions: pairs against masks written out.

Passes that shorten what layers are given (``prune-tokens``), or what positions see there, in
front of those that put positions beside one another: samples, beams, trees of drafts, points.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from sympy import Integer, Rational

import costgraph as cg
from costgraph.errors import PipelineError
from costgraph.ir.dtypes import FORMATS
from costgraph.ir.graph import Graph, Node
from costgraph.ops import AttentionScores
from costgraph.ops.attending import pattern_of, repatterned
from costgraph.ops.pattern import CAUSAL, Segments, Selected, Window
from costgraph.ops.quant import NarrowResult
from costgraph.rewriting.binding import at
from costgraph.symbols import B, G, N, S, T

MODEL, IMAGE, PROMPT, CONTEXT = "llava-1.5-7b", 576, 700, 731
PRUNED = ("", 0), ("prune-tokens", 288), ("prune-tokens{share=1/7}", 82)
SIZES = {B: Integer(1), G: Integer(IMAGE), S: Integer(PROMPT), N: Integer(80)}


@cache
def made(passes: str):
    return cg.compile(MODEL, "h100", passes)


def pairs(passes: str, phase: str, context: int = CONTEXT):
    """Pairs of scores per sequence in the layers of each region of a phase."""
    step = made(passes).program.phase(phase)
    values = {**SIZES, T: Integer(context)}
    found = []
    for graph in step.graph.walk():
        for node in graph.nodes:
            if isinstance(node.op, AttentionScores):
                rows = graph.tensors[node.inputs[1]].shape[1]
                new = graph.tensors[node.inputs[0]].shape[1]
                many = step.bind(B * node.op.pattern.pairs(new, rows)).xreplace(values)
                assert many.is_Rational, many
                found.append(many)
    return found


# --- who sees whom, written out ----------------------------------------------------------------


def new_positions(context: int, gone: int, parents: list[int | None]) -> np.ndarray:
    """Rows: new positions. Columns: those in front of them that are left, then the new ones."""
    past = context - gone
    mask = np.zeros((len(parents), past + len(parents)), bool)
    mask[:, :past] = True
    for row, parent in enumerate(parents):
        if parent is not None:
            mask[row, past:] = mask[parent, past:]
        mask[row, past + row] = True
    return mask


def seen(count: int, sees: str, prompt: int) -> int:
    """How many of ``count`` positions the last one sees, ``prompt`` of them of the prompt."""
    places = np.arange(count)
    if sees == "window":
        return int(((count - 1 - places < 40) | (places < 4)).sum())
    if sees == "segments":
        return int(((count - 1) // 64 - places // 64 <= 1).sum())
    if sees == "kept":  # the best 400 of the prompt, and all behind it
        return int((places >= prompt).sum()) + 400
    return count if sees == "" else min(count, 50)


def wanted(context: int, gone: int, parents: list[int | None], sees: str = "") -> int:
    rows = new_positions(context, gone, parents)
    return sum(seen(int(row.sum()), sees, PROMPT - gone) for row in rows)


SEES = {
    "": "", "window": "window{size=40,rotate=false},", "segments": "recur{segment=64,memory=1},",
    "best": "index{top=50},", "kept": "snap-kv{keep=400},",
}  # fmt: skip
TREE: list[int | None] = [None, 0, 0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(("shorter", "gone"), PRUNED)
@pytest.mark.parametrize("prefix", ["shared", "copied"])
@pytest.mark.parametrize(
    ("fork", "phase"),
    [
        ("samples{count=3", "decode"), ("beam{width=3", "decode"),
        ("apar{tree='3(3,3,3)'", "decode-part2"),
    ],
)  # fmt: skip
def test_branches_see_what_is_left_of_what_is_in_front(fork, phase, prefix, shorter, gone):
    found = pairs(f"{shorter},{fork},prefix={prefix}}}".lstrip(","), phase)
    each = [0] if gone == 0 else [0, gone]
    assert found == [wanted(CONTEXT - 1, g, [None] * 3) for g in each]


@pytest.mark.parametrize("sees", [s for s in SEES if s])
@pytest.mark.parametrize(("shorter", "gone"), PRUNED[:2])
def test_branches_with_copies_see_what_their_pattern_says_of_what_is_left(sees, shorter, gone):
    passes = f"{SEES[sees]}{shorter},samples{{count=3,prefix=copied}}".replace(",,", ",")
    each = [0] if gone == 0 else [0, gone]
    assert pairs(passes, "decode") == [wanted(CONTEXT - 1, g, [None] * 3, sees) for g in each]


@pytest.mark.parametrize("sees", SEES)
@pytest.mark.parametrize(("shorter", "gone"), PRUNED)
def test_trees_of_drafts_see_their_own_branch_and_what_is_left(sees, shorter, gone):
    passes = f"{SEES[sees]}{shorter},speculative{{draft=heads,tree=t3|2}}".replace(",,", ",")
    each = [0] if gone == 0 else [0, gone]
    found = pairs(passes.lstrip(","), "verify")
    assert found == [wanted(CONTEXT - 1, g, TREE, sees) for g in each]


@pytest.mark.parametrize(("shorter", "gone"), PRUNED)
def test_steps_of_a_draft_that_branches_see_what_is_left(shorter, gone):
    """The root first, then its three children: each sees itself, the root and what is left."""
    passes = f"{shorter},speculative{{draft=skip,layers=4,tree=t3|2}}".lstrip(",")
    each = [0] if gone == 0 else [0, gone]
    assert pairs(passes, "draft") == [wanted(CONTEXT - 1, g, [None]) for g in each]
    assert pairs(passes, "draft-2") == [wanted(CONTEXT, g, [None] * 3) for g in each]


@pytest.mark.parametrize(("shorter", "gone"), PRUNED[:2])
def test_trees_run_by_several_samples_at_once(shorter, gone):
    passes = f"{shorter},speculative{{draft=heads,tree=t3|2}},samples{{count=2}}".lstrip(",")
    each = [0] if gone == 0 else [0, gone]
    two = [None if p is None else p + 10 * i for i in range(2) for p in TREE]
    assert pairs(passes, "verify") == [wanted(CONTEXT - 1, g, two) for g in each]


@pytest.mark.parametrize(("shorter", "gone"), PRUNED)
def test_prompts_found_by_chance_have_the_mean_of_both_kinds(shorter, gone):
    passes = f"{shorter},prefix-cache{{tokens=100,chance=1/4}}".lstrip(",")

    def prompt(new: int, left: int) -> int:
        return sum(range(left - new + 1, left + 1))

    each = [0] if gone == 0 else [0, gone]
    assert pairs(passes, "prefill") == [
        Rational(1, 4) * prompt(PROMPT - g - 100, PROMPT - g)
        + Rational(3, 4) * prompt(PROMPT - g, PROMPT - g)
        for g in each
    ]


def test_what_is_given_fewer_positions_than_a_step_runs_is_refused():
    with pytest.raises(PipelineError, match="given fewer positions: state schedule=stairs"):
        made("prune-tokens,speculative{draft=skip,schedule=stairs-uncached}")
    with pytest.raises(PipelineError, match="give prefix=copied"):
        made("prune-tokens,skeleton")
    assert made("prune-tokens,skeleton{prefix=copied}").program.phases[-1].name.startswith("decode")


def test_points_that_share_a_prompt_hold_no_image_anew():
    (found,) = pairs("skeleton{points=4,outline=40,expand=9}", "prefill-points")
    new = 10
    each = [None if i % new == 0 else i - 1 for i in range(4 * new)]
    assert found == wanted(PROMPT + 39, 0, each)


# --- longer prompts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("longer", "prompt"),
    [
        ("retrieve{passages=2,length=50}", PROMPT + 100),
        ("skeleton{outline=40,expand=9,prefix=copied}", PROMPT + 49),
        ("", PROMPT),
    ],
)  # fmt: skip
def test_rows_of_a_prompt_that_stay_are_of_all_of_it(longer, prompt):
    """Steps find the best 30 of a prompt, however it became as long, and all behind it."""
    model = cg.compile("llama-3.2-1b", "h100", f"snap-kv{{keep=30}},{longer}".rstrip(","))
    step = next(p for p in reversed(model.program.phases) if p.span is not None)
    (region,) = (n.op for n in step.graph.nodes if n.op.kind == "repeat")
    node = next(n for n in region.body.nodes if isinstance(n.op, AttentionScores))
    rows = region.body.tensors[node.inputs[1]].shape[1]
    found = step.bind(rows).xreplace({**SIZES, T: Integer(prompt + 20)})
    assert found == 30 + 20


# --- the mechanism ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern", [CAUSAL, Window(Integer(9)), Segments(Integer(4), Integer(1)), Selected(Integer(5))]
)
def test_a_pattern_knows_its_context_wherever_sizes_are_bound(pattern):
    op = at_op(AttentionScores(pattern))
    assert pattern_of(op).context == T - 7
    tree = pattern_of(op).branched(((Integer(2), Integer(3)),))
    again = at_op(repatterned(NarrowResult(op, FORMATS["fp8"]), lambda _: tree))
    assert pattern_of(again).context == T - 14
    few = pattern_of(again).pairs(Integer(2), T).xreplace({T: Integer(40)})
    alone = pattern.at(Integer(23))
    assert few == 2 * alone.pairs(Integer(1), alone.seen(Integer(1), Integer(23)))


def at_op(op):
    """The operation in layers that are given seven positions less."""
    (node,) = at(Graph("g", (), (Node("n", op, (), ()),), ()), {T: T - 7}).nodes
    return node.op
