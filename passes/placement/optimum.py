"""The shares of ``offload{policy=optimal}``: FlexGen's linear program on the tool's formulas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from sympy import Expr, Integer, Rational, Symbol

from costgraph.errors import PipelineError
from costgraph.formula.formula import Formula
from costgraph.formula.linear import Bound, Optimum, least
from costgraph.formula.terms import Term
from costgraph.hardware.systems import HOST, STORAGE, System
from costgraph.ir.program import Program
from costgraph.passes.placement.shares import WORDS
from costgraph.rewriting.choosing import Search
from costgraph.rewriting.sizes import Sizes
from costgraph.symbols import N, S, T, symbol
from costgraph.timing import roofline
from costgraph.units import format_quantity

if TYPE_CHECKING:
    from costgraph.passes.placement.offload import Offload

#: Decimals of a share, and the part of a memory that is kept free for their rounding.
DECIMALS, FREE = 6, 1e-4
#: What is kept elsewhere, by the letter of its shares' symbols.
LETTERS = {"weights": "w", "caches": "c", "activations": "h"}


def best_shares(given: Offload, program: Program, system: System) -> Search:
    """Finds the shares at which a request of the given sizes takes least.

    Steps of decoding count at their mean context, as in FlexGen's program.

    Raises:
        PipelineError: nothing fits, or something is no number.
    """
    device = system.device
    stated = [w for w, level in (("host", HOST), ("disk", STORAGE)) if level in device.tiers]
    words = [w for w in stated if device.tiers[WORDS[w]].bandwidth is not None]
    if not words:
        raise PipelineError(
            f"offload: policy=optimal: {system.name} states no host memory or storage with a rate"
        )
    if not given.blocks.is_number:
        raise PipelineError("offload: policy=optimal needs a number of blocks")
    open_ = {
        option: {word: symbol(f"{letter}_{word}") for word in words}
        for option, letter in LETTERS.items()
        if not (option == "caches" and given.attention == "host")
        and not (option == "activations" and given.blocks == 1)
    }
    # What is decided has no workload of its own any more: the note tells it.
    usual: dict[str, Any] = {f.name: f.default for f in fields(given) if f.name.startswith("at_")}
    candidate = _with(replace(given, policy="", preset="", **usual), open_)
    tried = yield candidate
    shares = [s for shares in open_.values() for s in shares.values()]
    times = [tried.formula(m) for m in (("ttft", "tpot") if program.decoding else ("latency",))]
    memory = tried.formula("memory")
    sizes = Sizes.of(
        given, [*times, memory], free=("T", *(s.name for s in shares)),
        always="BSN" if program.decoding else "B",
    )  # fmt: skip
    values = sizes.bindings
    if program.decoding:
        values[T] = values[S] + values[N] / 2
    made = candidate.run(program, system).program
    found = least(
        _goal(times, values),
        shares,
        (*_rooms(memory, system), *_levels(made, system), *_wholes(open_)),
        values,
        {s: words.index(w) + 1.0 for shares in open_.values() for w, s in shares.items()},
    )
    if found is None:
        raise PipelineError(
            f"offload: policy=optimal: {program.name} fits {system.name} in no way at {sizes}"
        )
    numbers = {
        option: {w: _rounded(found.at[s]) for w, s in shares.items()}
        for option, shares in open_.items()
    }
    decided = _with(candidate, numbers)
    left = "".join(f"; {w} left out: no rate is stated" for w in stated if w not in words)
    return replace(decided, note=_note(decided, found, sizes) + left)


def _goal(times: Sequence[Formula], values: Mapping[Symbol, Expr]) -> tuple[Term, ...]:
    """The prompt and all decode steps; of a model without tokens its one pass."""
    first, *steps = times
    more = (replace(t, count=t.count * (values[N] - 1)) for f in steps for t in f.terms)
    return (*first.terms, *more)


def _rooms(memory: Formula, system: System) -> Iterator[Bound]:
    room = system.device.memory.room
    if room is None or not room.is_number:
        return
    for term in memory.terms:
        for arm in term.arms:
            yield Bound(f"memory of {system.device.name}", arm.expr, float(room), FREE)


def _levels(made: Program, system: System) -> Iterator[Bound]:
    for level in roofline.levels(made):
        capacity = system.device.tiers[level].capacity
        if capacity is None:
            continue
        for term in roofline.level_terms(made, level):
            for arm in term.arms:
                yield Bound(f"{level} of {system.name}", arm.expr, float(capacity), FREE)


def _wholes(open_: dict[str, dict[str, Symbol]]) -> Iterator[Bound]:
    """No more is away than there is."""
    for option, shares in open_.items():
        if len(shares) > 1:
            yield Bound(f"all {option} are away", sum(shares.values(), Integer(0)), 1.0)


def _with(given: Offload, shares: Mapping[str, Mapping[str, Expr]]) -> Offload:
    """The pass with shares of what is open, as options write them."""
    text = {
        option: "|".join(f"{word}:{_shown(share)}" for word, share in found.items() if share != 0)
        for option, found in shares.items()
    }
    return replace(
        given,
        weights=text.get("weights", given.weights),
        caches=text.get("caches", given.caches),
        activations=text.get("activations", given.activations),
    )


def _shown(share: Expr) -> str:
    """A share as options write it: a symbol, or its decimals."""
    return f"{float(share):.{DECIMALS}g}" if share.is_number else str(share)


def _rounded(share: float) -> Expr:
    return Rational(min(max(round(share * 10**DECIMALS), 0), 10**DECIMALS), 10**DECIMALS)


def _note(decided: Offload, found: Optimum, sizes: Sizes) -> str:
    parts = [
        f"{option} {getattr(decided, option).replace('|', ', ') or 'on the device'}"
        for option in LETTERS
    ]
    full = [name for name in found.binding if not name.startswith("all ")]
    binding = f"; full: {', '.join(full)}" if full else "; nothing is full"
    rate = format_quantity(found.value, "s")
    if "N" in sizes.values:
        tokens = sizes.values["B"] * sizes.values["N"]
        rate = format_quantity(tokens / found.value, "token/s")
    return (
        f"offload: the shares are the optimum of a linear program at {sizes}: {'; '.join(parts)}"
        f"{binding}; {rate}"
    )
