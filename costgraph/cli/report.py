"""The command ``report``: one HTML file that recomputes everything as sliders move."""

from __future__ import annotations

import argparse
from typing import Any

from costgraph.errors import InputError

EPILOG = """\
examples:
  costgraph report llama-3-70b --on h100 --passes '' --passes fuse -o report.html
      the first pipeline is what speed-ups compare with
  costgraph report llama-3-8b --on h100,a100,l40s --passes 'fuse,quantize{weights=int4,bits=b}' \\
      -o report.html
      a selector of devices, and a slider for the bits of a weight
"""


def add_report_command(commands: Any) -> None:
    """Adds ``report`` to the command line."""
    from costgraph.cli.values import add_fidelity, add_reading, whole

    command = commands.add_parser(
        "report",
        help="a live HTML page with sliders, formulas, graph, roofline and curves",
        description="Write one HTML file that works offline: sliders for the workload and the "
        "device's figures, every metric live, formulas, graph, roofline, table and curves.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", help="shipped or hub name, config.json, or its directory")
    command.add_argument(
        "--on", required=True, action="append", metavar="HARDWARE[,…]",
        help="devices or TOML files, separated by commas; repeatable",
    )  # fmt: skip
    command.add_argument(
        "--passes", action="append", metavar="P",
        help="a pipeline; repeatable; '' is the unmodified model (default)",
    )  # fmt: skip
    for option, symbol, meaning in (
        ("--batch", "B", "sequences (1)"),
        ("--prompt", "S", "prompt tokens (1024)"),
        ("--generate", "N", "generated tokens (256)"),
        ("--context", "T", "attended tokens of a decode step (2048)"),
    ):
        command.add_argument(option, type=whole, metavar=symbol, help=f"start: {meaning}")
    command.add_argument("--accounting", default="exact", help="exact (default) or survey")
    add_fidelity(command)
    add_reading(command)
    command.add_argument("-o", "--output", required=True, metavar="FILE.html", help="what to write")
    command.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from costgraph.cli.values import reading, remark
    from costgraph.export.files import suffix_of
    from costgraph.report import report

    suffix_of(arguments.output, (".html", ".htm"), "report")
    devices = [name.strip() for text in arguments.on for name in text.split(",")]
    if not all(devices):
        raise InputError("--on: a name is missing before or after a comma")
    point = {
        "B": arguments.batch,
        "S": arguments.prompt,
        "N": arguments.generate,
        "T": arguments.context,
    }
    made = report(
        arguments.model,
        list(dict.fromkeys(devices)),
        arguments.passes or [""],
        accounting=arguments.accounting,
        fidelity=arguments.fidelity,
        **reading(arguments),
        **{name: value for name, value in point.items() if value is not None},
    )
    remark(made.notes)
    print(f"wrote {made.save(arguments.output)}")
    return 0
