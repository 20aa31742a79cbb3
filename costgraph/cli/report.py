"""The command ``report``: one HTML file that recomputes everything as sliders move."""

from __future__ import annotations

import argparse
from typing import Any

from costgraph.cli import serving, vocabulary
from costgraph.cli.values import real, remark, whole
from costgraph.errors import InputError

#: Policies that the panel of a load has; of :mod:`costgraph.showing.report.load`.
FORMS = ("chunked", "continuous", "prefill-first")


def add_commands(commands: Any) -> None:
    """Adds ``report`` to the command line."""
    command = commands.add_parser(
        "report",
        help="a live HTML page with sliders, formulas, graph, roofline and curves",
        description="Write one HTML file that works offline: sliders for the workload and the "
        "device's figures, every metric live, formulas, a server under load, graph, roofline, "
        "table and curves.",
    )
    vocabulary.add_targets(command)
    vocabulary.add_values(
        command, "B=start: 1,S=start: 1024,N=start: 256,T=start: 2048",
        takes=dict.fromkeys("SN", "LENGTHS"),
    )  # fmt: skip
    load = command.add_argument_group("load", "where the panel of a server under load starts")
    load.add_argument(
        "--rate", type=real, metavar="R", help="requests per second (half of what it stands)"
    )
    serving.add_steps(load, "64; of simulated requests what fits")
    load.add_argument(
        "--simulate",
        type=whole,
        metavar="N",
        help="also simulate so many requests at the start (400 where --rate is given)",
    )
    plan = command.add_argument_group(
        "plan",
        "also the cheapest servers for the rate within limits, as serve-plan finds them: of each "
        "pipeline, on any of the devices",
    )
    serving.add_wanted(plan)
    sim = command.add_argument_group(
        "requests", "also simulated requests, as serve-simulate serves them: at the rate, or"
    )
    serving.add_load(sim.add_mutually_exclusive_group())
    serving.add_draws(sim)
    serving.add_servers(sim)
    command.add_argument(
        "--plans",
        action="store_true",
        help="also every way to share the model among the devices of each system",
    )
    command.add_argument("-o", "--output", required=True, metavar="FILE.html", help="what to write")
    command.set_defaults(run=_report)


#: Options that ask for a plan, and for simulated requests.
_PLAN = ("ttft", "tpot", "devices", "precision", "speculative", "pools")
_REQUESTS = (
    "trace", "closed", "requests", "seed", "prefix_hits", "replicas", "paging", "polls",
    "decode_replicas", "decode_on", "decode_passes", "decode_limit", "link",
)  # fmt: skip


def _report(arguments: argparse.Namespace) -> int:
    from costgraph.files.writing import suffix_of
    from costgraph.showing.report import report

    suffix_of(arguments.output, (".html", ".htm"), "report")
    with serving.options_named():
        sizes, drawn = _sizes(arguments)
        asked = _servers(arguments, drawn)
        # The load has closed forms of some policies; simulated requests have them all.
        told = {n: getattr(arguments, n) for n in ("limit", "chunk", "policy")}
        if "arrivals" in asked and told["policy"] not in FORMS:
            told["policy"] = None
        made = report(
            arguments.model,
            list(dict.fromkeys(vocabulary.devices(arguments))),
            vocabulary.pipelines(arguments),
            rate=arguments.rate,
            plans=arguments.plans,
            simulate=arguments.simulate,
            **told,
            **asked,
            **vocabulary.conventions(arguments),
            **sizes,
        )
    remark(made.notes)
    print(f"wrote {made.save(arguments.output)}")
    return 0


def _sizes(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Where controls start, and lengths of requests that are drawn, which start at their mean."""
    from costgraph.asking.serving import Lengths

    drawn = {}
    for letter, name in (("S", "prompt"), ("N", "generate")):
        text = vocabulary.text_of(arguments, letter)
        if text is not None and ":" in text and not text[0].isdigit():
            drawn[letter] = (name, text)
    sizes = vocabulary.values(arguments, but="".join(drawn))
    means = {k: max(1, round(Lengths.of(text).mean)) for k, (_, text) in drawn.items()}
    return sizes | means, dict(drawn.values())


def _servers(arguments: argparse.Namespace, drawn: dict[str, str]) -> dict[str, Any]:
    """What is asked of servers beside the load.

    Raises:
        InputError: an option lacks another, or has no effect.
    """
    plan = [n for n in _PLAN if getattr(arguments, n) is not None]
    requests = [n for n in _REQUESTS if getattr(arguments, n) is not None]
    found: dict[str, Any] = {}
    if plan:
        for needed in ("ttft", "tpot", "rate"):
            if getattr(arguments, needed) is None:
                no = "no-" if getattr(arguments, plan[0]) is False else ""
                raise InputError(f"--{no}{plan[0].replace('_', '-')} needs --{needed}: plans")
        found["wanted"] = serving.wanted_of(arguments, **drawn)
    if requests or (drawn and not plan):
        given: dict[str, Any] = {"prompt": None, "generate": None}
        if arguments.trace is None or not plan:
            given |= drawn
        if arguments.trace is not None or arguments.closed is not None:
            given["rate"] = None
        found["arrivals"] = serving.arrivals_of(arguments, **given)
        found["servers"] = serving.servers_of(arguments)
        if arguments.simulate is not None:
            raise InputError("--simulate: of requests that come otherwise --requests says how many")
    return found
