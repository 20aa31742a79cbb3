"""Ways to run a model, as planners take them."""

from __future__ import annotations

import costgraph as cg
from costgraph.asking.serving import StepTimes
from costgraph.asking.serving.ways import Way


def way(degree, price=3.0):
    passes = "fuse" if degree == 1 else f"fuse,parallel{{tp={degree}}}"
    made = cg.compile("llama-3.1-8b", f"{degree}xh100" if degree > 1 else "h100", passes)
    return Way("h100", degree, "native", StepTimes(made, 1200), price)


def shared_ways(model, devices, sharings, longest):
    """Ways to share a model on so many devices."""
    for degrees in sharings:
        text = ",".join(f"{name}={n}" for name, n in degrees)
        on = f"{devices}xh100" if devices > 1 else "h100"
        made = cg.compile(model, on, f"fuse,parallel{{{text}}}" if text else "fuse")
        times = StepTimes.of(made, longest)
        yield Way("h100", devices, "native", times, 3.0, degrees)
