"""Writes the tables of docs/decoding.md, or with --check says whether they are current.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. Every cell comes from
compiled programs; a policy whose width is open takes the best of its candidates at each batch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from sympy import Expr, Rational

import costgraph as cg
from costgraph.passes.decoding.acceptance import Constant, emitted
from costgraph.passes.decoding.trees import best_tree
from costgraph.symbols import symbol

PAGE = Path(__file__).parents[1] / "decoding.md"
PART = re.compile(r"(<!-- table: (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
EDGES = (1, 16, 64)
CONTEXT, ALPHA = 1024, 0.7
#: Largest batch that is looked at.
MOST = 2**16
WIDTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
HEADS = (1, 2, 3, 4)
#: Nodes of trees, and their levels.
SIZES = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
LEVELS = (2, 4, 8, 16)

#: Target and draft by the name in the page.
MODELS = {
    "7B": ("qwen3-8b", "qwen3-0.6b"),
    "70B": ("llama-3.1-70b", "llama-3.2-1b"),
    "MoE": ("qwen3-30b-a3b", "qwen3-0.6b"),
}
PASSES = "fuse,quantize{preset=fp8}"
#: Systems: how the target is shared among the devices, alone and beside a draft of its own.
SYSTEMS = {
    "h200": ("", None),
    "8xh200": (",parallel{tp=8}", ",parallel{tp=4,spare=4}"),
}


@dataclass(frozen=True)
class Policy:
    """A way to decode: the options of its candidates, without the acceptance.

    Attributes:
        name: in the table.
        candidates: options of ``speculative``; ``DRAFT`` stands for the small model.
        apart: they run with a draft on devices of its own, where the system has such.
    """

    name: str
    candidates: tuple[str, ...]
    apart: bool = False


def chains(widths: tuple[int, ...], more: str = "draft=DRAFT") -> tuple[str, ...]:
    """Chains of each length."""
    return tuple(f"{more},gamma={g}" for g in widths)


def trees(widths: tuple[int, ...], more: str = "draft=DRAFT") -> tuple[str, ...]:
    """Chains, which are trees, and the best trees of up to as many levels."""
    levels = [g for g in LEVELS if g <= widths[-1]]
    return chains(widths, more) + tuple(
        f"{more},tree=optimal,gamma={g},nodes={n}" for g in levels for n in SIZES if n > g
    )


POLICIES = (
    Policy("chain of 4", ("draft=DRAFT,gamma=4",)),
    Policy("best chain", chains(WIDTHS)),
    Policy("best tree", trees(WIDTHS)),
    Policy("best chain of heads", chains(HEADS, "draft=heads")),
    Policy("best tree of heads", trees(HEADS, "draft=heads")),
    Policy("best chain of skipped layers", chains(WIDTHS[:6], "draft=skip")),
    Policy("best pearl", chains(WIDTHS, "draft=DRAFT,schedule=pearl"), True),
    Policy("lookahead (15, 5, 15)", ("draft=lookahead",)),
)


@dataclass(frozen=True)
class Way:
    """A compiled way to decode.

    Attributes:
        tpot: seconds per token in ``B``, ``T`` and perhaps the acceptance ``acc``.
        room: the largest batch that fits into memory at the context of the tables.
    """

    tpot: cg.Formula
    room: int


def way(model: str, system: str, passes: str) -> Way:
    """A program and how much of it there is room for."""
    made = cg.compile(model, system, passes)
    low, high = 0, MOST
    while high - low > 1:
        middle = (low + high) // 2
        fits = made.fit(B=middle, T=CONTEXT).fits
        low, high = (middle, high) if fits else (low, middle)
    return Way(made.tpot, low)


@cache
def plain(model: str, system: str) -> Way:
    """The target alone, on all devices."""
    return way(model, system, PASSES + SYSTEMS[system][0])


@cache
def drafted(model: str, draft: str, system: str, apart: bool, options: str) -> Way:
    """A candidate over the acceptance; trees keep the shape that is best at that of the table."""
    shared, spare = SYSTEMS[system]
    if apart and spare is not None:
        shared, options = spare, f"{options},draft-on=separate"
    alpha = str(ALPHA) if "tree" in options else "acc"
    text = f"{options.replace('DRAFT', draft)},alpha={alpha}"
    made = way(model, system, f"{PASSES}{shared},speculative{{{text}}}")
    return replace(made, tpot=made.tpot * tokens_ratio(options)) if "tree" in options else made


def tokens_ratio(options: str) -> Expr:
    """Tokens of a best tree at the acceptance of the table over those at ``acc``."""
    gamma, nodes = (int(n) for n in re.findall(r"(?:gamma|nodes)=(\d+)", options))
    own = Rational(str(ALPHA))
    tree = best_tree(Constant(own), nodes, gamma)
    at, over = (emitted(tree.reach(Constant(a))) for a in (own, symbol("acc")))
    return at / over.expand()


@dataclass(frozen=True)
class Case:
    """A policy for a model on a system."""

    model: str
    system: str
    policy: Policy

    def way(self, options: str) -> Way:
        """A candidate, compiled."""
        model, draft = MODELS[self.model]
        return drafted(model, draft, self.system, self.policy.apart, options)

    @property
    def alone(self) -> Way:
        """The target alone."""
        return plain(MODELS[self.model][0], self.system)

    @property
    def room(self) -> int:
        """The largest batch at which the target and some candidate fit into memory."""
        return min(self.alone.room, max(self.way(o).room for o in self.policy.candidates))

    def seconds(self, options: str, batch: int, alpha: float) -> float:
        """Time per token of a candidate."""
        return float(self.way(options).tpot.evaluate(B=batch, T=CONTEXT, acc=alpha))

    def best(self, batch: int, alpha: float) -> str:
        """The fastest candidate that fits."""
        fitting = [o for o in self.policy.candidates if self.way(o).room >= batch]
        return min(fitting, key=lambda o: self.seconds(o, batch, alpha))

    def speedup(self, batch: int, alpha: float = ALPHA) -> float:
        """Of the best candidate that fits."""
        least = self.seconds(self.best(batch, alpha), batch, alpha)
        return float(self.alone.tpot.evaluate(B=batch, T=CONTEXT)) / least

    def break_even(self, batch: int) -> float | None:
        """The least acceptance from which the best candidate is no slower; None above one.

        Bisection says which candidate that is, and its break-even is exact.
        """
        low, high = 1e-6, 1.0
        if self.speedup(batch, high) < 1:
            return None
        while high - low > 5e-4:
            middle = (low + high) / 2
            low, high = (low, middle) if self.speedup(batch, middle) >= 1 else (middle, high)
        tpot = self.way(self.best(batch, high)).tpot
        found = cg.wins(self.alone.tpot, tpot, "acc", B=batch, T=CONTEXT)
        (even,) = (float(x.lower) for x in found if float(x.lower) <= high <= float(x.upper))
        return even

    def stops(self) -> int:
        """The largest batch that fits at which it pays; 0 if none does.

        Batches are doubled, and the last doubling is halved until the batch is found.
        """
        grid = [2**i for i in range(MOST.bit_length()) if 2**i < self.room] + [self.room]
        paying = [i for i, b in enumerate(grid) if self.speedup(b) > 1]
        if not paying or paying[-1] == len(grid) - 1:
            return grid[-1] if paying else 0
        low, high = grid[paying[-1] : paying[-1] + 2]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.speedup(middle) > 1 else (low, middle)
        return low


def row(case: Case) -> str:
    """A line of the table of policies."""
    ups = [f"{case.speedup(b):.2f}" if b <= case.room else "no room" for b in BATCHES]
    evens = [even(case, b) if b <= case.room else "no room" for b in EDGES]
    last = case.stops()
    ends = f"{last}, all there is room for" if last == case.room else str(last or "never pays")
    return f"| {case.policy.name} | {' | '.join(ups)} | {' | '.join(evens)} | {ends} |"


def even(case: Case, batch: int) -> str:
    """The acceptance at break-even."""
    found = case.break_even(batch)
    return "never" if found is None else f"{found:.2f}"


def policies(model: str, system: str) -> Iterator[str]:
    """Speed-up by batch, acceptance at break-even, and where each policy stops to pay."""
    batches = " | ".join(f"B = {b}" for b in BATCHES)
    evens = " | ".join(f"even at {b}" for b in EDGES)
    yield f"| policy | {batches} | {evens} | pays up to B = |"
    yield "| --- |" + " --- |" * (len(BATCHES) + len(EDGES) + 1)
    for policy in POLICIES:
        yield row(Case(model, system, policy))


def widths(model: str, system: str) -> Iterator[str]:
    """The best length of a chain by acceptance and batch."""
    alphas = (0.5, 0.6, 0.7, 0.8, 0.9)
    yield "| B | " + " | ".join(f"alpha = {a}" for a in alphas) + " |"
    yield "| --- |" + " --- |" * len(alphas)
    case = Case(model, system, POLICIES[1])
    for batch in (1, 4, 16, 64, 256):
        cells = []
        for alpha in alphas if batch <= case.room else ():
            fitting = (o for o in case.policy.candidates if case.way(o).room >= batch)
            times = {o: case.seconds(o, batch, alpha) for o in fitting}
            best = min(times, key=times.__getitem__)
            up = float(case.alone.tpot.evaluate(B=batch, T=CONTEXT)) / times[best]
            cells.append(f"{best.rpartition('=')[2]} ({up:.2f})" if up > 1 else "0")
        yield f"| {batch} | {' | '.join(cells or ['no room'] * len(alphas))} |"


TABLES = {"policies": policies, "widths": widths}


def table(name: str) -> str:
    """A table by its name: what, model, system."""
    what, model, system = name.split()
    return "\n".join(TABLES[what](model, system)) + "\n"


def generated(text: str) -> str:
    """``text`` with every table made anew."""
    return PART.sub(lambda m: f"{m[1]}{table(m[2])}{m[4]}", text)


def main() -> int:
    old = PAGE.read_text(encoding="utf-8")
    new = generated(old)
    if "--check" in sys.argv[1:]:
        return 0 if new == old else 1
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
