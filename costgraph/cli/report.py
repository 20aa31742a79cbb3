"""The command ``report``: one HTML file that recomputes everything as sliders move."""

from __future__ import annotations

import argparse
from typing import Any

from costgraph.cli import vocabulary
from costgraph.cli.values import real, remark, whole


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
    vocabulary.add_values(command, "B=start: 1,S=start: 1024,N=start: 256,T=start: 2048")
    load = command.add_argument_group("load", "where the panel of a server under load starts")
    load.add_argument(
        "--rate", type=real, metavar="R", help="requests per second (half of what it stands)"
    )
    load.add_argument("--limit", type=whole, metavar="N", help="sequences at a time (64)")
    load.add_argument("--chunk", type=whole, metavar="N", help="tokens of a step (2048)")
    load.add_argument(
        "--policy",
        choices=("chunked", "continuous", "prefill-first"),
        metavar="HOW",
        help="what a step takes: chunked, continuous, prefill-first (chunked)",
    )
    load.add_argument(
        "--simulate",
        type=whole,
        metavar="N",
        help="also simulate so many requests at the start (400 where --rate is given)",
    )
    command.add_argument(
        "--plans",
        action="store_true",
        help="also every way to share the model among the devices of each system",
    )
    command.add_argument("-o", "--output", required=True, metavar="FILE.html", help="what to write")
    command.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from costgraph.files.writing import suffix_of
    from costgraph.showing.report import report

    suffix_of(arguments.output, (".html", ".htm"), "report")
    made = report(
        arguments.model,
        list(dict.fromkeys(vocabulary.devices(arguments))),
        vocabulary.pipelines(arguments),
        rate=arguments.rate,
        limit=arguments.limit,
        chunk=arguments.chunk,
        policy=arguments.policy,
        plans=arguments.plans,
        simulate=arguments.simulate,
        **vocabulary.conventions(arguments),
        **vocabulary.values(arguments),
    )
    remark(made.notes)
    print(f"wrote {made.save(arguments.output)}")
    return 0
