"""The commands ``serve-plan`` and ``serve-simulate``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from costgraph.cli import vocabulary
from costgraph.cli.progress import bar
from costgraph.cli.showing import Answer, show
from costgraph.cli.values import real, remark, whole
from costgraph.errors import InputError, many

if TYPE_CHECKING:
    from costgraph.asking.serving.asked import Arrivals, Servers, Wanted

    #: A command, or a group of its options.
    Command = argparse._ActionsContainer

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
    add_wanted(plan, True)
    vocabulary.add_pipeline(plan, "fuse", "of each replica (fuse)")
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
    plan.add_argument(
        "-o", "--output", metavar="FILE",
        help="also the front as a figure: .svg, .pdf or .png (extra 'plot')",
    )  # fmt: skip
    plan.set_defaults(run=_plan)

    sim = commands.add_parser(
        "serve-simulate", help="a server event by event, or a trace on it", description=SIMULATE
    )
    vocabulary.add_target(sim)
    _lengths(sim)
    load = sim.add_mutually_exclusive_group(required=True)
    load.add_argument("--rate", type=real, metavar="R", help="requests per second")
    add_load(load)
    add_draws(sim)
    add_steps(sim)
    add_servers(sim)
    sim.add_argument(
        "--timeline", metavar="FILE", help="draw requests and steps over time: .svg, .pdf, .png"
    )
    sim.add_argument(
        "--served", metavar="FILE", help="write what became of each request: .csv, .json"
    )
    vocabulary.add_format(sim, "csv")
    sim.set_defaults(run=_simulate)


def add_wanted(plan: Command, required: bool = False) -> None:
    """Limits on times, and what a plan may be made of."""
    plan.add_argument(
        "--ttft", required=required, metavar="TIME", help="limit on its mean: '500 ms'"
    )
    plan.add_argument(
        "--tpot", required=required, metavar="TIME", help="limit on its mean: '20 ms'"
    )
    plan.add_argument("--devices", type=whole, metavar="N", help="at most (64)")
    plan.add_argument(
        "--precision",
        metavar="P[,P]",
        help="native (as configured; default), or presets of the pass quantize: fp8, nvfp4 …",
    )
    plan.add_argument(
        "--speculative",
        action="append",
        metavar="OPTIONS",
        help="also with drafts: options of the pass speculative, draft=llama-3.2-1b,gamma=3; "
        "repeatable",
    )
    plan.add_argument(
        "--pools",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="also prompts and decodes on different machines (default)",
    )


def add_load(load: Command) -> None:
    """Where requests come from, but for their rate."""
    load.add_argument("--trace", metavar="FILE", help="CSV: timestamp,input,output")
    load.add_argument("--closed", type=whole, metavar="C", help="requests in flight")


def add_draws(sim: Command) -> None:
    """How many requests, and what is drawn of them."""
    sim.add_argument("--requests", type=whole, metavar="N", help="how many (1000)")
    sim.add_argument("--seed", type=int, metavar="I", help="of what is drawn (0)")
    sim.add_argument(
        "--prefix-hits", type=real, metavar="SHARE",
        help="share of each prompt whose caches are there already (0)",
    )  # fmt: skip


def add_steps(sim: Command, fits: str = "what fits") -> None:
    """What a step holds; ``fits``: sequences where nothing is said."""
    sim.add_argument(
        "--policy",
        choices=POLICIES,
        metavar="HOW",
        help=f"what a step takes: {', '.join(POLICIES)} (chunked)",
    )
    sim.add_argument("--chunk", type=whole, metavar="N", help="tokens of a step (2048)")
    sim.add_argument("--limit", type=whole, metavar="N", help=f"sequences at a time ({fits})")


def add_servers(sim: Command) -> None:
    """How many servers, how they keep caches, and those that only decode."""
    sim.add_argument("--replicas", type=whole, metavar="N", help="servers (1)")
    sim.add_argument(
        "--paging",
        choices=("recompute", "swap"),
        help="caches grow in pages of 16; what a sequence that must give way loses is computed "
        "again, or goes to the host and back",
    )
    sim.add_argument(
        "--polls", type=whole, metavar="N",
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


def wanted_of(arguments: argparse.Namespace, **given: Any) -> Wanted:
    """What a plan is wanted for, by :func:`add_wanted`; ``given`` in place of what was told."""
    from costgraph.asking.serving.asked import Wanted
    from costgraph.units import parse_quantity

    told: dict[str, Any] = {
        name: float(parse_quantity(getattr(arguments, name), "time", f"--{name}"))
        for name in ("ttft", "tpot")
    }
    told |= {n: getattr(arguments, n) for n in ("rate", "devices", "speculative", "pools")}
    if arguments.precision is not None:
        told["precisions"] = tuple(p.strip() for p in arguments.precision.split(","))
    return Wanted(**{k: v for k, v in (told | given).items() if v is not None})


def _plan(arguments: argparse.Namespace) -> int:
    from costgraph.asking.serving.launch import first_launch
    from costgraph.showing.export.serving import plan_text
    from costgraph.showing.export.terminal import width

    if arguments.output is not None:
        from costgraph.files.writing import suffix_of
        from costgraph.showing.plot import SUFFIXES, save, served_front

        suffix_of(arguments.output, SUFFIXES, "figure")
    wanted = wanted_of(arguments, prompt=arguments.prompt, generate=arguments.generate)
    with bar("planning") as told:
        found = wanted.plans(
            arguments.model, vocabulary.devices(arguments), arguments.passes, told,
            **_options(arguments),
        )  # fmt: skip
    # Nothing is shown where no plan keeps the limits.
    _ = found.best
    if arguments.output is not None:
        save(served_front(found), arguments.output)
    commands = "" if arguments.launch is None else first_launch(
        found, str(arguments.model), arguments.launch
    )  # fmt: skip

    def text() -> None:
        print(plan_text(found, width()) + (f"\n\n{commands.rstrip()}" if commands else ""))

    def data() -> dict[str, Any]:
        return found.to_dict() | ({"launch": commands} if commands else {})

    return show(arguments, Answer(text, data, "plans", found.setting))


def arrivals_of(arguments: argparse.Namespace, **given: Any) -> Arrivals:
    """Which requests come, by :func:`add_load`; ``given`` in place of what was told."""
    from costgraph.asking.serving.asked import Arrivals

    told = {f.name: getattr(arguments, f.name) for f in fields(Arrivals)}
    return Arrivals(**{k: v for k, v in (told | given).items() if v is not None})


def servers_of(arguments: argparse.Namespace) -> Servers:
    """What serves them, by :func:`add_servers`."""
    from costgraph.asking.serving.asked import Servers

    told = {f.name: getattr(arguments, f.name) for f in fields(Servers)}
    return Servers(**{k: v for k, v in told.items() if v is not None})


@contextmanager
def options_named() -> Iterator[None]:
    """What has no effect, or lacks something, is told by the names of options."""
    from costgraph.asking.serving.asked import Unused

    try:
        yield
    except Unused as error:
        raise error.spelled(lambda name: f"--{name.replace('_', '-')}") from None


def _simulate(arguments: argparse.Namespace) -> int:
    from costgraph.asking.serving.asked import run
    from costgraph.files.writing import suffix_of
    from costgraph.showing.export.serving import served_text, simulated_text
    from costgraph.showing.export.terminal import width

    if arguments.served is not None:
        suffix_of(arguments.served, (".csv", ".json"), "--served")
    with options_named(), bar("simulating") as progress:
        came, servers = arrivals_of(arguments).come(), servers_of(arguments)
        found = run(
            arguments.model, arguments.on, arguments.passes, came, servers,
            closed=arguments.closed, spans=arguments.timeline is not None, progress=progress,
            **_options(arguments),
        )  # fmt: skip
    if arguments.timeline is not None:
        from costgraph.showing.plot import save, timeline

        about = ", ".join(served_text(found))
        figure = timeline(found.seen, setting=found.setting, about=about)
        save(figure, arguments.timeline)
    if arguments.served is not None:
        told = found.setting.to_dict() | found.head()
        _write(arguments.served, told | {"served": found.seen.each()})
    return show(
        arguments,
        Answer(lambda: print(simulated_text(found, width())), found.to_dict, "", found.setting),
    )


def _write(path: str, value: dict[str, Any]) -> None:
    """Requests with what they were served by, as the suffix of ``path`` says."""
    from costgraph.files.writing import write_whole
    from costgraph.showing.export.plain_json import json_text
    from costgraph.showing.export.records import records_csv

    text = records_csv(value, "served") if path.lower().endswith(".csv") else json_text(value)
    write_whole(path, text.encode())
    remark([f"wrote {path}: {many(len(value['served']), 'request')}"])
