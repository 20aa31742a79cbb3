"""Plans of servers and simulated ones as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from costgraph.errors import many
from costgraph.quoting import visible
from costgraph.showing.export.table import plain_table, seconds, si
from costgraph.units import format_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from costgraph.asking.serving import Policy, Simulated
    from costgraph.asking.serving.asked import Run
    from costgraph.asking.serving.gains import Gain
    from costgraph.asking.serving.plans import Group, Plan, ServePlans
    from costgraph.setting import Setting

#: Plans, and points of the front, that are shown.
SHOWN = 10
#: Quantiles of simulated times.
QUANTILES = (50, 90, 99)
ONE_MORE = "the best plan with one more of one thing, all else as it is"
FRONT = "speed for a user against use, no other is better in both"
MEASURED = "ttft as servers were measured to have it"


@dataclass(frozen=True)
class Part:
    """A piece of an answer: a title, a table and lines below it, any of which may be missing.

    Attributes:
        shrinks: columns that give way first in a narrow line.
    """

    title: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    shrinks: tuple[str, ...] = ()


def asked_text(found: ServePlans) -> tuple[str, str]:
    """The traffic, and the limits on its times."""
    t = found.traffic
    return (
        f"{t.rate:g} requests/s, prompt {t.prompt}, generate {t.generate}",
        f"limits on means: ttft ≤ {seconds(t.ttft)}, tpot ≤ {seconds(t.tpot)}",
    )


def plan_parts(found: ServePlans) -> list[Part]:
    """The plans, what bounds the best, the front, and ways that do not do."""
    head = ["devices", "$/h", "$/M tokens", "replicas", "policy", "ttft", "tpot", "most/s", "binds"]
    rows = [_row(p, found.token_price(p)) for p in found.plans[:SHOWN]]
    rest = len(found.plans) - SHOWN
    over = (f"… and {rest} more",) if rest > 0 else ()
    parts = [Part("", head, rows, over, ("most/s", "$/h", "$/M tokens"))]
    if found.looser and found.plans:
        more = ", ".join(f"{name}: {count}" for name, count in found.looser.items())
        parts.append(Part(notes=(f"devices with a limit a tenth looser: {more}",)))
    if found.one_more and found.plans:
        head = ["one more", "devices", "most/s", "change", "ttft", "tpot", "elasticity"]
        rows = [_more(g, found.best) for g in found.one_more]
        parts.append(Part(ONE_MORE, head, rows))
    if found.front:
        head = ["tokens/s a user", "tokens/s a device", "replica", "policy", "ttft"]
        step = max(1, -(-len(found.front) // SHOWN))
        rows = [
            [
                f"{p.speed:.4g}", f"{p.per_device:.4g}", str(p.way),
                policy_text(p.policy, p.way.times.lanes), _time(p.steady.ttft, p.steady.low),
            ]
            for p in found.front[::step]
        ]  # fmt: skip
        every = (f"every {step}th of {len(found.front)} points",) if step > 1 else ()
        parts.append(Part(FRONT, head, rows, every, ("ttft",)))
    if found.left_out:
        parts.append(Part("no plan of", notes=[f"{way}: {why}" for way, why in found.left_out]))
    return parts


def plan_text(found: ServePlans, width: int | None = None) -> str:
    """The plans, what bounds the best, the front, and what all rests on.

    Tables fit a line of ``width`` characters, if one is given.
    """
    traffic, limits = asked_text(found)
    lines = [*found.setting.lines(traffic), limits]
    for part in plan_parts(found):
        lines += ["", *_shown(part, width)]
    return "\n".join([*lines, *_foot(found.setting)])


def _shown(part: Part, width: int | None) -> list[str]:
    lines = [part.title] if part.title else []
    if part.rows:
        lines.append(plain_table(part.head, part.rows, width, part.shrinks))
    indent = "" if part.rows or not part.title else "    "
    return [*lines, *(f"{indent}{note}" for note in part.notes)]


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


def simulated_part(run: Run) -> Part:
    """How much was served, and means and quantiles of its times."""
    seen, rows = run.seen, []
    for name in ("ttft", "tpot", "latency"):
        values = getattr(seen, name)
        if len(values):
            quantiles = (seconds(seen.quantile(name, p)) for p in QUANTILES)
            rows.append([name, seconds(float(values.mean())), *quantiles])
    given_up = (
        f", {many(seen.preemptions, 'time')} caches were given up" if seen.preemptions else ""
    )
    notes = [
        f"{many(len(seen.served), 'request')} in {seconds(seen.span)}, "
        f"{many(seen.steps, 'step')}, {_servers(seen)} busy {share(seen.utilisation)}",
        f"{seen.rate:.4g} requests/s, {si(seen.throughput)} tokens/s, "
        f"{seen.in_system:.4g} requests there on average{given_up}",
    ]
    if run.errors:
        notes.append(errors_text(run.errors))
    if run.full is not None:
        rate, error = run.full
        most = f"always full, so the most that is stood: {rate:.4g} requests/s"
        notes.append(f"{most} (by simulation, standard error {error:.1%})")
    if run.ttft_served is not None:
        notes.append(f"{MEASURED}: mean {seconds(run.ttft_served)}")
    head = ["", "mean", *(f"{p} %" for p in QUANTILES)]
    return Part("", head, rows, notes, ("99 %",))


def errors_text(errors: Mapping[str, float]) -> str:
    """How far means of a simulation may be off, as others are drawn."""
    told = ", ".join(f"{name} {error:.1%}" for name, error in errors.items())
    return f"standard errors of the means: {told}"


def served_text(run: Run) -> list[str]:
    """Which requests came, and what served them."""
    more = dict(run.more)
    if (rate := more.get("link")) is not None:
        more["link"] = format_quantity(rate, "B/s")
    asked = (told_of(run.asked) | more).items()
    return [
        *(f"{name.replace('_', ' ')} {_plain(value) or 'none'}" for name, value in asked),
        policy_text(run.policy),
    ]


def simulated_text(run: Run, width: int | None = None) -> str:
    """Means and quantiles of a simulation, and what all rests on."""
    part = simulated_part(run)
    count, rates, *measured = part.notes
    lines = [
        *run.setting.lines(*served_text(run)), count, rates, "",
        plain_table(part.head, part.rows, width, part.shrinks),
    ]  # fmt: skip
    for line in measured:
        lines += ["", line]
    return "\n".join([*lines, *_foot(run.setting)])


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
