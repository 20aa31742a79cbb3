"""Every pattern against masks written out: pairs, rows found, rows read, rows kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Expr, Integer

from costgraph.formula import Arm
from costgraph.formula.kinks import split
from costgraph.formula.least import bound, folded
from costgraph.formula.sums import power_sum
from costgraph.formula.terms import Span
from costgraph.ops.pattern import (
    CAUSAL,
    FULL,
    Band,
    Budget,
    Chunks,
    Compressed,
    Dense,
    Distilled,
    Fronted,
    Leading,
    Parted,
    Pattern,
    Pooled,
    Scattered,
    Segments,
    Selected,
    SelectedBlocks,
    Sided,
    Strided,
    Summaries,
    Unfinished,
    Window,
    WindowAndRows,
)
from costgraph.symbols import N, S, T, q

I = Integer  # noqa: E741
#: A mask of ``n`` positions: row ``i`` says which columns position ``i`` sees.
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def places(n: int) -> tuple[Any, Any]:
    return np.arange(n)[:, None], np.arange(n)[None, :]


def causal(n: int) -> Mask:
    rows, columns = places(n)
    return columns <= rows


def window(n: int, size: int, sinks: int) -> Mask:
    rows, columns = places(n)
    return causal(n) & ((rows - columns < size) | (columns < sinks))


def segments(n: int, size: int, before: int) -> Mask:
    rows, columns = places(n)
    return causal(n) & (rows // size - columns // size <= before)


def strided(n: int, stride: int) -> Mask:
    rows, columns = places(n)
    return causal(n) & ((rows - columns < stride) | ((rows - columns) % stride == 0))


def band(n: int, reach: int, wide: int) -> Mask:
    rows, columns = places(n)
    return (abs(rows - columns) <= reach) | (rows < wide) | (columns < wide)


def best(n: int, count: int, seed: int) -> Mask:
    """``count`` columns of each row, by scores."""
    scores = np.random.default_rng(seed).random((n, n))
    scores[~causal(n)] = -1
    made = np.zeros((n, n), bool)
    for row in range(n):
        made[row, np.argsort(-scores[row])[: min(count, row + 1)]] = True
    return made


def best_blocks(n: int, block: int, count: int, seed: int) -> Mask:
    """A row's own block up to itself, and the best of those in front of it."""
    rng, made = np.random.default_rng(seed), np.zeros((n, n), bool)
    for row in range(n):
        own = row // block
        chosen = {own, *rng.permutation(own)[: count - 1]}
        for column in range(row + 1):
            made[row, column] = column // block in chosen
    return made


@dataclass(frozen=True)
class Case:
    """A pattern beside its mask.

    Attributes:
        pattern, mask: both of the same parameters.
        spare: rows that may be counted and not be read: parts of blocks that are read whole.
    """

    pattern: Pattern
    mask: Callable[[int], Mask]
    spare: int = 0


def cases(a: int, b: int, seed: int) -> dict[str, Case]:
    """Patterns of two parameters; ``a`` is at least one, ``b`` may be zero."""
    return {
        "causal": Case(CAUSAL, causal),
        "window": Case(Window(I(a)), lambda n: window(n, a, 0)),
        "sinks": Case(Window(I(a), I(b)), lambda n: window(n, a, b)),
        "chunks": Case(Chunks(I(a)), lambda n: segments(n, a, 0)),
        "segments": Case(Segments(I(a), I(b)), lambda n: segments(n, a, b)),
        "strided": Case(Strided(I(a)), lambda n: strided(n, a)),
        "selected": Case(Selected(I(a)), lambda n: best(n, a, seed)),
        "blocks": Case(
            SelectedBlocks(I(a), I(b + 1)), lambda n: best_blocks(n, a, b + 1, seed), a - 1
        ),
    }


def exact(expr: Expr, **values: int) -> int:
    found = expr.xreplace({{"q": q, "T": T}[k]: I(v) for k, v in values.items()})
    assert found.is_Integer, found
    return int(found)


def compressed(n: int, size: int, before: int, older: int) -> tuple[Mask, Mask]:
    """What positions see of positions, and of segments that became rows."""
    gone = np.arange(n)[:, None] // size - np.arange(-(-n // size))[None, :]
    return segments(n, size, before), (gone > before) & (gone <= before + older)


@settings(max_examples=30, deadline=None)
@given(
    context=st.integers(1, 30), each=st.integers(1, 3), ratio=st.integers(1, 3),
    before=st.integers(0, 2), older=st.integers(1, 3), data=st.data(),
)  # fmt: skip
def test_segments_that_are_compressed_are_seen_as_rows(context, each, ratio, before, older, data):
    size, new = each * ratio, data.draw(st.integers(1, context))
    pattern = Compressed(I(size), I(before), older=I(older), share=I(ratio))
    near, far = compressed(context, size, before, older)
    at = {"q": new, "T": context}
    step = slice(context - new, context)
    found = pattern.seen(q, T)
    assert exact(pattern.pairs(q, found), **at) == near[step].sum() + each * far[step].sum()
    # Rows that are found are those that some query of the step sees.
    rows = near[step].any(0)
    assert exact(found, **at) == rows.sum() + each * far[step].any(0).sum()
    # Behind the step: room for whole segments, and rows of those that were compressed.
    whole = min(context, size * (before + 1))
    assert exact(pattern.kept(found), **at) == whole + each * far[-1].sum()
    # A segment is compressed when the first position that does not see it whole comes.
    out = (-(-n // size) - 1 - before for n in (context, context - new))
    pushed = [max(k, 0) for k in out]
    assert exact(pattern.made(q), **at) == each * (pushed[0] - pushed[1])


@settings(max_examples=60, deadline=None)
@given(context=st.integers(1, 30), size=st.integers(1, 7), front=st.integers(1, 5), data=st.data())
def test_rows_in_front_are_seen_by_all(context, size, front, data):
    new = data.draw(st.integers(1, context))
    pattern, at = Fronted(Chunks(I(size)), I(front)), {"q": new, "T": context}
    mask = np.hstack([np.ones((context, front), bool), segments(context, size, 0)])
    step = mask[context - new :]
    found = pattern.seen(q, T)
    assert exact(found, **at) == step.any(0).sum()
    assert exact(pattern.pairs(q, found), **at) == step.sum()
    assert exact(pattern.kept(found), **at) == front + min(context, size)


NAMES = sorted(cases(1, 0, 0))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(
    context=st.integers(1, 24), a=st.integers(1, 9), b=st.integers(0, 3), seed=st.integers(0, 99),
    data=st.data(),
)  # fmt: skip
def test_counts_equal_those_of_the_mask(name, context, a, b, seed, data):
    new = data.draw(st.integers(1, context))
    case = cases(a, b, seed)[name]
    pattern, mask = case.pattern, case.mask(context)
    step = mask[context - new :]
    found = pattern.seen(I(new), I(context))
    # Symbols first, then numbers: what a graph is counted with.
    for rows in (pattern.seen(q, T), found):
        at = {"q": new, "T": context}
        assert exact(pattern.pairs(q, rows), **at) == step.sum()
        read = int(step.any(0).sum())
        keys = exact(pattern.keys(q, rows), **at)
        if not pattern.compact:
            assert keys == read == exact(rows, **at)
        else:  # what queries choose apart is read once at least, and once for each at most
            assert read <= keys <= min(context, int(step.sum()) + new * case.spare)
            if new == 1:
                assert keys - read <= case.spare
    # What a step finds of the past is what some query from there on sees.
    later = case.mask(context + 60)[context - new :, : context - new].any(0).sum()
    if pattern.drops:
        assert exact(found, T=context) == later + new
    if not pattern.drops:
        assert exact(pattern.kept(found), T=context) == context
        return
    # Room for the most rows that were ever alive behind a step.
    alive = [case.mask(n + 60)[n - 1 :, :n].any(0).sum() for n in range(1, context + 1)]
    assert exact(pattern.kept(found), T=context) == max(alive)
    assert exact(pattern.written(I(new)), T=context) >= min(new, alive[-1])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(prompt=st.integers(1, 12), count=st.integers(0, 16), a=st.integers(1, 7),
       b=st.integers(0, 3))  # fmt: skip
def test_a_prompt_at_once_has_the_pairs_of_its_tokens_one_by_one(name, prompt, count, a, b):
    pattern = cases(a, b, 0)[name].pattern
    pairs = folded(pattern.pairs(q, pattern.seen(q, T)))
    one_by_one = sum(exact(pairs, q=1, T=t) for t in range(1, prompt + count + 1))
    assert one_by_one == exact(pairs, q=prompt + count, T=prompt + count)
    behind = sum(exact(pairs, q=1, T=t) for t in range(prompt + 1, prompt + count + 1))
    first = exact(pairs, q=prompt, T=prompt)
    assert first + behind == one_by_one
    if count:
        assert exact(pairs, q=count, T=prompt + count) == behind


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 24), reach=st.integers(0, 6), wide=st.integers(0, 5),
       block=st.integers(1, 6))  # fmt: skip
def test_bands_see_both_ways(n, reach, wide, block):
    assert exact(Band(I(reach), I(wide)).pairs(q, q), q=n) == band(n, reach, wide).sum()
    pooled = n * len([b for b in range(n) if (b + 1) * block <= n])
    made = Pooled(I(reach), I(block))
    assert exact(made.pairs(q, q), q=n) == band(n, reach, 0).sum() + pooled
    beside = np.hstack([band(n, reach, 0), np.ones((n, block), bool)])
    assert exact(Sided(I(reach), I(block)).pairs(q, q + block), q=n) == beside.sum()
    front = min(reach, n)
    led = causal(n) | (np.arange(n) < front) & (np.arange(n)[:, None] < front)
    assert exact(Leading(I(front)).pairs(q, q), q=n) == led.sum()
    # What those that see all see may be another operation's.
    beside = Band(I(reach), I(wide), asked=False)
    assert exact(beside.pairs(q, q), q=n) == band(n, reach, wide)[wide:].sum()
    # Ahead they may see as far as another number says.
    ahead = np.tril(np.triu(np.ones((n, n), bool), -reach), wide)
    assert exact(Band(I(reach), ahead=I(wide)).pairs(q, q), q=n) == ahead.sum()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), block=st.integers(1, 4), random=st.integers(0, 2),
       seed=st.integers(0, 99))  # fmt: skip
def test_blocks_see_neighbours_ends_and_some_at_random(n, block, random, seed):
    rng, last = np.random.default_rng(seed), (n - 1) // block
    seen = np.ones((n, n), bool)
    if n > (5 + 2 * random) * block:
        rows, columns = (x // block for x in places(n))
        ends = (columns == 0) | (columns == last) | (rows == 0) | (rows == last)
        seen = ends | (abs(rows - columns) <= 1)
        for own in range(1, last):
            others = [b for b in range(1, last) if abs(b - own) > 1]
            for chosen in rng.choice(others, random, replace=False):
                seen |= (rows == own) & (columns == chosen)
    made = Scattered(I(block), I(random))
    assert exact(made.pairs(q, q), q=n) == seen.sum()
    assert exact(made.dense(q, q), q=n) >= seen.sum()


@settings(max_examples=40, deadline=None)
@given(context=st.integers(1, 24), block=st.integers(1, 7), data=st.data())
def test_summaries_are_those_of_blocks_that_are_over_or_begun(context, block, data):
    new = data.draw(st.integers(1, context))
    for begun in (False, True):
        made = Summaries(I(block), begun)
        seen = [len(range(0 if begun else block - 1, p, block)) for p in range(1, context + 1)]
        assert exact(made.pairs(q, T), q=new, T=context) == sum(seen[context - new :])
        assert exact(made.rows(T), T=context) == seen[-1]


@settings(max_examples=40, deadline=None)
@given(context=st.integers(1, 24), size=st.integers(1, 6), block=st.integers(2, 5),
       count=st.one_of(st.none(), st.integers(1, 4)), data=st.data())  # fmt: skip
def test_a_window_and_rows_of_blocks_that_are_over(context, size, block, count, data):
    """Two masks side by side (DeepSeek-V4): positions, and rows; of those all or the best."""
    new = data.draw(st.integers(1, context))
    pattern = WindowAndRows(
        Window(I(size)), Summaries(I(block)), None if count is None else I(count)
    )
    near = window(context, size, 0)[context - new :]
    over = [p // block for p in range(context - new + 1, context + 1)]
    found = pattern.seen(q, T)
    assert exact(found, q=new, T=context) == near.any(0).sum() + over[-1]
    far = [rows if count is None else min(rows, count) for rows in over]
    assert exact(pattern.pairs(q, found), q=new, T=context) == near.sum() + sum(far)
    assert exact(pattern.keys(q, found), q=new, T=context) >= near.any(0).sum() + max(far)


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.integers(1, 5), min_size=1, max_size=6), share=st.integers(1, 4),
       most=st.one_of(st.none(), st.integers(2, 9)))  # fmt: skip
def test_a_budget_is_what_a_cache_that_evicts_holds(steps, share, most):
    """A cache of numbers: a step sees what is held and itself, then evicts down to the budget."""
    pattern = Budget(1 / I(share), None if most is None else I(most))
    context, held = 0, I(0)
    for new in steps:
        context += new
        found = pattern.seen(I(new), I(context))
        assert found == held + new
        seen = sum(held + i for i in range(1, new + 1))
        assert pattern.pairs(I(new), found) == seen
        held = min(found, *((most,) if most else ()), I(context) / share)
        assert pattern.at(I(context)).kept(found) == held
        assert pattern.written(I(new)) == new


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None)
@given(context=st.integers(8, 30), a=st.integers(1, 9), b=st.integers(0, 4),
       hidden=st.lists(st.integers(0, 7), min_size=1, max_size=3))  # fmt: skip
def test_positions_on_branches_see_what_one_alone_would(name, context, a, b, hidden):
    """Hidden rows are as if they were not there, for patterns that count by places as well."""
    case = cases(a, b, 0)[name]
    levels = tuple((I(n), I(h)) for n, h in enumerate(hidden, 1))
    seen = sum(n * case.mask(context - h)[-1].sum() for n, h in enumerate(hidden, 1))
    rows = case.pattern.seen(q, T)
    at = {"q": len(hidden), "T": context}
    assert exact(case.pattern.branched(levels).pairs(q, rows), **at) == seen
    whole = Summaries(I(a))
    over = sum(n * ((context - h) // a) for n, h in enumerate(hidden, 1))
    assert exact(whole.branched(levels).pairs(q, whole.rows(T)), **at) == over


@pytest.mark.parametrize("name", NAMES)
def test_others_count_what_they_hold(name):
    pattern = cases(5, 1, 0)[name].pattern
    rows = pattern.seen(I(3), I(20))
    at = {T: I(20)}
    dense, parted = Dense(pattern), Parted(pattern, queries=I(2))
    reached = {"selected": 5, "blocks": 10}.get(name, rows)  # chosen rows, masked or not
    assert dense.pairs(I(3), rows) == 3 * reached
    assert dense.compact == parted.compact == pattern.compact
    assert dense.seen(I(3), I(20)) == rows
    assert dense.kept(rows) == pattern.kept(rows)
    assert dense.written(I(3)) == pattern.written(I(3))
    assert parted.pairs(I(2), rows).xreplace(at) == pattern.pairs(I(4), rows).xreplace(at) / 2
    assert FULL.pairs(I(3), rows) == 3 * rows


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8, deadline=None)
@given(prompt=st.integers(1, 30), count=st.integers(1, 40))
def test_sums_over_a_generation_close_and_equal_the_loop(name, prompt, count):
    """Bound to one token, pairs and rows are affine or staircases between a few kinks."""
    pattern = cases(5, 2, 0)[name].pattern
    found = pattern.seen(q, T)
    formulas = [pattern.pairs(q, found), pattern.kept(found), pattern.keys(q, found)]
    if isinstance(pattern, Strided):
        formulas.pop()  # a minimum over a staircase: summed term by term
    for formula in formulas:
        step = bound(formula, {q: I(1)})
        total = I(0)
        for arms, span in split((Arm(step, ""),), Span(T, S, S + N - 1)):
            (arm,) = arms
            closed = power_sum(arm.expr, span)
            assert closed is not None, (name, arm.expr)
            total += closed
        loop = sum(step.xreplace({T: I(prompt + i)}) for i in range(count))
        assert total.xreplace({S: I(prompt), N: I(count)}) == loop
    assert bound(found, {q: S, T: S}) == S


@settings(max_examples=40, deadline=None)
@given(every=st.integers(1, 5), times=st.integers(1, 4), context=st.integers(1, 30),
       data=st.data())  # fmt: skip
def test_rows_of_overlapping_blocks(every, times, context, data):
    """Rows, pairs and what is not in a block yet, against blocks written out (NSA)."""
    new, block = data.draw(st.integers(1, context)), every * times
    if block == 1:
        return
    pattern = Summaries(I(block), stride=I(every))

    def over(position: int) -> int:
        return len([a for a in range(0, position, every) if a + block <= position])

    assert pattern.rows(I(context)) == over(context)
    seen = sum(over(p) for p in range(context - new + 1, context + 1))
    for rows in (pattern.rows(T), pattern.rows(I(context))):
        assert exact(pattern.pairs(q, rows), q=new, T=context) == seen
    rest = Unfinished(pattern)

    def waiting(position: int) -> int:
        return position - every * over(position)

    assert exact(rest.seen(q, T), q=new, T=context) == waiting(context - new) + new
    room = max(waiting(p) for p in range(1, context + 1))
    assert room <= exact(rest.kept(T), T=context) <= room + max(0, block - every)
    assert exact(rest.kept(T), T=1000) == max(waiting(p) for p in range(1, 1000))


@settings(max_examples=40, deadline=None)
@given(prompt=st.integers(1, 20), count=st.integers(1, 12), later=st.integers(0, 12),
       data=st.data())  # fmt: skip
def test_of_a_prompt_some_rows_stay_and_all_that_come_after(prompt, count, later, data):
    pattern, at = Distilled(I(count)), {S: I(prompt)}
    mask = causal(prompt + later)
    dropped = data.draw(st.permutations(range(prompt)))[: max(prompt - count, 0)]
    mask[prompt:, dropped] = False  # a prompt attends to all of itself
    new = data.draw(st.integers(1, later)) if later else prompt
    step = mask[prompt + later - new :]
    values = {**at, q: I(new), T: I(prompt + later)}
    found = pattern.seen(q, T)
    assert found.xreplace(values) == step.any(0).sum()
    assert pattern.pairs(q, found).xreplace(values) == step.sum()
    stays = prompt + later - len(dropped)
    assert pattern.kept(found).xreplace(values) == stays
    assert pattern.written(I(prompt)) == prompt - len(dropped)
