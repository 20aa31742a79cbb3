"""Writes two tables of docs/serving.md, or with --check says whether they are current.

They stand between ``<!-- table: loads -->`` (or ``replicas``) and ``<!-- end -->``. A cell is the
closed form beside the simulation, of the same step times.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import costgraph as cg
from costgraph.asking.serving import (
    ChunkedPrefill,
    Continuous,
    Lengths,
    Policy,
    Pool,
    PrefillFirst,
    Queue,
    StepTimes,
    poisson,
    simulate,
)
from costgraph.asking.serving.queueing import HONEST

PAGE = Path(__file__).parents[1] / "serving.md"
PART = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
LOADS = (0.3, 0.6, 0.8, 0.9, 0.95)
HEAD = """\
| model | policy | λ* | load | tpot | | ttft | |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
#: Replicas, and the policies of their table.
SERVERS = (1, 4)
SHORT = """\
| replicas | policy | load | tpot | | its p90 | | ttft | | its p50 | | its p90 | |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Setting:
    """A model of the table and its traffic.

    Attributes:
        model, on, passes: what is compiled, calibrated.
        prompt, answer: tokens of every request.
        limit: sequences at most.
    """

    model: str
    on: str
    passes: str
    prompt: int
    answer: int
    limit: int

    @property
    def name(self) -> str:
        """The model, and its tokens."""
        return f"{self.model}, {self.prompt} to {self.answer}"

    @cached_property
    def times(self) -> StepTimes:
        """Times of its steps."""
        made = cg.compile(self.model, self.on, self.passes, fidelity="calibrated")
        return StepTimes(made, self.prompt + self.answer)

    def policies(self) -> tuple[Policy, ...]:
        """In the order of the table."""
        return PrefillFirst(self.limit), Continuous(self.limit), ChunkedPrefill(self.limit, 512)

    def queue(self, policy: Policy) -> Queue:
        """The closed form."""
        return Queue(self.times, policy, Lengths(self.prompt), Lengths(self.answer))

    def simulated(self, policy: Policy, rate: float) -> tuple[float, float]:
        """Mean time per token and to the first one: 8000 requests, the first fifth left out."""
        made = poisson(rate, 8000, Lengths(self.prompt), Lengths(self.answer), 3)
        seen = simulate(made, Pool(self.times, policy)).after(0.2)
        return float(seen.tpot.mean()), float(seen.ttft.mean())

    def row(self, policy: Policy, load: float) -> str:
        """A line of the table."""
        queue = self.queue(policy)
        steady = queue.at(load * queue.stable_rate)
        tpot, ttft = self.simulated(policy, steady.rate)
        cells = (self.name, policy.name, f"{queue.stable_rate:.2f}", str(load))
        return f"| {' | '.join(cells)} | {pair(steady.tpot, tpot, 1)} | {pair(steady.ttft, ttft)} |"


def pair(form: float, seen: float, digits: int = 0) -> str:
    """Two cells: both times in ms, and what the form is off by."""
    times = f"{1e3 * form:.{digits}f} / {1e3 * seen:.{digits}f} ms"
    return f"{times} | {100 * (form / seen - 1):+z.0f} %"


SETTINGS = (
    Setting("llama-3.1-8b", "h100", "fuse", 1024, 256, 64),
    Setting("llama-3.1-70b", "4xh100", "fuse,parallel{tp=4}", 2048, 128, 96),
    Setting("llama-3.1-8b", "h100", "fuse", 200, 40, 64),
)


def rows() -> Iterator[str]:
    """Lines of the table."""
    for setting in SETTINGS:
        for policy in setting.policies():
            for load in LOADS:
                yield setting.row(policy, load) + "\n"


def replicas() -> Iterator[str]:
    """Lines of the table of replicas and quantiles: 6000 requests, the first fifth left out."""
    setting = SETTINGS[0]
    prefill, _, chunked = setting.policies()
    for servers in SERVERS:
        for policy in (prefill, chunked):
            for load in (0.3, 0.6, 0.8, 0.95):
                lengths = Lengths(setting.prompt), Lengths(setting.answer)
                queue = Queue(setting.times, policy, *lengths, servers)
                steady = queue.at(load * queue.stable_rate)
                made = poisson(steady.rate, 6000, *lengths, 3)
                seen = simulate(made, Pool(setting.times, policy, servers)).after(0.2)
                cells = [
                    pair(steady.tpot, float(seen.tpot.mean()), 1),
                    pair(steady.quantile("tpot", 90), seen.quantile("tpot", 90), 1),
                    pair(steady.ttft, float(seen.ttft.mean())),
                ]
                for percent in (50, 90):
                    known = load <= HONEST
                    cells.append(
                        pair(steady.quantile("ttft", percent), seen.quantile("ttft", percent))
                        if known else "– | "
                    )  # fmt: skip
                yield f"| {servers} | {policy.name} | {load} | {' | '.join(cells)} |\n"


TABLES = {"loads": (HEAD, rows), "replicas": (SHORT, replicas)}


def generated(text: str) -> str:
    """``text`` with the tables made anew."""

    def made(m: re.Match[str]) -> str:
        head, lines = TABLES[m[2]]
        return m[1] + head + "".join(lines()) + m[4]

    return PART.sub(made, text)


def main() -> int:
    old = PAGE.read_text(encoding="utf-8")
    new = generated(old)
    if "--check" in sys.argv[1:]:
        return 0 if new == old else 1
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
