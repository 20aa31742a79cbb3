"""Plans of servers and simulated ones as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costgraph.errors import many
from costgraph.quoting import visible
from costgraph.showing.export.table import plain_table, seconds, si

if TYPE_CHECKING:
    from collections.abc import Mapping

    from costgraph.asking.serving import Policy, Simulated
    from costgraph.asking.serving.gains import Gain
    from costgraph.asking.serving.plans import Group, Plan, ServePlans
    from costgraph.setting import Setting

#: Plans, and points of the front, that are shown.
SHOWN = 10
#: Quantiles of simulated times.
QUANTILES = (50, 90, 99)


def plan_text(found: ServePlans, width: int | None = None) -> str:
    """The plans, what bounds the best, the front, and what all rests on.

    Tables fit a line of ``width`` characters, if one is given.
    """
    traffic = found.traffic
    asked = f"{traffic.rate:g} requests/s, prompt {traffic.prompt}, generate {traffic.generate}"
    lines = [
        *found.setting.lines(asked),
        f"limits on means: ttft ≤ {seconds(traffic.ttft)}, tpot ≤ {seconds(traffic.tpot)}",
        "",
    ]
    head = ["devices", "$/h", "$/M tokens", "replicas", "policy", "ttft", "tpot", "most/s", "binds"]
    rows = [_row(p, found.token_price(p)) for p in found.plans[:SHOWN]]
    lines.append(plain_table(head, rows, width, ("most/s", "$/h", "$/M tokens")))
    if len(found.plans) > SHOWN:
        lines.append(f"… and {len(found.plans) - SHOWN} more")
    if found.looser and found.plans:
        more = ", ".join(f"{name}: {count}" for name, count in found.looser.items())
        lines += ["", f"devices with a limit a tenth looser: {more}"]
    if found.one_more and found.plans:
        lines += ["", "the best plan with one more of one thing, all else as it is"]
        head = ["one more", "devices", "most/s", "", "ttft", "tpot", "elasticity"]
        lines.append(plain_table(head, [_more(g, found.best) for g in found.one_more], width))
    if found.front:
        lines += ["", "speed for a user against use, no other is better in both"]
        head = ["tokens/s a user", "tokens/s a device", "replica", "policy", "ttft"]
        step = max(1, -(-len(found.front) // SHOWN))
        chosen = found.front[::step]
        points = [
            [
                f"{p.speed:.4g}", f"{p.per_device:.4g}", str(p.way),
                policy_text(p.policy, p.way.times.lanes), _time(p.steady.ttft, p.steady.low),
            ]
            for p in chosen
        ]  # fmt: skip
        lines.append(plain_table(head, points, width, ("ttft",)))
        if len(chosen) < len(found.front):
            lines.append(f"every {step}th of {len(found.front)} points")
    if found.left_out:
        lines += ["", "no plan of", *(f"    {way}: {why}" for way, why in found.left_out)]
    return "\n".join([*lines, *_foot(found.setting)])


def _row(plan: Plan, token: float | None) -> list[str]:
    def each(of: object) -> str:
        assert callable(of)
        return " + ".join(str(of(g)) for g in plan.groups)

    def replicas(g: Group) -> str:
        return f"{g.replicas} × {g.way}"

    prices = ("–" if price is None else f"{price:.4g}" for price in (plan.price, token))
    return [
        str(plan.devices), *prices, each(replicas),
        each(lambda g: policy_text(g.policy, g.way.times.lanes)),
        _time(plan.ttft, "ttft" in plan.low), _time(plan.tpot, "tpot" in plan.low),
        _rate(plan.most, plan.over), plan.binds,
    ]  # fmt: skip


def _more(gain: Gain, best: Plan) -> list[str]:
    what = f"{gain.what}{f' ({gain.of})' if gain.of else ''}"
    if gain.most is None:
        return [what, gain.why, "", "", "", "", ""]
    change = f"{gain.most / best.most - 1:+z.1%}" if best.most else ""
    times = (
        "–" if t is None else _time(t, name in gain.low)
        for name, t in (("ttft", gain.ttft), ("tpot", gain.tpot))
    )
    elastic = "" if gain.elasticity is None else f"{gain.elasticity:z.2f}"
    return [what, str(gain.devices), _rate(gain.most, gain.over), change, *times, elastic]


def _time(value: float, low: bool) -> str:
    """Seconds, marked where they are a lower estimate."""
    return f"{'~' if low else ''}{seconds(value)}"


def _rate(value: float, over: bool) -> str:
    """Requests per second, marked where they are an upper estimate."""
    return f"{'~' if over else ''}{value:.4g}"


def policy_text(policy: Policy, lanes: int = 1) -> str:
    """A policy with its sizes: ``chunked 2048, 128 seqs``; each of a pipeline's groups has them."""
    chunk = getattr(policy, "budget", None)
    seqs = f"{f'{lanes} × ' if lanes > 1 else ''}{many(policy.limit, 'seq')}"
    return f"{policy.name}{'' if chunk is None else f' {chunk}'}, {seqs}"


def share(part: float) -> str:
    """A share in percent, to a tenth; what is less is not shown as none."""
    return f"{part:.1%}" if part >= 0.0005 or part <= 0 else "below 0.1%"


def simulated_text(
    seen: Simulated,
    policy: Policy,
    setting: Setting,
    asked: Mapping[str, object],
    width: int | None = None,
    served: float | None = None,
    full: tuple[float, float] | None = None,
) -> str:
    """Means and quantiles of a simulation; ``asked`` says which requests it had.

    Args:
        served: mean seconds to the first token as servers were measured, where that is known.
        full: requests per second of servers whose places are always taken, and the standard
            error as a share of it; of others nothing.
    """
    rows = []
    for name in ("ttft", "tpot", "latency"):
        values = getattr(seen, name)
        if len(values):
            quantiles = (seconds(seen.quantile(name, p)) for p in QUANTILES)
            rows.append([name, seconds(float(values.mean())), *quantiles])
    lines = [
        *setting.lines(
            *(f"{name} {_plain(value) or 'none'}" for name, value in asked.items()),
            policy_text(policy),
        ),
        f"{many(len(seen.served), 'request')} in {seconds(seen.span)}, "
        f"{many(seen.steps, 'step')}, {_servers(seen)} busy {share(seen.utilisation)}",
        f"{seen.rate:.4g} requests/s, {si(seen.throughput)} tokens/s, "
        f"{seen.in_system:.4g} requests there on average"
        + (f", {many(seen.preemptions, 'time')} caches were given up" if seen.preemptions else ""),
        "",
        plain_table(["", "mean", *(f"{p} %" for p in QUANTILES)], rows, width, ("99 %",)),
    ]
    if full is not None:
        rate, error = full
        most = f"always full, so the most that is stood: {rate:.4g} requests/s"
        lines += ["", f"{most} (by simulation, standard error {error:.1%})"]
    if served is not None:
        lines += ["", f"ttft as servers were measured to have it: mean {seconds(served)}"]
    return "\n".join([*lines, *_foot(setting)])


def told_of(asked: Mapping[str, object]) -> dict[str, object]:
    """What was asked for as a reader is told it: a trace with its span and mean rate."""
    told: dict[str, object] = dict(asked)
    if "trace" in told:
        span, rate = told.pop("trace_seconds"), told.pop("trace_requests_per_second")
        told["over"] = seconds(span) if isinstance(span, float) and span else "one moment"
        if isinstance(rate, float):
            told["requests/s"] = rate
    return told


def _servers(seen: Simulated) -> str:
    """Servers by what they are: the groups of a pipeline share one."""
    if seen.replicas == seen.servers:
        return many(seen.servers, "server")
    return f"{many(seen.replicas, 'server')} (groups of pipelines: {seen.servers})"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else visible(str(value))


def _foot(setting: Setting) -> list[str]:
    said = setting.foot()
    return ["", *said] if said else []
