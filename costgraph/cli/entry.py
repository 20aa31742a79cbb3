"""The command line. Heavy modules are imported only by the commands that need them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from costgraph.cli import formula, serving, sweep, vocabulary
from costgraph.cli.answers import COMMANDS, OPTION
from costgraph.cli.output import Tape, ended, fail
from costgraph.cli.parser import Parser
from costgraph.cli.values import print_json, remark
from costgraph.errors import InputError, UnboundSymbolError
from costgraph.ir.metrics import METRICS

if TYPE_CHECKING:
    from costgraph.formula import Formula

EPILOG = """\
examples:
  costgraph formula llama-2-7b --on a6000
      the time per output token as a formula in batch B and context T
  costgraph formula llama-3-70b --on h100 --metric latency --format latex
  costgraph analyze llama-2-7b --on a6000 --phase decode --batch 1 --context 2048
      every operation: FLOP, bytes, intensity, time, and what bounds it
  costgraph analyze ./my-model/config.json --on ./my-device.toml --phase prefill \\
      --batch 4 --prompt 1024 --json
  costgraph models        costgraph hardware        costgraph passes
      what there is to choose from
"""


def main(argv: Sequence[str] | None = None, tape: Tape | None = None) -> int:
    """Entry point; returns the exit code: 0, 2 for errors, 130 when interrupted."""
    return ended(lambda: _run(argv), tape)


def _run(argv: Sequence[str] | None) -> int:
    parser = _build_parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 0
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except UnboundSymbolError as error:
        fail(f"{error}{vocabulary.hint(error.names, arguments)}")


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="costgraph",
        description="The cost of model inference as a formula: latency, memory and traffic, "
        "symbolic in batch and sequence length.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    from costgraph import __version__
    from costgraph.cli.draw import add_picture_commands
    from costgraph.cli.report import add_report_command

    parser.add_argument("--version", action="version", version=f"costgraph {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    _formula_command(commands)
    _analyze_command(commands)
    _compare_command(commands)
    formula.add_commands(commands)
    sweep.add_commands(commands)
    serving.add_commands(commands)
    add_picture_commands(commands)
    add_report_command(commands)
    _list_commands(commands)
    from costgraph.cli import calibrate, completion, explorer, importing

    importing.add_commands(commands)
    calibrate.add_commands(commands)
    explorer.add_commands(commands)
    completion.add_command(commands)
    for name in COMMANDS & commands.choices.keys():
        commands.choices[name].add_argument(
            OPTION,
            action="store_true",
            help="answer anew: neither repeat a kept answer nor keep this one (kept below "
            "~/.cache/costgraph, or in the folder that COSTGRAPH_CACHE names)",
        )
    return parser


def _formula_command(commands: Any) -> None:
    command = commands.add_parser(
        "formula",
        help="a metric as a closed-form formula",
        description="Derive a metric as a formula. ttft: B, S; tpot: B, T; latency, throughput, "
        "memory, flops, bytes, energy, energy_per_token, cost_per_token: B, S, N (of a whole "
        "request).",
    )
    vocabulary.add_target(command)
    command.add_argument("--metric", choices=METRICS, default="tpot", help="default: tpot")
    vocabulary.add_values(command, "")
    command.add_argument(
        "--symbolic-hardware", action="store_true", help="keep peaks and bandwidth as symbols"
    )
    command.add_argument(
        "--symbolic-model", action="store_true", help="keep model dimensions as symbols"
    )
    from costgraph.showing.export.code import LANGUAGES

    command.add_argument(
        "--format",
        choices=("text", "latex", "tex", "html", "json", *LANGUAGES),
        default="text",
        help="text (default), latex, tex (a document that compiles), html (MathML with a legend), "
        "json, or a standalone function in a language",
    )
    command.add_argument(
        "--detail",
        choices=("summary", "ops"),
        help="name the constants and derive them from the model's dimensions: per resource "
        "(summary) or per group of operations (ops)",
    )
    command.add_argument(
        "--label", metavar="NAME", help="with latex: a numbered equation that \\ref{NAME} finds"
    )
    command.set_defaults(run=_formula)


def _analyze_command(commands: Any) -> None:
    command = commands.add_parser(
        "analyze",
        help="every operation of one step, with numbers",
        description="Per-operation FLOP, bytes, arithmetic intensity, time and bound of one "
        "step of a phase, and totals. Rows are for one execution; 'count' says how many.",
    )
    vocabulary.add_target(command)
    command.add_argument(
        "--phase", default="decode",
        help="default: decode; also prefill; encode: of encoder-decoders, forward: of encoders "
        "and vision models, vision: of multimodal models, denoise: of diffusion models; others "
        "that passes make (draft, verify, refine), which a wrong name lists",
    )  # fmt: skip
    vocabulary.add_values(command, "BSNTG", "B=1")
    command.add_argument(
        "--timeline", metavar="FILE",
        help="also write when each operation runs, as a trace for Perfetto or Chrome: .json",
    )  # fmt: skip
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=_analyze)


def _compare_command(commands: Any) -> None:
    command = commands.add_parser(
        "compare",
        help="pipelines of passes, or models, side by side",
        description="Latency, throughput and memory of several pipelines, what each pass of a "
        "pipeline adds (waterfall) and what leaving it out costs (ablation). Speed-ups are "
        "against the first pipeline; give --passes '' for the unmodified model. Models given "
        "with --beside go through the same pipelines: a student beside its teacher.",
    )
    vocabulary.add_targets(command, passes_required=True)
    command.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="MODEL[:S=…,N=…]",
        help="another model, with prompt and generated tokens of its own where the same work "
        "takes it more or fewer; repeatable",
    )
    vocabulary.add_values(command, "BSNG", "B=1,S=1024,N=256")
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=_compare)


def _list_commands(commands: Any) -> None:
    for name, run, text in (
        ("models", _models, "shipped models"),
        ("hardware", _hardware, "devices and systems, one with its sources, or 'compare A B …'"),
        ("passes", _passes, "optimisation passes, or one pass with its options"),
        ("formats", _formats, "number formats with their bits, or one; what machines run"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("name", nargs="?", help="show one in detail")
        if name == "hardware":
            command.add_argument("others", nargs="*", help="devices or systems after 'compare'")
        command.add_argument("--json", action="store_true", help="machine-readable")
        if name == "models":
            vocabulary.add_dims(command)
        if name == "formats":
            vocabulary.add_machines(command)
            command.add_argument(
                "--types",
                action="store_true",
                help="what machines multiply in and what they widen the rest to (all without --on)",
            )
        command.set_defaults(run=run)


def _formula(arguments: argparse.Namespace) -> int:
    given = vocabulary.values(arguments)
    if arguments.label is not None and arguments.format != "latex":
        raise InputError(f"--label is for latex, not {arguments.format}: leave it out")
    compiled = vocabulary.compiled(arguments)
    formula = getattr(compiled, arguments.metric)
    if given:
        formula = formula.bind(**given)
    if arguments.detail or arguments.format in ("tex", "html"):
        if arguments.format not in ("text", "latex", "tex", "html"):
            raise InputError(
                f"--detail is for text, latex, tex and html, not {arguments.format}: leave it out"
            )
        named = compiled.readable(arguments.metric, arguments.detail or "ops", **given)
        if arguments.format == "html":
            print(named.mathml())
        elif arguments.format == "text":
            print(named.text())
        elif arguments.format == "tex":
            print(named.latex(document=True), end="")
        else:
            _print_latex(named.latex(), formula, arguments.label)
    elif arguments.format == "latex":
        _print_latex(formula.latex(), formula, arguments.label)
    elif arguments.format == "json":
        from costgraph.showing.export.plain import formula_object

        print_json(formula_object(formula), compiled.setting.remarks)
    elif arguments.format == "text":
        print(formula.text())
    else:
        print(formula.code(arguments.format), end="")
    return 0


def _print_latex(text: str, formula: Formula, label: str | None) -> None:
    """LaTeX, with what it is about above and what it rests on below, as comments."""
    if label is not None:
        from costgraph.showing.export.latex import numbered

        text = numbered(text, label)
    setting = formula.setting
    about, said = ([], []) if setting is None else (setting.lines(), setting.foot())
    print("\n".join([*(f"% {line}" for line in about), text, *(f"% {line}" for line in said)]))


def _analyze(arguments: argparse.Namespace) -> int:
    from costgraph.compiling.breakdown import check_part

    given = vocabulary.wholes(vocabulary.values(arguments))
    if arguments.phase in ("prefill", "encode") and "S" not in given:
        raise InputError(f"analyze --phase {arguments.phase} needs --prompt S")
    if arguments.phase == "decode" and "T" not in given:
        raise InputError("analyze --phase decode needs --context T")
    compiled = vocabulary.compiled(arguments)
    check_part(compiled, [compiled.program.phase(arguments.phase)], given)
    table = compiled.breakdown(arguments.phase, **{"B": 1, **given})
    if arguments.timeline is not None:
        from costgraph.showing.export.chrome import write_timeline

        write_timeline(compiled.timeline(arguments.phase, **{"B": 1, **given}), arguments.timeline)
    if arguments.json:
        print_json(table.to_dict(), compiled.setting.remarks)
    else:
        from costgraph.showing.export.terminal import print_breakdown

        print_breakdown(table)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from costgraph.asking.comparison import compare

    table = compare(
        arguments.model,
        vocabulary.devices(arguments),
        arguments.passes,
        beside=[vocabulary.beside(text) for text in arguments.beside],
        **vocabulary.conventions(arguments),
        **vocabulary.values(arguments),
    )
    if arguments.json:
        print_json(table.to_dict(), table.setting.remarks)
    else:
        from costgraph.showing.export.comparison import comparison_text
        from costgraph.showing.export.terminal import width

        print(comparison_text(table, width()))
    return 0


def _models(arguments: argparse.Namespace) -> int:
    from costgraph.showing.export.models import list_models, show_model

    if arguments.name:
        remark(show_model(arguments.name, arguments.json, **vocabulary.dims(arguments)))
    else:
        list_models(arguments.json)
    return 0


def _hardware(arguments: argparse.Namespace) -> int:
    from costgraph.showing.export.machines import compare_hardware, list_hardware, show_hardware

    if arguments.name == "compare":
        compare_hardware(arguments.others, arguments.json)
    elif arguments.others:
        raise InputError("several devices are shown by: costgraph hardware compare A B")
    elif arguments.name:
        show_hardware(arguments.name, arguments.json)
    else:
        list_hardware(arguments.json)
    return 0


def _passes(arguments: argparse.Namespace) -> int:
    from costgraph.showing.export.listing import list_passes, show_pass

    if arguments.name:
        show_pass(arguments.name, arguments.json)
    else:
        list_passes(arguments.json)
    return 0


def _formats(arguments: argparse.Namespace) -> int:
    from costgraph.hardware import device_names, load_hardware
    from costgraph.showing.export.formats import list_formats, list_types, show_format

    names = vocabulary.devices(arguments)
    if arguments.types:
        if arguments.name:
            raise InputError("--types is about machines: leave the format out")
        names = names or device_names()
    machines = [load_hardware(name) for name in names]
    if arguments.types:
        list_types(machines, arguments.json)
    elif arguments.name:
        show_format(arguments.name, machines, arguments.json)
    else:
        list_formats(machines, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
