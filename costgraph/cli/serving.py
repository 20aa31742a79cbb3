"""The commands ``serve-plan`` and ``serve-simulate``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from costgraph.cli import vocabulary
from costgraph.cli.progress import bar
from costgraph.cli.showing import Answer, show
from costgraph.cli.values import real, remark, whole
from costgraph.errors import InputError, many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from costgraph.asking.serving import Paging, Policy, Pool, Request, StepTimes, Transfer

#: Names of :data:`costgraph.asking.serving.POLICIES`, which are not loaded at the start.
POLICIES = (
    "chunked", "continuous", "whole-prompts", "prefill-first", "prefill-batches", "static",
)  # fmt: skip

PLAN = """\
Which devices, how many and how used: the cheapest plan that serves a rate of requests within limits
on the mean time to first token and per token after it. Tried: devices of a replica (1, 2, 4, 8;
more where the model needs them) that share tensors, stages or experts, precisions, drafts, whole
prompts or chunks, sequences at a time, replicas, and separate pools for prompts and decodes.
Times are closed forms of open arrivals (docs/serving.md).
Lengths: 512, uniform:512:0.5 (half to one and a half times), lognormal:512:1 (mean, variation)."""

SIMULATE = """\
Serves requests event by event, with steps as long as the formulas say: arrivals at a rate (Poisson,
seeded), of a trace (CSV with columns timestamp,input,output; times are seconds or dates), or a
closed loop of so many. With --decode-replicas prompts and decodes have servers of their own, and
caches cross the network between them. Steps of a pipeline with drafts (speculative) are rounds."""


def add_commands(commands: Any) -> None:
    """Register the commands."""
    plan = commands.add_parser(
        "serve-plan", help="the cheapest servers within limits on times", description=PLAN
    )
    vocabulary.add_model(plan)
    vocabulary.add_machines(plan, True)
    plan.add_argument("--rate", type=real, required=True, metavar="R", help="requests per second")
    plan.add_argument("--ttft", required=True, metavar="TIME", help="limit on its mean: '500 ms'")
    plan.add_argument("--tpot", required=True, metavar="TIME", help="limit on its mean: '20 ms'")
    plan.add_argument("--devices", type=whole, default=64, metavar="N", help="at most (64)")
    plan.add_argument(
        "--precision",
        default="native",
        metavar="P[,P]",
        help="native (as configured; default), or presets of the pass quantize: fp8, nvfp4 …",
    )
    plan.add_argument(
        "--speculative",
        action="append",
        default=[],
        metavar="OPTIONS",
        help="also with drafts: options of the pass speculative, draft=llama-3.2-1b,gamma=3; "
        "repeatable",
    )
    vocabulary.add_pipeline(plan, "fuse", "of each replica (fuse)")
    plan.add_argument(
        "--pools",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also prompts and decodes on different machines (default)",
    )
    plan.add_argument(
        "--launch",
        choices=("vllm", "sglang", "tensorrt-llm"),
        metavar="ENGINE",
        help="also the commands that start the best plan that the engine can be told: vllm, "
        "sglang, tensorrt-llm",
    )
    _lengths(plan, required=True)
    vocabulary.add_conventions(plan)
    vocabulary.add_format(plan, "csv")
    plan.set_defaults(run=_plan)

    sim = commands.add_parser(
        "serve-simulate", help="a server event by event, or a trace on it", description=SIMULATE
    )
    vocabulary.add_target(sim)
    _lengths(sim)
    load = sim.add_mutually_exclusive_group(required=True)
    load.add_argument("--rate", type=real, metavar="R", help="requests per second")
    load.add_argument("--trace", metavar="FILE", help="CSV: timestamp,input,output")
    load.add_argument("--closed", type=whole, metavar="C", help="requests in flight")
    sim.add_argument("--requests", type=whole, metavar="N", help="how many (1000)")
    sim.add_argument("--seed", type=int, metavar="I", help="of what is drawn (0)")
    sim.add_argument(
        "--policy",
        choices=POLICIES,
        default="chunked",
        metavar="HOW",
        help=f"what a step takes: {', '.join(POLICIES)} (chunked)",
    )
    sim.add_argument("--chunk", type=whole, metavar="N", help="tokens of a step (2048)")
    sim.add_argument("--limit", type=whole, metavar="N", help="sequences at a time (what fits)")
    sim.add_argument("--replicas", type=whole, default=1, metavar="N", help="servers (1)")
    sim.add_argument(
        "--prefix-hits", type=real, default=0.0, metavar="SHARE",
        help="share of each prompt whose caches are there already (0)",
    )  # fmt: skip
    sim.add_argument(
        "--paging",
        choices=("recompute", "swap"),
        help="caches grow in pages of 16; what a sequence that must give way loses is computed "
        "again, or goes to the host and back",
    )
    sim.add_argument(
        "--polls", type=whole, default=1, metavar="N",
        help="steps between two looks for new requests while decoding (1)",
    )  # fmt: skip
    sim.add_argument(
        "--decode-replicas", type=whole, metavar="N", help="servers that only decode (none)"
    )
    vocabulary.add_device(sim, False, "of those servers (as --on)", "--decode-on")
    vocabulary.add_pipeline(sim, None, "of those servers (as --passes)", "--decode-passes")
    sim.add_argument(
        "--decode-limit", type=whole, metavar="N", help="sequences of each at a time (what fits)"
    )
    sim.add_argument(
        "--link", metavar="RATE", help="between the two kinds: '50 GB/s' (the network's)"
    )
    sim.add_argument(
        "--timeline", metavar="FILE", help="draw requests and steps over time: .svg, .pdf, .png"
    )
    sim.add_argument(
        "--served", metavar="FILE", help="write what became of each request: .csv, .json"
    )
    vocabulary.add_format(sim, "csv")
    sim.set_defaults(run=_simulate)


def _lengths(command: argparse.ArgumentParser, required: bool = False) -> None:
    """Lengths, which are drawn, and symbols that are fixed."""
    takes = dict.fromkeys("SN", "LENGTHS")
    vocabulary.add_values(command, takes=takes, sizes="SN", at=False, required=required)


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """How the model is read and timed, and symbols that are fixed."""
    for letter, name in (("S", "prompt"), ("N", "generate")):
        if getattr(arguments, name) is None and vocabulary.text_of(arguments, letter) is not None:
            # Else dropped: lengths are read from their own options alone.
            trace = getattr(arguments, "trace", None) is not None
            instead = "a trace says that itself" if trace else f"give --{name}"
            raise InputError(f"--set {letter}: {instead}")
    return {**vocabulary.conventions(arguments), **vocabulary.values(arguments, but="SN")}


def _plan(arguments: argparse.Namespace) -> int:
    from costgraph.asking.serving.launch import first_launch
    from costgraph.asking.serving.plan import serve_plan
    from costgraph.showing.export.serving import plan_text
    from costgraph.showing.export.terminal import width
    from costgraph.units import parse_quantity

    ttft, tpot = (
        float(parse_quantity(getattr(arguments, name), "time", f"--{name}"))
        for name in ("ttft", "tpot")
    )
    with bar("planning") as told:
        found = serve_plan(
            arguments.model,
            vocabulary.devices(arguments),
            rate=arguments.rate,
            prompt=arguments.prompt,
            generate=arguments.generate,
            devices=arguments.devices,
            precisions=[p.strip() for p in arguments.precision.split(",")],
            pools=arguments.pools,
            passes=arguments.passes,
            speculative=arguments.speculative,
            ttft=ttft,
            tpot=tpot,
            progress=told,
            **_options(arguments),
        )
    # Nothing is shown where no plan keeps the limits.
    _ = found.best
    commands = "" if arguments.launch is None else first_launch(
        found, str(arguments.model), arguments.launch
    )  # fmt: skip

    def text() -> None:
        print(plan_text(found, width()) + (f"\n\n{commands.rstrip()}" if commands else ""))

    def data() -> dict[str, Any]:
        return found.to_dict() | ({"launch": commands} if commands else {})

    return show(arguments, Answer(text, data, "plans", found.setting))


def _simulate(arguments: argparse.Namespace) -> int:
    from costgraph.asking.serving import Pool, StepTimes, simulate
    from costgraph.asking.serving.loop import first_tokens
    from costgraph.asking.serving.pools import apart_assumed
    from costgraph.asking.serving.requests import same_prompt
    from costgraph.asking.serving.simulate import CACHED, COUNTED
    from costgraph.compiling.compilation import compile
    from costgraph.files.writing import suffix_of
    from costgraph.showing.export.serving import policy_text, simulated_text, told_of
    from costgraph.showing.export.terminal import width
    from costgraph.units import format_quantity

    if arguments.served is not None:
        suffix_of(arguments.served, (".csv", ".json"), "--served")
    requests, asked, doubtful = _requests(arguments)
    options = _options(arguments)
    compiled = compile(arguments.model, arguments.on, arguments.passes, **options)
    longest = max(r.prompt + r.generate for r in requests)
    times = StepTimes.of(compiled, longest, same_prompt(requests))
    paging = _paging(arguments, times)
    pool = _limited(
        Pool(
            times, _policy(arguments), arguments.replicas, paging=paging,
            polls=arguments.polls if arguments.decode_replicas is None else 1,
            prompt=max(r.prompt for r in requests),
        ),
        arguments.limit, requests,
    )  # fmt: skip
    policy = pool.policy
    decode, transfer, told = _decoding(arguments, pool, requests, options, longest)
    with bar("simulating") as progress:
        seen = simulate(
            requests, pool, decode=decode, transfer=transfer, closed=arguments.closed,
            spans=arguments.timeline is not None, progress=progress,
        )  # fmt: skip
    later = () if decode is None else apart_assumed(pool, decode)
    cached = (CACHED,) if any(r.cached for r in requests) else ()
    setting = compiled.setting.assuming(*times.assumed, *pool.assumed, *later, *cached, COUNTED)
    setting = setting.warned(compiled.program.beyond(longest), doubtful, seen.unsteady)
    served = None
    if arguments.closed is not None and decode is None:
        served = first_tokens(compiled, requests, arguments.closed / arguments.replicas)
    if served is not None:
        setting = setting.assuming(served[1])
    full = None
    if decode is None and (arguments.closed or 0) >= policy.limit * pool.lanes:
        full = seen.full(arguments.closed)
    if arguments.timeline is not None:
        from costgraph.showing.plot import save, timeline

        figure = timeline(seen, setting=setting, about=policy_text(policy))
        save(figure, arguments.timeline)

    said = {
        "arrivals": asked, "policy": policy.name, "sequences": policy.limit,
        "chunk": getattr(policy, "budget", None), "replicas": arguments.replicas,
        "paging": arguments.paging, **told,
    }  # fmt: skip
    if arguments.served is not None:
        _write(arguments.served, setting.to_dict() | said | {"served": seen.each()})

    def text() -> None:
        more = {k.replace("_", " "): v for k, v in told.items() if v is not None}
        if (rate := more.pop("link bytes per second", None)) is not None:
            more["link"] = format_quantity(rate, "B/s")
        more |= {"paging": arguments.paging} if arguments.paging else {}
        more |= {"polls": arguments.polls} if arguments.polls > 1 else {}
        first = None if served is None else served[0]
        print(simulated_text(seen, policy, setting, told_of(asked) | more, width(), first, full))

    def data() -> dict[str, Any]:
        more = {} if served is None else {"ttft_served": served[0]}
        if full is not None:
            more |= {"full_requests_per_second": full[0], "full_standard_error": full[1]}
        return setting.to_dict() | said | more | seen.to_dict()

    return show(arguments, Answer(text, data, "", setting))


def _write(path: str, value: dict[str, Any]) -> None:
    """Requests with what they were served by, as the suffix of ``path`` says."""
    from costgraph.files.writing import write_whole
    from costgraph.showing.export.plain_json import json_text
    from costgraph.showing.export.records import records_csv

    text = records_csv(value, "served") if path.lower().endswith(".csv") else json_text(value)
    write_whole(path, text.encode())
    remark([f"wrote {path}: {many(len(value['served']), 'request')}"])


def _paging(arguments: argparse.Namespace, times: StepTimes) -> Paging | None:
    """How caches are given, if not for whole requests."""
    from costgraph.asking.serving import Paging, Transfer

    if arguments.paging is None:
        return None
    if arguments.paging == "recompute":
        return Paging()
    swap = Transfer.over(times.compiled.machine.links.get("pcie"), times)
    if swap is None:
        raise InputError(f"--paging swap: no link to the host of {times.compiled.place} is known")
    return Paging(swap=swap)


def _decoding(
    arguments: argparse.Namespace,
    pool: Pool,
    requests: Sequence[Request],
    options: dict[str, Any],
    longest: int,
) -> tuple[Pool | None, Transfer | None, dict[str, Any]]:
    """The servers that only decode, the way to them, and what is said of both."""
    from costgraph.asking.serving import DecodeOnly, Pool, StepTimes, Transfer
    from costgraph.asking.serving.requests import same_prompt
    from costgraph.asking.serving.ways import between
    from costgraph.compiling.compilation import compile
    from costgraph.hardware import load_system
    from costgraph.units import parse_quantity

    if arguments.decode_replicas is None:
        for name in ("decode_on", "decode_passes", "decode_limit", "link"):
            if getattr(arguments, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} needs --decode-replicas")
        return None, None, {}
    on = arguments.decode_on or arguments.on
    passes = arguments.passes if arguments.decode_passes is None else arguments.decode_passes
    compiled = compile(arguments.model, on, passes, **options)
    times = StepTimes.of(compiled, longest, same_prompt(requests))
    decode = _limited(
        Pool(
            times, DecodeOnly(1), arguments.decode_replicas, paging=pool.paging,
            polls=arguments.polls, prompt=pool.prompt,
        ),
        arguments.decode_limit, requests,
    )  # fmt: skip
    # Both ends hold their own part of the caches: the larger part takes longest.
    longer = max(r.prompt for r in requests)
    larger = max((pool.times, times), key=lambda t: t.caches(longer))
    if arguments.link is not None:
        rate = float(parse_quantity(arguments.link, "bandwidth", "--link"))
        transfer = Transfer(0.0, rate, larger.position(), larger.caches)
    else:
        ends = []
        for place in dict.fromkeys((arguments.on, on)):
            found = between(load_system(place).device.name, larger)
            if found is None:
                raise InputError(f"--link: no network between nodes of {place} is known")
            ends.append(found)
        # The slower of both ends.
        transfer = replace(
            ends[0], latency=max(e.latency for e in ends),
            bytes_per_second=min(e.bytes_per_second for e in ends),
        )  # fmt: skip
    told = {
        "decode_replicas": decode.servers, "decode_on": on, "decode_passes": passes,
        "decode_sequences": decode.policy.limit,
        "link_bytes_per_second": transfer.bytes_per_second,
    }  # fmt: skip
    return decode, transfer, told


def _requests(
    arguments: argparse.Namespace,
) -> tuple[tuple[Request, ...], dict[str, Any], str]:
    """The requests, what was asked for, and what must be said of both."""
    from costgraph.asking.serving import Lengths, at_once, poisson, trace_of

    names = ("prompt", "generate", "requests", "seed")
    given = {n: getattr(arguments, n) for n in names if getattr(arguments, n) is not None}
    if arguments.trace is not None:
        for name in given:
            raise InputError(f"--{name}: a trace says that itself")
        if arguments.prefix_hits:
            raise InputError("--prefix-hits: a trace says that itself, in a column cached")
        trace = trace_of(arguments.trace)
        asked = {
            "trace": arguments.trace, "trace_seconds": trace.span,
            "trace_requests_per_second": trace.rate,
        }  # fmt: skip
        return trace.requests, asked, trace.doubtful
    for name in ("prompt", "generate"):
        if name not in given:
            raise InputError(f"--{name} is needed where there is no trace")
    prompt, generate = Lengths.of(arguments.prompt), Lengths.of(arguments.generate)
    count, seed = given.get("requests", 1000), given.get("seed", 0)
    hits = arguments.prefix_hits
    if count > 10**7:
        raise InputError(f"--requests: at most 10000000, not {count}")
    if seed < 0:
        raise InputError(f"--seed is a whole number from zero on, not {seed}")
    lengths: dict[str, Any] = {"prompt": str(prompt), "generate": str(generate)}
    lengths |= {"prefix_hits": hits} if hits else {}
    if arguments.closed is None:
        made = poisson(arguments.rate, count, prompt, generate, seed, hits)
        return made, {"rate": arguments.rate, **lengths, "seed": seed}, ""
    if count < arguments.closed:
        raise InputError(f"--requests: {arguments.closed} in flight need as many, not {count}")
    drawn = {prompt.spread, generate.spread} != {"fixed"}
    if "seed" in given and not drawn:
        raise InputError("--seed: a closed loop of fixed lengths draws nothing")
    asked = {"closed": arguments.closed, **lengths} | ({"seed": seed} if drawn else {})
    return at_once(count, prompt, generate, seed, hits), asked, ""


def _limited(pool: Pool, limit: int | None, requests: Sequence[Request]) -> Pool:
    """The pool with a limit of sequences: as told, or the mean requests that memory holds.

    Whole ones, or the pages with which they begin to decode.
    """
    if limit is None:
        if pool.paging is None:
            held = [r.prompt + r.generate for r in requests]
        else:
            held = [pool.paging.whole(r.prompt + 1) for r in requests]
        limit = max(1, pool.times.room(sum(held) / len(held), read=pool.reads))
    return replace(pool, policy=replace(pool.policy, limit=limit))


def _policy(arguments: argparse.Namespace) -> Policy:
    """The policy, for one sequence at a time."""
    from costgraph.asking.serving import POLICIES as KINDS
    from costgraph.asking.serving.policies import Budgeted

    kind = KINDS[arguments.policy]
    if issubclass(kind, Budgeted):
        return kind(1, arguments.chunk or 2048)
    if arguments.chunk is not None:
        raise InputError(f"--chunk: the policy {kind.name} has none")
    return kind(1)
