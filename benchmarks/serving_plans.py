"""The planner's throughput per GPU beside the best that published runs reached; docs/serving.md.

    python benchmarks/serving_plans.py     about a minute

For each setting (model, format, device, framework; 1024 to 1024 tokens, InferenceMAX) the best
run within a limit on time per token, over all layouts on one node and all numbers of requests
that were measured; and the best point of the planner's front within the same limit, over the
same layouts with no more sequences at a time than were measured on each. Nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from serving import Run, runs
from serving_model import Layout, server

from costgraph.asking.serving import Lengths, StepTimes
from costgraph.asking.serving.planner import Planner
from costgraph.asking.serving.ways import Traffic, Way
from costgraph.errors import CostgraphError
from costgraph.showing.export.table import plain_table

#: Model, format, device, framework.
SETTINGS = (
    ("llama-3.1-70b", "fp8", "h200", "trtllm"), ("llama-3.1-70b", "fp8", "b200", "trtllm"),
    ("llama-3.1-70b", "fp4", "b200", "trtllm"), ("gpt-oss-120b", "fp4", "b200", "trtllm"),
    ("gpt-oss-120b", "fp4", "h200", "vllm"), ("minimax-m2.5", "fp8", "b200", "vllm"),
)  # fmt: skip
#: Seconds per token: 100, 50 and 25 tokens a second for a user.
LIMITS = (0.01, 0.02, 0.04)
LENGTHS = (922, 922)
HEAD = ("model", "format", "device", "framework", "tpot", "runs", "measured", "planned", "off",
        "measured layout", "planned layout")  # fmt: skip


def per_device(run: Run) -> float:
    """Generated tokens per second and GPU of a run."""
    return run.c * run.N / run.whole / run.gpus


def own(setting: tuple[str, ...], every: list[Run]) -> list[Run]:
    """Its runs on one node, attention split."""
    return [
        r for r in every
        if (r.model, r.precision, r.device, r.framework) == setting
        and (r.S, r.N) == LENGTHS and r.is_usual and r.ttft == r.ttft
    ]  # fmt: skip


def ways(found: list[Run]) -> Iterator[Way]:
    """A way to serve for each layout that was measured."""
    for layout in sorted({r.layout for r in found}, key=lambda x: (x.gpus, x.ep)):
        run = replace(found[0], layout=layout)
        try:
            made = server(run.model, run.device, run.passes, layout, "framework", run.framework)
            times = StepTimes(made.compiled, 4096)
            times.room(1)
        except CostgraphError:
            continue
        yield Way(run.device, layout.gpus, run.precision, times, 1.0, split(layout))


def split(layout: Layout) -> tuple[tuple[str, int], ...]:
    """Degrees of the pass ``parallel``."""
    return tuple((n, x) for n, x in (("tp", layout.tp), ("ep", layout.ep)) if x > 1)


def rows(setting: tuple[str, ...], every: list[Run]) -> Iterator[tuple[str, ...]]:
    """The table's lines of a setting, one a limit."""
    found = own(setting, every)
    uniform = Lengths(LENGTHS[0], "uniform", 1 / 9)
    asked = Traffic(1, uniform, uniform, 1e9, 1e9)
    front = []
    for way in ways(found):
        tried = {r.c for r in found if r.gpus == way.devices and split(r.layout) == way.degrees}
        front += Planner(asked, [way], (8192,), sorted(tried), pools=False).front()
    for limit in LIMITS:
        within = [r for r in found if r.tpot <= limit]
        best = max(within, key=per_device, default=None)
        planned = max(
            (p for p in front if p.steady.tpot <= limit), key=lambda p: p.per_device, default=None
        )
        head = (*setting, f"{1e3 * limit:.0f} ms", str(len(within)))
        if best is None or planned is None:
            yield (*head, *["–"] * 5)
            continue
        off = 100 * (planned.per_device / per_device(best) - 1)
        yield (
            *head, f"{per_device(best):.0f}", f"{planned.per_device:.0f}", f"{off:+.0f} %",
            f"tp {best.layout.tp}", f"{planned.way.shared or '1'}, {planned.policy.limit} seqs",
        )  # fmt: skip


def main() -> None:
    every = runs(8)[0]
    print(plain_table(HEAD, [row for setting in SETTINGS for row in rows(setting, every)]))


if __name__ == "__main__":
    main()
