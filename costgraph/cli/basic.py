"""Commands about one program or some side by side: formula, analyze, compare."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from costgraph.cli import cases, vocabulary
from costgraph.cli.progress import bar
from costgraph.cli.showing import Answer, Table, show, write_sources
from costgraph.cli.values import remark
from costgraph.errors import InputError, unbound
from costgraph.ir.metrics import METRICS
from costgraph.setting import Setting

if TYPE_CHECKING:
    from costgraph.asking.references import Reference
    from costgraph.cli.showing import Source, Sources
    from costgraph.compiling.compiled import Compiled
    from costgraph.compiling.fits import Fit
    from costgraph.compiling.steps import Breakdown
    from costgraph.formula import Formula


def add_commands(commands: Any) -> None:
    """Registers the commands."""
    _formula_command(commands)
    _analyze_command(commands)
    _compare_command(commands)


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
        f"html (a page: MathML with a legend), or a standalone function: {', '.join(LANGUAGES)}",
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
        "--phase",
        help="default: decode, or the one phase that a model has; also prefill; encode: of "
        "encoder-decoders, forward: of encoders and vision models, vision: of multimodal models, "
        "denoise: of diffusion models; others that passes make (draft, verify, refine), which a "
        "wrong name lists",
    )  # fmt: skip
    vocabulary.add_values(command, "B=1")
    vocabulary.add_format(command, "csv", "latex")
    command.add_argument(
        "--timeline", metavar="FILE",
        help="also write when each operation runs, as a trace for Perfetto or Chrome: .json",
    )  # fmt: skip
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
    shown = command.add_mutually_exclusive_group()
    for name, text in (
        ("waterfall", "what each pass adds to the latency"),
        ("ablation", "what leaving out each pass costs"),
    ):
        shown.add_argument(
            f"--{name}", dest="figure", action="short", const=name,
            help=f"the figure of -o shows {text}, a panel for each pipeline",
        )  # fmt: skip
    command.set_defaults(run=_compare)


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
    sources = [(compiled, (formula,))]
    cited: tuple[Reference, ...] = ()
    if arguments.bib is not None:
        cited = write_sources(arguments, sources)
    elif how == "tex":
        from costgraph.asking.references import references

        cited = references(sources)
    if arguments.detail or how in ("tex", "html"):
        named = compiled.readable(arguments.metric, arguments.detail or "ops", **given)
        if how == "html":
            from costgraph.showing.export.readable import named_page

            print(named_page(named), end="")
        elif how == "text":
            print(named.text())
        elif how == "tex":
            stem = arguments.bib and os.path.splitext(os.path.basename(arguments.bib))[0]
            print(named.latex(document=True, references=cited, bib=stem or ""), end="")
        else:
            _print_latex(named.latex(), formula, arguments, cited)
    elif how == "latex":
        _print_latex(formula.latex(), formula, arguments, cited)
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
    case = None if arguments.bib is not None else cases.read(arguments, question)
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
    cases.keep(arguments, question, lambda: cases.value_case(compiled, formula, data))
    return _show_value(
        arguments, formula.setting, formula.unit, given, formula(**given), compiled.fit(**given),
        data, lambda: [(compiled, (formula,))],
    )  # fmt: skip


def _show_value(
    arguments: argparse.Namespace,
    setting: Setting,
    unit: str,
    given: dict[str, Any],
    value: Any,
    fits: Fit,
    data: dict[str, Any] | None,
    sources: Sources | None = None,
) -> int:
    """Prints a value, what it is about and whether that fits."""
    about = setting.told({name: str(number) for name, number in given.items()})

    def text() -> None:
        from costgraph.showing.export.table import value_lines

        print("\n".join(value_lines(about, arguments.metric, value, unit, fits.warning)))

    def plain() -> dict[str, Any]:
        found = about.to_dict(*fits.cautions)
        return {**found, **(data or {}), "value": value, "fit": fits.to_dict()}

    return show(arguments, Answer(text, plain, "terms", about, sources=sources))


def _print_latex(
    text: str, formula: Formula, arguments: argparse.Namespace, cited: Sequence[Reference]
) -> None:
    """LaTeX, with what it is about above and what it rests on below, as comments."""
    from costgraph.showing.export.bibtex import citing
    from costgraph.showing.export.latex import displayed
    from costgraph.showing.export.readable import about

    text = displayed(text, arguments.label, arguments.caption)
    said = [] if formula.setting is None else formula.setting.foot()
    said = [*said, *([citing(cited)] if cited else [])]
    above, below = ([f"% {line}" for line in lines] for lines in (about(formula), said))
    print("\n".join([*above, text, *below]))


def _analyze(arguments: argparse.Namespace) -> int:
    given = vocabulary.values(arguments)
    question = cases.question(arguments)
    written = arguments.timeline is not None or arguments.bib is not None
    sources: Sources | None = None
    table = None if written else cases.step_in(cases.read(arguments, question), given)
    if table is None:
        from costgraph.compiling.breakdown import check_part, kept_step

        compiled = vocabulary.compiled(arguments)
        phase = arguments.phase or _usual_phase(compiled)
        check_part(compiled, [compiled.program.phase(phase)], given)
        table = compiled.breakdown(phase, **given)
        sources = partial(_step_sources, compiled, phase)
        if arguments.timeline is not None:
            from costgraph.showing.export.chrome import write_timeline

            write_timeline(compiled.timeline(phase, **given), arguments.timeline)
        cases.keep(arguments, question, lambda: kept_step(compiled, phase))
    else:
        arguments.cases.answered = True
    return _show_step(arguments, table, sources)


def _step_sources(compiled: Compiled, phase: str) -> list[Source]:
    return [(compiled, (compiled.time(phase),))]


def _usual_phase(compiled: Compiled) -> str:
    """The phase that is shown where none is named: decode, or the only one.

    Raises:
        InputError: there are several others.
    """
    names = [phase.name for phase in compiled.program.phases]
    if "decode" in names:
        return "decode"
    if len(names) > 1:
        raise InputError(f"analyze: which step? --phase is one of {', '.join(names)}")
    return names[0]


def _show_step(arguments: argparse.Namespace, table: Breakdown, sources: Sources | None) -> int:
    """Prints a step in its format."""

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

    answer = Answer(text, table.to_dict, "ops", table.setting, paper, sources)
    return show(arguments, answer)


def _compare(arguments: argparse.Namespace) -> int:
    kind = getattr(arguments, "figure", None)
    if kind is not None and arguments.output is None:
        raise InputError(f"compare: --{kind} says what the figure of -o FILE shows: add -o")
    if arguments.output is not None:
        from costgraph.files.writing import suffix_of
        from costgraph.showing import plot

        suffix_of(arguments.output, plot.SUFFIXES, "figure")
    given = vocabulary.values(arguments)
    question = cases.question(arguments, named=False)
    written = arguments.output is not None or arguments.bib is not None
    known = None if written else cases.comparison_in(cases.read(arguments, question), given)
    if known is None:
        from costgraph.asking.comparison import compare

        with bar("pipelines compared") as told:
            table = compare(
                arguments.model,
                vocabulary.devices(arguments),
                vocabulary.pipelines(arguments),
                beside=[vocabulary.beside(text) for text in arguments.beside],
                progress=told,
                **vocabulary.conventions(arguments),
                **given,
            )
        cases.keep(arguments, question, table.kept)
    else:
        table = known
        arguments.cases.answered = True

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
        figure = plot.comparison(table) if kind is None else plot.effects(table, kind)
        wrote = f"wrote {plot.save(figure, arguments.output)}"

    def sources() -> Iterator[Source]:
        return ((c, (c.latency, c.memory)) for c in table.compiled)

    show(arguments, Answer(text, table.to_dict, "pipelines", table.setting, paper, sources))
    if wrote and arguments.format == "text":
        print(wrote)
    else:
        remark([wrote] if wrote else [])
    return 0
