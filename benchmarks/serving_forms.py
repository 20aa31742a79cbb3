"""Holds closed forms of servers under load against their simulation; see docs/serving.md.

    python benchmarks/serving_forms.py            the whole grid (half an hour of one core)
    python benchmarks/serving_forms.py --quick    a corner of it, to see that it runs
    python benchmarks/serving_forms.py --write    also writes their table in docs/serving.md
    python benchmarks/serving_forms.py --only X   kinds whose name has X

Policies, plans and lengths at loads from 10 to 95 % of the limit. A form is **held** where its
error is within what is promised of its kind (:data:`PROMISED`) at every point, and broken where it
is beyond by more than two standard errors of the simulation (of an exact one: by more than three,
and 1 %). Simulations are repeated with other seeds until that error is a quarter of what is
promised, or :data:`MOST` are done; tables have the largest.
Exit code 1: one is broken, or Little's law is.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

import costgraph as cg
from costgraph.asking.serving import (
    ChunkedPrefill,
    Continuous,
    DecodeOnly,
    Lengths,
    Policy,
    Pool,
    PrefillFirst,
    Queue,
    Request,
    Simulated,
    StaticBatches,
    StepTimes,
    at_once,
    poisson,
    simulate,
)
from costgraph.asking.serving.queueing import HONEST, LONG, SHORT
from costgraph.asking.serving.settled import batches
from costgraph.showing.export.table import plain_table

PAGE = Path(__file__).parents[1] / "docs" / "serving.md"
LOADS = (0.1, 0.3, 0.6, 0.8, 0.9, 0.95)
#: Seeds at first, and at most.
FIRST, MOST = 3, 6
#: What an exact form is told from others by: it is held within three standard errors and a share.
EXACT, SLIGHT = 0.2, 0.01
#: Positions of caches that are never short: places alone limit who comes.
ENDLESS = 10**9
#: Longest context that is asked for.
LONGEST = 40_000


def fixed(mean: float) -> Lengths:
    return Lengths(mean)


def even(mean: float, width: float = 0.8) -> Lengths:
    return Lengths(mean, "uniform", width)


def skew(mean: float, variation: float = 0.8) -> Lengths:
    return Lengths(mean, "lognormal", variation)


@dataclass(frozen=True)
class Setting:
    """A server and its traffic; ``kind`` is the row of the tables that it counts in."""

    kind: str
    policy: Policy
    prompt: Lengths
    answer: Lengths
    model: str = "llama-3.1-8b"
    on: str = "h100"
    passes: str = "fuse"
    servers: int = 1
    cached: float = 0.0

    @property
    def name(self) -> str:
        """Everything but the kind, for a table."""
        budget = getattr(self.policy, "budget", None)
        policy = self.policy.name + (f" of {budget}" if budget else "")
        more = self.passes.removeprefix("fuse").lstrip(",")
        more = "drafts" if more.startswith("speculative") else more
        parts = (self.model, self.on, f"`{more}`" if more else "", f"{policy}, {self.policy.limit} "
                 "places", f"{self.servers} replicas" if self.servers > 1 else "",
                 f"{self.cached:.0%} cached" if self.cached else "",
                 f"{self.prompt} to {self.answer}")  # fmt: skip
        return ", ".join(p for p in parts if p)

    @property
    def times(self) -> StepTimes:
        """Its steps."""
        return steps(self.model, self.on, self.passes)

    @property
    def pool(self) -> Pool:
        """Its servers."""
        return Pool(self.times, self.policy, self.servers, positions=ENDLESS)

    @property
    def queue(self) -> Queue:
        """Its closed forms; of a pipeline those of one group in flight."""
        return queue_of(self)

    @property
    def most(self) -> float:
        """The largest rate by the forms, of all groups in flight."""
        if self.policy.holds:
            return batches(0, self.batch, self.policy.limit)[0]
        return self.times.lanes * self.queue.stable_rate

    @property
    def batch(self) -> float:
        """Seconds of a static batch, to the end of its longest answer."""
        many, longest = self.policy.limit, self.answer.longest(self.policy.limit)
        whole = round(self.prompt.mean)
        return self.times.step(0, 0, ((whole, whole),) * many) + (longest - 1) * self.times.decode(
            many, self.prompt.mean + longest / 2
        )


@cache
def steps(model: str, on: str, passes: str) -> StepTimes:
    """Steps of a server; settings share their tables."""
    return StepTimes.of(cg.compile(model, on, passes, fidelity="calibrated"), LONGEST)


@cache
def queue_of(s: Setting) -> Queue:
    """The closed forms of a setting, made once for all loads."""
    return Queue(s.times, s.policy, s.prompt, s.answer, s.servers, s.cached)


#: How far a measure may be off, from and to, up to a load: what docs/serving.md promises.
Band = tuple[float, float, float]
TPOT = {"tpot": ((0.95, -0.12, 0.12),), "tpot p90": ((0.95, -0.11, 0.11),)}
FIRST_TOKENS = ((HONEST, -0.12, 0.12), (0.95, -SHORT, LONG))
SPREAD = ((HONEST, -0.10, 0.17), (0.95, -SHORT, LONG))
UPPER = {"ttft p50": ((HONEST, -0.12, 0.12),), "ttft p90": ((HONEST, -0.18, 0.18),)}
WIDE = {"ttft p50": ((HONEST, -0.12, 0.12),), "ttft p90": ((HONEST, -0.32, 0.18),)}
LIMIT: Mapping[str, tuple[Band, ...]] = {
    "λ*, whole prompts": ((0, -0.01, 0.01),), "λ*": ((0, -0.03, 0.03),),
}  # fmt: skip
PROMISED: Mapping[str, Mapping[str, tuple[Band, ...]]] = {
    "one place": {"λ*": ((0, 0, 0),), "tpot": ((0.95, 0, 0),), "ttft": ((0.95, 0, 0),)},
    "few places": {**LIMIT, "tpot": TPOT["tpot"], "ttft": FIRST_TOKENS},
    "equal prompts": {**LIMIT, **TPOT, "ttft": FIRST_TOKENS, **UPPER},
    "prompts that differ": {**LIMIT, **TPOT, "ttft": SPREAD, **WIDE},
    "drafts": {**LIMIT, **TPOT, "ttft": FIRST_TOKENS, **UPPER},
    "prefixes": {**LIMIT, **TPOT, "ttft": FIRST_TOKENS, **UPPER},
    "four replicas": {**LIMIT, **TPOT, "ttft": FIRST_TOKENS, **UPPER},
    "attention in replicas": {**LIMIT, **TPOT, "ttft": FIRST_TOKENS, **UPPER},
    "pipelines": {
        "λ*": ((0, -0.08, 0.08),), "tpot": ((HONEST, -0.11, 0.11),),
        "ttft": ((HONEST, -0.09, 0.31),),
    },
    "a pool for prompts": {"λ*": ((0, 0, 0),), "ttft": ((0.95, 0, 0),)},
    "a pool that decodes": {
        **LIMIT, "tpot": ((HONEST, -0.01, 0.01), (0.9, -0.02, 0.02)),
        "tpot p90": ((HONEST, -0.04, 0.02),),
    },
    "static batches": {"λ*": ((0, -0.03, 0.03),)},
}  # fmt: skip

DRAFTS = "fuse,speculative{draft=llama-3.2-1b,gamma=3,alpha=0.7}"
WAYS: tuple[tuple[str, str, str], ...] = (
    ("llama-3.1-8b", "h100", "fuse"),
    ("qwen3-30b-a3b", "h100", "fuse"),
    ("llama-3.1-70b", "4xh100", "fuse,parallel{tp=4}"),
)


def grid() -> Iterator[Setting]:
    """All settings."""
    for policy in (PrefillFirst(1), ChunkedPrefill(1, 512)):
        yield Setting("one place", policy, fixed(1024), skew(128))
    for places, answer in ((2, fixed(256)), (4, even(256)), (8, skew(256))):
        yield Setting("few places", ChunkedPrefill(places, 2048), fixed(1024), answer)
    for model, on, passes in WAYS:
        many = 96 if on[0] == "4" else 64
        policies: list[Policy] = [PrefillFirst(many), ChunkedPrefill(many, 512)]
        if model == WAYS[0][0]:
            policies += [Continuous(many), ChunkedPrefill(many, 2048)]
        for policy in policies:
            yield Setting("equal prompts", policy, fixed(1024), even(256), model, on, passes)
            yield Setting("prompts that differ", policy, skew(1024), skew(256), model, on, passes)
    for policy in (PrefillFirst(64), Continuous(64), ChunkedPrefill(64, 512)):
        yield Setting("equal prompts", policy, fixed(200), even(40))
        yield Setting("prompts that differ", policy, even(400), even(80))
    for policy in (PrefillFirst(32), ChunkedPrefill(32, 1024)):
        yield Setting("drafts", policy, fixed(512), even(256), passes=DRAFTS)
    for policy in (PrefillFirst(64), ChunkedPrefill(64, 512)):
        yield Setting("prefixes", policy, fixed(1024), even(128), cached=0.75)
    yield Setting("four replicas", ChunkedPrefill(64, 512), fixed(1024), even(256), servers=4)
    for answer in (even(128, 0.5), skew(128, 1)):
        yield Setting("attention in replicas", ChunkedPrefill(512, 8192), fixed(1024), answer,
                      "llama-3.2-1b", "8xh100", "fuse,parallel{dp=8}")  # fmt: skip
    for stages in (2, 4):
        for policy in (PrefillFirst(16), ChunkedPrefill(16, 512)):
            yield Setting("pipelines", policy, fixed(1024), skew(128), "llama-3.1-70b",
                          f"{stages}xh200", f"fuse,parallel{{pp={stages}}}")  # fmt: skip
    for prompt in (fixed(1024), even(1024)):
        yield Setting("a pool for prompts", PrefillFirst(64), prompt, fixed(1))
    for answer in (fixed(256), even(20), skew(256)):
        yield Setting("a pool that decodes", DecodeOnly(64), fixed(1024), answer)
    for places, answer in ((8, fixed(128)), (32, even(128)), (32, skew(128))):
        yield Setting("static batches", StaticBatches(places), fixed(512), answer)


@dataclass(frozen=True)
class Point:
    """A form beside the simulation: ``off`` and the standard error are shares of the latter."""

    setting: Setting
    measure: str
    load: float
    form: float
    seen: float
    error: float

    @property
    def off(self) -> float:
        return self.form / self.seen - 1

    @property
    def promised(self) -> Band:
        """The band of its load."""
        return band(self.setting.kind, self.measure, self.load)

    @property
    def held(self) -> bool:
        """Whether it is within what is promised."""
        _, low, high = self.promised
        if low == high == 0:
            return abs(self.off) <= 3 * self.error + SLIGHT
        return low - 2 * self.error <= self.off <= high + 2 * self.error


def band(kind: str, measure: str, load: float) -> Band:
    """What is promised of a measure at a load."""
    return next(b for b in PROMISED[kind][measure] if load <= b[0])


#: Servers of prompts, enough that nobody waits: what comes to a pool that decodes is as random.
BEFORE = 256


def served(setting: Setting, come: Sequence[Request], closed: int | None = None) -> Simulated:
    """A simulation; of a pool that decodes behind servers for prompts."""
    if setting.policy.name != "decode-only":
        return simulate(come, setting.pool, closed=closed)
    before = Pool(setting.times, PrefillFirst(1), BEFORE, positions=ENDLESS)
    return simulate(come, before, decode=setting.pool, closed=closed)


def seen_of(seen: Simulated) -> dict[str, float]:
    """Measures of what was served, without those at the start and the end.

    The first fifth finds servers emptier than later ones, and the last twentieth leaves them so.
    """
    kept = seen.served[len(seen.served) // 5 : -(len(seen.served) // 20)]
    first = np.array([s.first - s.request.arrival for s in kept])
    more = np.array([s.request.generate - 1 for s in kept])
    rest = np.array([s.done - s.first for s in kept])
    found = {"ttft": first.mean(), "ttft p50": np.quantile(first, 0.5),
             "ttft p90": np.quantile(first, 0.9)}  # fmt: skip
    if more.any():
        found["tpot"] = rest.sum() / more.sum()
        found["tpot p90"] = np.quantile(rest[more > 0] / more[more > 0], 0.9)
    return {name: float(x) for name, x in found.items()}


def requests_at(setting: Setting, load: float) -> int:
    """Requests of a simulation: more where the queue forgets slowly, as one of one place does, and
    enough to fill all places some ten times."""
    count = 2000 if load <= HONEST else 4000 if load < 0.9 else 7000
    single = setting.policy.limit == 1 or setting.answer.mean == 1
    return max(3 * count if single else count, 12 * setting.policy.limit)


def points(setting: Setting, loads: Sequence[float], share: float = 1.0) -> list[Point]:
    """Every measure that is promised of a setting, at every load."""
    promised = PROMISED[setting.kind]
    found = [limit(setting, share)]
    for load in loads if len(promised) > 1 else ():
        forms = forms_at(setting, load)
        runs: list[dict[str, float]] = []
        least = MOST if forms_exact(setting) else FIRST
        while len(runs) < least or (len(runs) < MOST and rough(setting, load, runs, forms)):
            runs.append(simulated(setting, load, share, len(runs) + 1))
        for name, form in forms.items():
            values = np.array([r[name] for r in runs])
            error = float(values.std(ddof=1)) / len(runs) ** 0.5 / float(values.mean())
            found.append(Point(setting, name, load, form, float(values.mean()), error))
    return found


def forms_exact(setting: Setting) -> bool:
    """Whether first tokens are exact: then errors are told from chance by the standard error."""
    kind = setting.kind
    return "ttft" in PROMISED[kind] and band(kind, "ttft", 0.0)[1:] == (0, 0)


def forms_at(setting: Setting, load: float) -> dict[str, float]:
    """What the forms say at a load, of measures that are promised there."""
    steady = setting.queue.at(load * setting.queue.stable_rate)
    # Little: those that decode are as many as come in the time for which one does.
    further = steady.further * steady.tpot * steady.rate
    alone = setting.policy.name == "decode-only" or steady.further == 0
    if not alone and abs(further - steady.decoding) > 1e-9 * further:
        raise SystemExit(f"Little's law is broken: {setting.name} at {load}")
    found = {}
    for name, bands in PROMISED[setting.kind].items():
        if name.startswith("λ*") or load > bands[-1][0]:
            continue
        of, _, percent = name.partition(" p")
        # Who waits for a place of a pool that decodes has its first token already.
        late = of == "tpot" and setting.policy.name == "decode-only"
        mean = steady.waited if late else getattr(steady, of)
        found[name] = steady.quantile(of, float(percent)) if percent else mean
    return found


def simulated(setting: Setting, load: float, share: float, seed: int) -> dict[str, float]:
    """Measures of one simulation."""
    drawn = zlib.crc32(f"{setting.name} {load} {seed}".encode())  # no two share what is drawn
    come = poisson(load * setting.most, int(share * requests_at(setting, load)), setting.prompt,
                   setting.answer, drawn, setting.cached)  # fmt: skip
    seen = served(setting, come)
    inside = float(seen.latency.sum()) / seen.span
    if abs(seen.in_system / inside - 1) > 1e-9:
        raise SystemExit(f"Little's law is broken in the simulation: {setting.name} at {load}")
    return seen_of(seen)


def rough(
    setting: Setting, load: float, runs: Sequence[dict[str, float]], forms: Mapping[str, float]
) -> bool:
    """Whether another seed is needed: the standard error is above a quarter of the tolerance."""
    for name in forms:
        values = np.array([r[name] for r in runs])
        _, low, high = band(setting.kind, name, load)
        error = values.std(ddof=1) / len(runs) ** 0.5 / values.mean()
        if error > (max(-low, high) or EXACT) / 4:
            return True
    return False


def limit(setting: Setting, share: float) -> Point:
    """The largest rate beside what servers complete whose places are always taken."""
    places = setting.policy.limit * setting.pool.lanes
    places *= 3 if setting.policy.name == "decode-only" else 1  # some are read before
    count = max(int(share * 4000), 20 * places)
    rates = []
    for seed in range(1, FIRST + 1):
        come = at_once(count, setting.prompt, setting.answer, seed, setting.cached)
        seen = served(setting, come, places).served
        done = sorted(seen, key=lambda s: s.done)
        first, last = count // 4, count - 2 * places
        rate = (last - first) / (done[last].done - done[first].done)
        rates.append(rate * longer(setting, [s.request for s in done[first:last]]))
    values = np.array(rates)
    error = float(values.std(ddof=1)) / FIRST**0.5 / float(values.mean())
    whole = setting.policy.name in ("prefill-first", "continuous")
    name = "λ*, whole prompts" if whole else "λ*"
    name = name if name in PROMISED[setting.kind] else "λ*"
    return Point(setting, name, 0, setting.most, float(values.mean()), error)


def longer(setting: Setting, some: Sequence[Request]) -> float:
    """By how much some requests take longer than all that could be drawn, by their lengths.

    A control variate: what is left to chance is far less.
    """
    if setting.policy.holds:
        return 1.0
    queue = setting.queue
    prompts = min(queue.largest * queue.own(max(round(queue.decoding), 1)), 1.0)
    found = prompts * float(np.mean([r.prompt for r in some])) / setting.prompt.mean
    if setting.answer.mean > 1:
        steps = float(np.mean([r.generate - 1 for r in some]))
        return found + (1 - prompts) * steps / (setting.answer.mean - 1)
    return found + 1 - prompts


def summary(found: Sequence[Point]) -> Iterator[tuple[str, ...]]:
    """A line for each kind, measure and band."""
    for kind, measures in PROMISED.items():
        told = kind
        for name, bands in measures.items():
            for i, (upto, low, high) in enumerate(bands):
                mine = [p for p in found if p.setting.kind == kind and p.measure == name
                        and p.promised == bands[i]]  # fmt: skip
                if not mine:
                    continue
                off = np.array([100 * p.off for p in mine])
                loads = "" if upto == 0 else f"{min(p.load for p in mine):g} to {upto:g}"
                promised = "exact" if low == high == 0 else f"{100 * low:+.0f} to {100 * high:+.0f}"
                yield (told, name, loads, str(len(mine)), f"{np.median(np.abs(off)):.1f}",
                       f"{off.min():+.1f} to {off.max():+.1f}", promised,
                       f"{100 * max(p.error for p in mine):.1f}",
                       "yes" if all(p.held for p in mine) else "**no**")  # fmt: skip
                told = ""


def told(p: Point) -> str:
    """A point in a line."""
    mark = "" if p.held else " BROKEN"
    return f"{p.measure} at {p.load}: {100 * p.off:+.1f} % ({100 * p.error:.1f}){mark}"


HEAD = ("kind", "form", "load", "points", "median", "from, to", "promised", "std. error", "held")
LIMITS = ("kind", "server", "λ*", "full", "off", "std. error")


def limits(found: Sequence[Point]) -> Iterator[tuple[str, ...]]:
    """A line for each largest rate."""
    for p in found:
        if p.measure.startswith("λ*"):
            yield (p.setting.kind, p.setting.name, f"{p.form:.2f}", f"{p.seen:.2f}",
                   f"{100 * p.off:+.1f} %", f"{100 * p.error:.1f} %")  # fmt: skip


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of a page, with its sign of minus."""
    lines = [head, ["---"] * len(head), *([re.sub(r"-(?=\d)", "−", x) for x in r] for r in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(tables: Mapping[str, str]) -> None:
    """Puts tables into the page, between ``<!-- forms: NAME -->`` and ``<!-- end -->``."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        mark = re.compile(rf"(<!-- forms: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = mark.subn(lambda m, t=table: m[1] + t + m[2], text)
        if count != 1:
            raise SystemExit(f"{PAGE}: no place for the table {name}")
    PAGE.write_text(text, encoding="utf-8")


def main() -> int:
    """Prints the tables; 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few settings, loads and requests")
    parser.add_argument("--write", action="store_true", help="write the table of docs/serving.md")
    parser.add_argument("--only", default="", help="kinds whose name has this")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    arguments = parser.parse_args()
    start = time.perf_counter()
    settings = [s for s in grid() if arguments.only in s.kind]
    loads, share = LOADS, 1.0
    if arguments.quick:
        settings = [next(s for s in settings if s.kind == kind)
                    for kind in ("equal prompts", "a pool that decodes")]  # fmt: skip
        loads, share = (0.3, 0.8), 0.25
    found: list[Point] = []
    many = len(settings)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for i, some in enumerate(pool.map(points, settings, [loads] * many, [share] * many), 1):
            found += some
            print(
                f"{i}/{many} {settings[i - 1].name}", *map(told, some), sep="\n  ", file=sys.stderr
            )
    whole, rates = list(summary(found)), list(limits(found))
    for head, rows in ((HEAD, whole), (LIMITS, rates)):
        print(plain_table(head, rows) + "\n")
    broken = [p for p in found if not p.held]
    for p in broken:
        print(f"{p.setting.kind}, {p.setting.name}: {told(p)}")
    print(f"{len(found)} points, {len(broken)} broken, {time.perf_counter() - start:.0f} s")
    if arguments.write:
        write({"errors": markdown(HEAD, whole)})
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
