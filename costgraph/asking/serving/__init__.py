"""Servers: many requests at once, limits on times, how many machines."""

from costgraph.asking.serving.asked import Arrivals, Servers, Wanted
from costgraph.asking.serving.caches import Paging
from costgraph.asking.serving.loop import Serving, c, shared_tpot
from costgraph.asking.serving.policies import (
    POLICIES,
    ChunkedPrefill,
    Continuous,
    DecodeOnly,
    Policy,
    PrefillBatches,
    PrefillFirst,
    StaticBatches,
    WholePrompts,
)
from costgraph.asking.serving.pools import Pool, Transfer
from costgraph.asking.serving.queueing import Queue, Steady
from costgraph.asking.serving.requests import Lengths, Request, at_once, poisson
from costgraph.asking.serving.served import Simulated
from costgraph.asking.serving.simulate import simulate
from costgraph.asking.serving.steps import StepTimes
from costgraph.asking.serving.traces import Trace, read_trace, trace_of

__all__ = [
    "POLICIES",
    "Arrivals",
    "ChunkedPrefill",
    "Continuous",
    "DecodeOnly",
    "Lengths",
    "Paging",
    "Policy",
    "Pool",
    "PrefillBatches",
    "PrefillFirst",
    "Queue",
    "Request",
    "Servers",
    "Serving",
    "Simulated",
    "StaticBatches",
    "Steady",
    "StepTimes",
    "Trace",
    "Transfer",
    "Wanted",
    "WholePrompts",
    "at_once",
    "c",
    "poisson",
    "read_trace",
    "shared_tpot",
    "simulate",
    "trace_of",
]
