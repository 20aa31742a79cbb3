"""The command line. Heavy modules are imported only by the commands that need them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from costgraph.cli import cases, formula, serving, sweep, vocabulary
from costgraph.cli.answers import COMMANDS, OPTION
from costgraph.cli.examples import EXAMPLES, FIRST, show_examples
from costgraph.cli.output import Screen, Tape, ended, fail
from costgraph.cli.parser import Parser
from costgraph.cli.progress import bar, waiting
from costgraph.cli.showing import Answer, Table, show
from costgraph.cli.values import remark
from costgraph.errors import InputError, UnboundSymbolError, unbound
from costgraph.ir.metrics import METRICS
from costgraph.setting import Setting

if TYPE_CHECKING:
    from costgraph.cli.cases import Cases
    from costgraph.compiling.fits import Fit
    from costgraph.formula import Formula


def main(
    argv: Sequence[str] | None = None, tape: Tape | None = None, kept: Cases | None = None
) -> int:
    """Entry point; returns the exit code: 0, 2 for errors, 130 when interrupted."""
    return ended(lambda: _run(argv, kept), tape)


def _run(argv: Sequence[str] | None, kept: Cases | None) -> int:
    parser = _build_parser()
    arguments = parser.parse_args(argv)
    arguments.cases = kept
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 0
    run: Callable[[argparse.Namespace], int] = arguments.run
    if getattr(arguments, "format", "text") == "text" and isinstance(sys.stdout, Screen):
        from costgraph.showing.export.terminal import width

        sys.stdout.columns = width()
    try:
        with waiting(f"costgraph {arguments.command}"):
            return run(arguments)
    except UnboundSymbolError as error:
        fail(f"{error}{vocabulary.hint(error.names, arguments)}")


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="costgraph",
        description="The cost of model inference as a formula: latency, memory and traffic, "
        "symbolic in batch and sequence length.",
    )
    from costgraph import __version__
    from costgraph.cli.draw import add_picture_commands
    from costgraph.cli.report import add_report_command

    parser.add_argument("--version", action="version", version=f"costgraph {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", parser_class=Parser
    )
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
    show_examples(parser, FIRST)
    for name, examples in EXAMPLES.items():
        show_examples(commands.choices[name], examples)
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
        help="a metric as a closed-form formula, or its value",
        description="Derive a metric as a formula. ttft: B, S; tpot: B, T; latency, throughput, "
        "memory, flops, bytes, energy, energy_per_token, cost_per_token: B, S, N (of a whole "
        "request). Values stand for their symbols; --at gives all of them, and the number.",
    )
    vocabulary.add_target(command)
    vocabulary.add_metric(command, METRICS, "tpot")
    vocabulary.add_values(command)
    command.add_argument(
        "--symbolic-hardware", action="store_true", help="keep peaks and bandwidth as symbols"
    )
    command.add_argument(
        "--symbolic-model", action="store_true", help="keep model dimensions as symbols"
    )
    from costgraph.showing.export.code import LANGUAGES

    vocabulary.add_format(
        command, "csv", "latex", "tex", "html", *LANGUAGES,
        text="text (default), json, csv (a term a row), latex, tex (a document that compiles), "
        f"html (MathML with a legend), or a standalone function: {', '.join(LANGUAGES)}",
    )  # fmt: skip
    command.add_argument(
        "--detail",
        choices=("summary", "ops"),
        help="name the constants and derive them from the model's dimensions: per resource "
        "(summary) or per group of operations (ops)",
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
    vocabulary.add_values(command, "B=1")
    vocabulary.add_format(command, "csv", "latex")
    command.set_defaults(run=_analyze)


def _compare_command(commands: Any) -> None:
    command = commands.add_parser(
        "compare",
        help="pipelines of passes, devices or models, side by side",
        description="Latency, throughput and memory of several pipelines, what each pass of a "
        "pipeline adds (waterfall) and what leaving it out costs (ablation). Speed-ups are "
        "against the first pipeline; give --passes '' for the unmodified model. Models given "
        "with --beside go through the same pipelines: a student beside its teacher.",
    )
    vocabulary.add_targets(command)
    command.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="MODEL[:S=…,N=…]",
        help="another model, with prompt and generated tokens of its own where the same work "
        "takes it more or fewer; repeatable",
    )
    vocabulary.add_values(command, "B=1,S=1024,N=256", sizes="BSNG")
    vocabulary.add_format(command, "csv", "latex")
    command.add_argument(
        "-o", "--output", metavar="FILE", help="also a figure: .svg, .pdf or .png (extra 'plot')"
    )
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
        vocabulary.add_format(command, "csv")
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
    how, given = arguments.format, vocabulary.values(arguments)
    if arguments.detail and how not in ("text", "latex", "tex", "html"):
        raise InputError(f"--detail is for text, latex, tex and html, not {how}: leave it out")
    if arguments.at:
        if arguments.detail or how not in ("text", "json", "csv"):
            raise InputError("--at gives the value, as text, json or csv; -B and --set a formula")
        return _value(arguments, given)
    compiled = vocabulary.compiled(arguments)
    formula = getattr(compiled, arguments.metric)
    if given:
        formula = formula.bind(**given)
    if arguments.detail or how in ("tex", "html"):
        named = compiled.readable(arguments.metric, arguments.detail or "ops", **given)
        if how == "html":
            print(named.mathml())
        elif how == "text":
            print(named.text())
        elif how == "tex":
            print(named.latex(document=True), end="")
        else:
            _print_latex(named.latex(), formula)
    elif how == "latex":
        _print_latex(formula.latex(), formula)
    elif how in ("text", "json", "csv"):
        from costgraph.showing.export.plain import formula_object

        answer = Answer(
            lambda: print(formula.text()), lambda: formula_object(formula), "terms",
            compiled.setting,
        )  # fmt: skip
        return show(arguments, answer)
    else:
        print(formula.code(how), end="")
    return 0


def _value(arguments: argparse.Namespace, given: dict[str, Any]) -> int:
    """The value of a metric at a point: of a kept case, else of the compiled program."""
    question = cases.question(arguments)
    case = arguments.cases.read(question) if arguments.cases is not None else None
    found = None if case is None else cases.value_in(case, given)
    if case is not None and found is not None:
        arguments.cases.answered = True
        setting, unit, data = Setting.from_data(case["setting"]), case["unit"], case["data"]
        return _show_value(arguments, setting, unit, given, *found, data)
    compiled = vocabulary.compiled(arguments)
    formula = getattr(compiled, arguments.metric)
    bound = formula.bind(**given)
    if bound.symbols:
        missing = [s.name for s in bound.symbols]
        raise unbound(f"--at: {arguments.metric}", missing, bound.meanings)
    data = None
    if arguments.format != "text":
        from costgraph.showing.export.plain import formula_object

        data = {
            k: v for k, v in formula_object(formula).items() if k not in formula.setting.to_dict()
        }
    if arguments.cases is not None:
        arguments.cases.made = question, cases.value_case(compiled, formula, data)
    return _show_value(
        arguments, formula.setting, formula.unit, given, formula(**given), compiled.fit(**given),
        data,
    )  # fmt: skip


def _show_value(
    arguments: argparse.Namespace,
    setting: Setting,
    unit: str,
    given: dict[str, Any],
    value: Any,
    fits: Fit,
    data: dict[str, Any] | None,
) -> int:
    """Prints a value, what it is about and whether that fits."""
    about = setting.told({name: str(number) for name, number in given.items()})

    def text() -> None:
        from costgraph.showing.export.table import value_lines

        print("\n".join(value_lines(about, arguments.metric, value, unit, fits.warning)))

    def plain() -> dict[str, Any]:
        return {**about.to_dict(), **(data or {}), "value": value, "fit": fits.to_dict()}

    return show(arguments, Answer(text, plain, "terms", about))


def _print_latex(text: str, formula: Formula) -> None:
    """LaTeX, with what it is about above and what it rests on below, as comments."""
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
    table = compiled.breakdown(arguments.phase, **given)

    def text() -> None:
        from costgraph.showing.export.terminal import print_breakdown

        print_breakdown(table)

    def paper() -> Table:
        from costgraph.showing.export.table import (
            breakdown_cells,
            breakdown_head,
            title,
            totals_lines,
        )

        return Table(
            breakdown_head(table), breakdown_cells(table), title(table), totals_lines(table)
        )

    return show(arguments, Answer(text, table.to_dict, "ops", table.setting, paper))


def _compare(arguments: argparse.Namespace) -> int:
    from costgraph.asking.comparison import compare

    if arguments.output is not None:
        from costgraph.files.writing import suffix_of
        from costgraph.showing import plot

        suffix_of(arguments.output, plot.SUFFIXES, "figure")
    with bar("comparing") as told:
        table = compare(
            arguments.model,
            vocabulary.devices(arguments),
            vocabulary.pipelines(arguments),
            beside=[vocabulary.beside(text) for text in arguments.beside],
            progress=told,
            **vocabulary.conventions(arguments),
            **vocabulary.values(arguments),
        )

    def text() -> None:
        from costgraph.showing.export.comparison import comparison_text
        from costgraph.showing.export.terminal import width

        print(comparison_text(table, width()))

    def paper() -> Table:
        from costgraph.showing.export.comparison import caption, cells, steps

        return Table(*cells(table), [*caption(table).split("\n"), *steps(table)])

    # Before anything is printed: who reads it may stop.
    wrote = ""
    if arguments.output is not None:
        wrote = f"wrote {plot.save(plot.comparison(table), arguments.output)}"
    show(arguments, Answer(text, table.to_dict, "pipelines", table.setting, paper))
    if wrote and arguments.format == "text":
        print(wrote)
    else:
        remark([wrote] if wrote else [])
    return 0


def _models(arguments: argparse.Namespace) -> int:
    from costgraph.showing.export.models import list_models, show_model

    if arguments.name:
        remark(show_model(arguments.name, arguments.format, **vocabulary.dims(arguments)))
    else:
        list_models(arguments.format)
    return 0


def _hardware(arguments: argparse.Namespace) -> int:
    from costgraph.showing.export.machines import compare_hardware, list_hardware, show_hardware

    if arguments.name == "compare":
        compare_hardware(arguments.others, arguments.format)
    elif arguments.others:
        raise InputError("several devices are shown by: costgraph hardware compare A B")
    elif arguments.name:
        show_hardware(arguments.name, arguments.format)
    else:
        list_hardware(arguments.format)
    return 0


def _passes(arguments: argparse.Namespace) -> int:
    from costgraph.showing.export.listing import list_passes, show_pass

    if arguments.name:
        show_pass(arguments.name, arguments.format)
    else:
        list_passes(arguments.format)
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
        list_types(machines, arguments.format)
    elif arguments.name:
        show_format(arguments.name, machines, arguments.format)
    else:
        list_formats(machines, arguments.format)
    return 0


if __name__ == "__main__":
    sys.exit(main())
