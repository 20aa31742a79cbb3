"""Options into rounds: which structure is asked for, and what each takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from sympy import Expr, Integer

from costgraph.errors import PipelineError, clip
from costgraph.passes.decoding import rounds
from costgraph.passes.decoding.acceptance import (
    Acceptance,
    emitted,
    independent_reach,
    tree_reach,
    whole,
)
from costgraph.passes.decoding.draft_length import LONGEST_UNSURE
from costgraph.passes.decoding.rounds import Round, branching, chained
from costgraph.passes.decoding.trees import best_tree
from costgraph.symbols import B

if TYPE_CHECKING:
    from costgraph.passes.decoding.speculative import Speculative

ONE, ZERO = Integer(1), Integer(0)
#: Longest and most drafts of a round, and a thousand times it, most nodes of a tree.
MOST_DRAFTED = 1024
#: Most levels of a tree, and most children of a node.
DEEPEST, WIDEST = 16, 64
_WINDOW = re.compile(r"w(\d{1,4})\|n(\d{1,3})\|g(\d{1,4})\Z")


def chain(item: Speculative, acceptance: Acceptance) -> Round:
    gamma = _gamma(item, acceptance)
    if item.batch == "ragged":
        return chained(gamma, acceptance.chain(gamma))
    return chained(gamma, emitted(_survivals(acceptance, gamma), B))


def independent(item: Speculative, acceptance: Acceptance) -> Round:
    gamma = _gamma(item, acceptance)
    reach = independent_reach(acceptance, gamma, item.drafts)
    return branching(gamma, emitted(reach, _batch(item)), [item.drafts] * whole(gamma))


def given_tree(item: Speculative, acceptance: Acceptance) -> Round:
    widths = _widths(item.tree)
    nodes = [ONE]
    for m in widths:
        nodes.append(nodes[-1] * m)
    total = sum(nodes[1:])
    if total > 1000 * MOST_DRAFTED:
        raise PipelineError(f"tree: {total} drafted positions are too many")
    tokens = emitted(tree_reach(acceptance, widths), _batch(item))
    return branching(Integer(len(widths)), tokens, nodes[1:])


def optimal_tree(item: Speculative, acceptance: Acceptance) -> Round:
    assert isinstance(item.nodes, Expr)
    tree = best_tree(acceptance, whole(item.nodes), whole(_gamma(item, acceptance)))
    counts = tree.levels
    tokens = emitted(tree.reach(acceptance), _batch(item))
    nodes = [Integer(n) for n, _ in counts]
    inner = [Integer(m) for _, m in counts[:-1]]
    return branching(Integer(len(counts)), tokens, nodes, inner)


def unsure(item: Speculative, acceptance: Acceptance) -> Round:
    return _ending(item, acceptance, rounds.unsure, item.stop)


def falling_back(item: Speculative, acceptance: Acceptance) -> Round:
    return _ending(item, acceptance, rounds.falling_back, item.fallback)


def lookahead(item: Speculative, acceptance: Acceptance) -> Round:
    found = _WINDOW.match(item.window)
    if found is None or found[2] == "0":
        raise PipelineError(
            f"window: {clip(item.window)} is not as w15|n5|g15: columns, length of n-grams, guesses"
        )
    w, n, g = map(int, found.groups())
    if (w + g) * (n - 1) > 1000 * MOST_DRAFTED:
        raise PipelineError(f"window: {(w + g) * (n - 1)} positions are too many")
    reach = independent_reach(acceptance, Integer(n - 1), Integer(g))
    best = emitted(reach, _batch(item))
    return rounds.windowed(w, n, g, (item.every - 1 + best) / item.every)


def jacobi(item: Speculative, acceptance: Acceptance) -> Round:
    assert isinstance(item.gamma, Expr)
    block, iterations = item.gamma, item.iterations
    if iterations.is_number and block.is_number and iterations > block > 0:
        raise PipelineError(
            f"iterations: a block of {block} tokens is exact after {block} iterations, not "
            f"{iterations}"
        )
    if block == 1:
        return Round(ZERO, ONE, (), ())
    return rounds.iterated(block, iterations)


def phrases(item: Speculative, acceptance: Acceptance) -> Round:
    assert isinstance(item.gamma, Expr)
    return chained(item.gamma, item.gamma + 1)


_ACCEPTANCE = frozenset({"alpha", "alphas", "acceptance", "accepted", "gain", "epsilon"})
#: Every structure: how it is made, and the options that say something in it.
Maker = Callable[["Speculative", Acceptance], Round]
STRUCTURES: dict[str, tuple[Maker, frozenset[str]]] = {
    "a chain": (chain, _ACCEPTANCE | {"gamma"}),
    "independent drafts": (independent, _ACCEPTANCE | {"gamma", "drafts"}),
    "a given tree": (given_tree, _ACCEPTANCE | {"tree"}),
    "an optimal tree": (optimal_tree, _ACCEPTANCE | {"gamma", "tree", "nodes"}),
    "a draft that stops": (unsure, _ACCEPTANCE | {"gamma", "stop"}),
    "a draft that falls back": (falling_back, _ACCEPTANCE | {"gamma", "fallback"}),
    "draft=lookahead": (lookahead, _ACCEPTANCE | {"window", "every"}),
    "draft=jacobi": (jacobi, frozenset({"gamma", "iterations"})),
    "draft=phrases": (phrases, frozenset({"gamma"})),
}
#: Options that say which structure it is, or something within one.
SHAPING = frozenset().union(*(used for _, used in STRUCTURES.values()))


def structure_of(item: Speculative) -> str:
    """Which of :data:`STRUCTURES` the options ask for.

    Raises:
        PipelineError: they contradict one another.
    """
    if item.draft in ("lookahead", "jacobi", "phrases"):
        return f"draft={item.draft}"
    asked = {
        "independent drafts": item.drafts != 1,
        "a given tree": item.tree not in ("", "optimal"),
        "an optimal tree": item.tree == "optimal",
        "a draft that stops": item.stop != 0,
        "a draft that falls back": item.fallback != 0,
    }
    found = [name for name, is_asked in asked.items() if is_asked]
    if len(found) > 1:
        raise PipelineError(f"{found[0]} and {found[1]} exclude one another")
    return found[0] if found else "a chain"


def round_of(item: Speculative, acceptance: Acceptance) -> Round:
    """What is drafted and verified in one round, and the expected tokens.

    Raises:
        PipelineError: the options contradict one another, or do nothing.
    """
    name = structure_of(item)
    make, used = STRUCTURES[name]
    given = {f for f in SHAPING - used if getattr(item, f) != getattr(type(item), f)}
    if given:
        raise PipelineError(f"{min(given)} says nothing about {name}")
    if item.draft in ("jacobi", "phrases") and item.batch != "ragged":
        raise PipelineError(f"batch says nothing about draft={item.draft}")
    return make(item, acceptance)


def _gamma(item: Speculative, acceptance: Acceptance) -> Expr:
    """Tokens of a branch: as given, or as many as acceptances are known for."""
    assert isinstance(item.gamma, Expr)
    known = acceptance.depths
    if known is None:
        return item.gamma
    if item.gamma == type(item).gamma:
        return Integer(known)
    return item.gamma


def _batch(item: Speculative) -> Expr:
    """Sequences that advance together by the least of them."""
    return ONE if item.batch == "ragged" else B


def _survivals(acceptance: Acceptance, gamma: Expr) -> tuple[Expr, ...]:
    return tuple(acceptance.survival(Integer(i)) for i in range(1, whole(gamma) + 1))


def _ending(
    item: Speculative, acceptance: Acceptance, make: Callable[..., Round], share: Expr
) -> Round:
    if item.batch != "ragged":
        raise PipelineError(
            "batch=sync is not defined for drafts that end themselves: they end at different "
            "lengths, and nothing says who waits for whom"
        )
    gamma = whole(_gamma(item, acceptance))
    if gamma > LONGEST_UNSURE:
        raise PipelineError(
            f"gamma: each length of a draft that ends itself is a pass of its own; at most "
            f"{LONGEST_UNSURE}, not {gamma}"
        )
    if gamma == 0:
        return chained(ZERO, ONE)
    return make(share, gamma, _survivals(acceptance, Integer(gamma)))


def _widths(text: str) -> list[int]:
    parts = text.removeprefix("t").split("|")
    if not all(p.isascii() and p.isdigit() for p in parts):
        raise PipelineError(
            f"tree: {clip(text)} is not a list of widths such as t4|2|1, nor 'optimal'"
        )
    if len(parts) > DEEPEST:
        raise PipelineError(f"tree: {clip(text)} has {len(parts)} levels; at most {DEEPEST}")
    for part in parts:
        if len(part) > 9 or not 0 < int(part) <= WIDEST:
            raise PipelineError(f"tree: a width is from 1 to {WIDEST}, not {clip(part)}")
    return [int(p) for p in parts]
