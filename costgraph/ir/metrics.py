"""The metrics: their names, units and titles, and what a program must have for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from costgraph.errors import InputError, NoMetricError, clip, nearest

if TYPE_CHECKING:
    from costgraph.ir.program import Program


@dataclass(frozen=True)
class Metric:
    """A quantity of a request.

    Attributes:
        unit: as formulas state it.
        title: in words.
        of_tokens: it is about generated tokens; programs that emit none lack it.
        of_stages: it differs from others only where units work on several batches at once.
        larger_is_better: of two values.
    """

    unit: str
    title: str
    of_tokens: bool = False
    larger_is_better: bool = False
    of_stages: bool = False


#: Every metric by name, in the order in which they are shown.
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "ttft": Metric("s", "time to first token", of_tokens=True),
        "tpot": Metric("s", "time per output token at context T", of_tokens=True),
        "latency": Metric("s", "end-to-end time of a request"),
        "interval": Metric("s", "time between two steps in steady state", of_stages=True),
        "throughput": Metric("token/s", "generated tokens per second", True, True),
        "memory": Metric("byte", "peak memory"),
        "flops": Metric("FLOP", "FLOP of a whole request"),
        "bytes": Metric("byte", "bytes moved by a whole request"),
        "energy": Metric("J", "energy of a whole request"),
        "energy_per_token": Metric("J/token", "energy per generated token", of_tokens=True),
        "cost_per_token": Metric("USD/token", "price per generated token", of_tokens=True),
    }
)
#: What is asked of every program, without figures of a device's energy or price.
COUNTED = ("ttft", "tpot", "latency", "throughput", "memory", "flops", "bytes")
#: What is asked of systems beside one another; of one device it is the throughput.
PER_DEVICE = "throughput_per_device"
#: Every quantity that a search ranks by, by name.
RANKED: Mapping[str, Metric] = MappingProxyType(
    {
        **{name: METRICS[name] for name in COUNTED},
        PER_DEVICE: Metric("token/s", "generated tokens per second and device", True, True),
    }
)
#: Units of amounts, which no time goes into.
TIMELESS = ("FLOP", "byte")
#: Those that are times.
TIMES = ("ttft", "tpot", "latency", "interval")
#: Those that are times, or rates made of times.
TIMED = (*TIMES, "throughput")


def metrics_of(program: Program) -> tuple[str, ...]:
    """The metrics that a program has: without tokens, none that is about tokens."""
    return tuple(name for name, m in METRICS.items() if has(program, m))


def has(program: Program, metric: Metric) -> bool:
    """Whether a program has a quantity of its own: without tokens none that is about tokens."""
    if metric.of_stages and program.stages == 1:
        return False
    return not metric.of_tokens or any(p.tokens != 0 for p in program.phases)


def require(program: Program, metric: str) -> None:
    """Refuses a metric that a program lacks.

    Raises:
        NoMetricError: saying what to ask for instead.
    """
    if not has(program, {**RANKED, **METRICS}[metric]):
        steps = " and ".join(p.name for p in program.phases)
        raise NoMetricError(
            f"{program.name} generates no tokens, so it has no {metric}; "
            f"ask for latency, the time of a whole request ({steps})",
            metric,
            "latency",
        )


def check_metric(metric: str, known: Collection[str] = COUNTED) -> None:
    """Refuses what is no metric.

    Raises:
        InputError: with the nearest name.
    """
    if metric not in known:
        raise InputError(f"unknown metric {clip(metric)}{nearest(str(metric), known)}")
