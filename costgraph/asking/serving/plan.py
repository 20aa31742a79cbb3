"""Which machines, how many and how used: the cheapest plan that keeps limits on times.

A plan is replicas of one way to run the model (device, how its devices share the model,
precision, drafts), a policy with its chunk and its limit of sequences; or two pools of them, one
for prompts and one for decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from costgraph.asking.serving.caches import RESERVED
from costgraph.asking.serving.gains import MEANT, gains
from costgraph.asking.serving.memory import LIVE, MEMORY_SHARE
from costgraph.asking.serving.planner import CHUNKS, LIMITS, Planner
from costgraph.asking.serving.plans import ServePlans
from costgraph.asking.serving.queueing import ALIKE, BRIEF, CONDITIONS, LOW, OVER
from costgraph.asking.serving.requests import Lengths
from costgraph.asking.serving.ways import Traffic, Wish, lengths_of, longest_of
from costgraph.errors import InputError, clip
from costgraph.number import number, whole

POOLED = (
    "pools: caches cross the network between nodes while nothing waits for them but their "
    "request, every device sends its own part and takes in its own; no link has more of them than "
    "it carries, waits for one another's caches are not counted (simulate)"
)

SPLIT = "replicas share requests at random; one with the fewest taking the next does better"


def serve_plan(
    model: Any,
    on: str | Sequence[str],
    *,
    rate: float,
    prompt: Lengths | str | float,
    generate: Lengths | str | float,
    ttft: float,
    tpot: float,
    devices: int = 64,
    precisions: Sequence[str] = ("native",),
    speculative: Sequence[str] = (),
    chunks: Sequence[int] = CHUNKS,
    limits: Sequence[int] = LIMITS,
    pools: bool = True,
    progress: Callable[[int, int], None] | None = None,
    passes: str = "fuse",
    front: bool = True,
    **conventions: Any,
) -> ServePlans:
    """The cheapest servers that keep limits on times, and what else there is.

    Args:
        model: as for :func:`costgraph.compile`.
        on: devices by name or file.
        rate: requests per second.
        prompt, generate: lengths; see :meth:`.Lengths.of`.
        ttft, tpot: limits on the means, in seconds.
        devices: how many there may be.
        precisions: ``native``, or presets of the pass ``quantize`` (``fp8``, ``nvfp4``).
        speculative: options of the pass ``speculative`` that are tried beside none:
            ``draft=llama-3.2-1b,gamma=3,alpha=0.7``.
        chunks, limits: tokens and sequences of a step that are tried; where replicas share one,
            tokens of each.
        progress: told how many ways to run the model are tried, and of how many.
        pools: also with prompts and decodes on different machines.
        passes: the pipeline of each replica, before it is shared among its devices.
        front: also the front of speed against use.
        conventions: ``fidelity``, ``kv`` and so on, as for :func:`costgraph.compile`.

    Raises:
        CostgraphError: anything that is wrong with the input, in one line.
    """
    from costgraph.hardware import load_system
    from costgraph.passes import PASSES
    from costgraph.rewriting.pipeline import parse

    names = tuple(dict.fromkeys([on] if isinstance(on, str) else on))
    precisions = tuple(dict.fromkeys(precisions))
    for name in names:
        if (count := load_system(name).devices) > 1:
            raise InputError(
                f"{clip(name)} is {count} devices: name one device, how many are used is the answer"
            )
    if any(item.name == "parallel" for item in parse(passes, PASSES)):
        raise InputError(
            "parallel: how the devices of a replica share the model is the answer, no pass of it"
        )
    if "" in precisions:
        raise InputError("a precision is native or a preset of the pass quantize, not empty")
    asked, first, then = (
        float(number(x, name)) for x, name in ((rate, "rate"), (ttft, "ttft"), (tpot, "tpot"))
    )
    traffic = Traffic(asked, lengths_of(prompt), lengths_of(generate), first, then)
    if devices < 1:
        raise InputError(f"there is at least one device, not {devices}")
    devices = whole(devices, "devices")
    for given, what in ((names, "device"), (precisions, "precision"), (limits, "limit")):
        if not given:
            raise InputError(f"nothing is tried without a {what}")
    drafts = ("", *dict.fromkeys(d for d in speculative if d))
    wish = Wish(model, names, precisions, drafts, passes, conventions)
    ways, left = wish.ways(devices, traffic)
    if not ways:
        raise InputError("; ".join(f"{k}: {v}" for k, v in left.items()))
    planner = Planner(traffic, ways, chunks, limits, devices, pools, progress=progress)
    found = planner.plans()
    held = f"weights and caches have {MEMORY_SHARE:.0%} of memory; {LIVE}; {RESERVED}"
    said = [CONDITIONS, SPLIT, held, *(x for w in ways for x in w.times.assumed)]
    used = dict.fromkeys(g.way.times.unmixed for p in found for g in p.groups)
    said += [f"prompts have steps of their own: {why}" for why in used if why]
    if any(p.pooled for p in found):
        said.append(POOLED)
    if any(w.price is None for w in ways):
        said.append("devices without a price come after those with one, the fewest first")
    setting = replace(
        ways[0].times.compiled.setting, hardware=", ".join(names), passes=passes, warnings=()
    )
    every = (x for w in ways for x in w.times.compiled.setting.assumptions)
    looser = planner.looser(found[0]) if found else {}
    served = {str(g.way) for p in found for g in p.groups}
    for name, why in planner.reasons.items():
        if name not in served:
            left[name] = why
    points = planner.front() if front else ()
    tried = planner.tried
    more = gains(planner, found[0]) if found else ()
    said += [MEANT] if more else []
    own = [p.low for p in found] + [g.low for g in more]
    if any(own) or any(p.steady.low for p in points):
        setting = setting.warned(LOW)
    if any(p.over for p in found) or any(g.over for g in more):
        setting = setting.warned(OVER)
    if any(p.brief for p in found) or any(p.steady.brief for p in points):
        setting = setting.warned(BRIEF)
    if any(p.in_step for p in found) or any(p.steady.in_step for p in points):
        setting = setting.warned(ALIKE)
    beyond = ways[0].times.compiled.program.beyond(longest_of(traffic))
    setting = setting.warned(beyond)
    return ServePlans(
        traffic, found, points, looser, tuple(left.items()), tried,
        setting.assuming(*every, *said), beyond, more,
    )  # fmt: skip
