"""Printed functions are executed in their languages and agree with evaluation."""

from __future__ import annotations

import csv
import json
import math
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import (
    Integer,
    Max,
    Min,
    Piecewise,
    Rational,
    ceiling,
    exp,
    floor,
    log,
    sqrt,
)

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import InputError
from costgraph.formula import Arm, Formula, Span, Term
from costgraph.formula.terms import Limit
from costgraph.setting import Setting
from costgraph.showing.export.code import LANGUAGES, source
from costgraph.symbols import B, N, S, T, symbol

METRICS = ("ttft", "tpot", "latency", "throughput", "memory", "flops", "bytes")
W, width, gamma = symbol("W"), symbol("I"), symbol("gamma")
Results = list[list[float]]
Point = dict[str, float]


def made(name: str, *terms: Term, unit: str = "s", **more: object) -> Formula:
    return Formula(name, unit, terms, **more)  # type: ignore[arg-type]


def arms(*exprs: object) -> tuple[Arm, ...]:
    return tuple(Arm(e, f"r{i}") for i, e in enumerate(exprs))  # type: ignore[arg-type]


def one(*exprs: object, count: object = Integer(1), span: Span | None = None) -> Term:
    return Term(count, arms(*exprs), ("op",), span)  # type: ignore[arg-type]


paged_arm = B * T * 2 + B * ceiling(T / 16) / 3 - ceiling((T + 5) / 7)

#: Every kind of expression and sum that formulas may hold.
HARD = (
    made("powers", one(1 - (1 - Rational(1, 8)) ** B, B ** Rational(3, 2) / 7 + sqrt(T) / T)),
    made("expected", one((1 - Rational(4, 5) ** (gamma + 1)) / (1 - Rational(4, 5)) * B)),
    made("rounding", one(T * ceiling(T / 49) + floor((B + T) / 12) + ceiling(T / B) / 3)),
    made("cases", one(Piecewise((B, T > 40), (T / 3, B >= 7), (B + T, True)), Integer(20))),
    made("window", one(B * Min(T, W) + Max(T - W, 0), 3 * W + Min(B, Max(T, 2 * B)))),
    made("functions", one(exp(-B / 9) * log(T + 1) + 2 ** (-B), T / 7, count=-B)),
    made("affine", one(3 * T + B, span=Span(T, S + 1, S + N - 1))),
    made("empty", one(3 * T + B, span=Span(T, S + 9, S + N - 1))),
    made("lines", one(B * T / 3 + 2, W * T / 5 + B, 7 * B, span=Span(T, S + 1, S + N - 1))),
    made("two", one(3 * T + B, T + 40, count=N, span=Span(T, Max(S - 20, 1), S + N - 9))),
    made("square", one(T**2 * B - T / 7, span=Span(T, S + 9, S + Min(N, W)))),
    made("paged", one(B * ceiling(T / 16) / 3, T / 5, span=Span(T, S + 9, S + N - 1))),
    made("pages", one(paged_arm, span=Span(T, S + 9, S + N - 1)), unit="byte"),
    made("cut", one(B * Min(T, W), T / 5 + 9, span=Span(T, Min(S, W) + 1, Min(S + N, W) - 1))),
    made("twice", one(T**2, 40 * T, span=Span(T, S, S + 3)), one(T, B), one(T**2, 9 * T)),
    made("rate", one(B + T, 3 * T), numerator=B * T, unit="token/s"),
    made(
        "keywords",
        one(width * symbol("double") + symbol("function") / symbol("end") + symbol("im")),
    ),
    made("cells", one(symbol("R") * symbol("x1") + symbol("h") / symbol("H") + symbol("c"))),
    made("halves", one(B * (S**2 - S * (S - 1) / 2) / 3, 5 * S, count=N - 1), unit="byte"),
    made("kept", one(T / 3 + B, 7 * T / 2, span=Span(T, S + 1, S + N - 1)), unit="byte"),
    made("expected_bytes", one(B * (1 - Rational(1, 3) ** B)), unit="byte"),
    made("nothing", unit="byte"),
)

PIPELINES = (
    ("llama-3-70b", "h100", "", {}),
    ("llama-2-7b", "a6000", "fuse,quantize{preset=w4a16}", {}),
    ("llama-2-7b", "a6000", "page-kv{block=16}", {}),
    ("llama-2-7b", "a6000", "early-exit{p=0.3}", {}),
    ("llama-2-70b", "h200", "fuse,speculative{draft=llama-2-7b,gamma=4,alpha=0.8}", {}),
    ("gpt2", "v100", "", {"symbolic_model": True, "symbolic_hardware": True}),
    ("llama-3-8b", "h100", "fuse", {"fidelity": "calibrated"}),
    ("mixtral-8x7b", "a100-80g", "", {"fidelity": "high"}),
    ("deepseek-v2-lite", "mi300x", "fuse,quantize{weights=int8}", {"fidelity": "low"}),
)


@cache
def shipped() -> tuple[Formula, ...]:
    found = []
    for model, device, passes, options in PIPELINES:
        compiled = cg.compile(model, device, passes, **options)
        # Symbolic memory takes seconds to derive and prints like any maximum; counts
        # do not depend on the fidelity.
        left = ("memory", "flops", "bytes") if "fidelity" in options else ("memory",)
        found += [getattr(compiled, m) for m in METRICS if not options or m not in left]
    return tuple(found)


def points(formula: Formula, count: int = 6, seed: int = 0) -> list[Point]:
    """Whole numbers; multiples of block sizes among them."""
    generator = random.Random(f"{seed} {formula.name}")
    sizes = {"N": 60, "S": 300, "T": 400, "B": 40, "W": 200, "BW": 10**12}

    def value(name: str) -> int:
        highest = sizes.get(name, 10**14 if name.startswith("F_") else 64)
        return generator.choice((1, generator.randint(1, highest), 48, 49, 98))

    return [{s.name: value(s.name) for s in formula.symbols} for _ in range(count)]


def check(formulas: tuple[Formula, ...], run: Callable[..., list[Results]], **more: int) -> None:
    """``run`` gets (formulas of one function, points) pairs and computes them all."""
    jobs = [((f,), points(f, **more)) for f in formulas]
    found = run(jobs)
    assert len(found) == len(jobs)
    for (many, where), results in zip(jobs, found, strict=True):
        assert len(results) == len(where)
        for point, result in zip(where, results, strict=True):
            for formula, got in zip(many, result, strict=True):
                wanted = float(formula.evaluate(**point))
                assert math.isclose(got, wanted, rel_tol=1e-12, abs_tol=1e-300), (formula, point)


def arguments(formulas: tuple[Formula, ...], point: Point) -> list[float]:
    return [point[n] for n in sorted({s.name for f in formulas for s in f.symbols})]


def run_python(jobs: list) -> list[Results]:
    found = []
    for formulas, where in jobs:
        scope: dict = {}
        exec(source(formulas, "python", name="func"), scope)
        results = [scope["func"](*arguments(formulas, p)) for p in where]
        found.append([list(r) if isinstance(r, tuple) else [r] for r in results])
    return found


def run_numpy(jobs: list) -> list[Results]:
    found = []
    for formulas, where in jobs:
        scope: dict = {}
        exec(source(formulas, "numpy", name="func"), scope)
        columns = [np.array(c) for c in zip(*(arguments(formulas, p) for p in where), strict=True)]
        result = scope["func"](*columns)
        result = result if isinstance(result, tuple) else (result,)
        shaped = [np.broadcast_to(r, len(where)) for r in result]
        found.append([[float(r[i]) for r in shaped] for i in range(len(where))])
    return found


def c_program(jobs: list) -> str:
    parts = []
    calls = []
    for index, (formulas, where) in enumerate(jobs):
        parts.append(
            source(formulas, "c", name=f"func{index}")
            .replace("static double sum_max(", f"static double sum_max{index}(")
            .replace("sum_max(", f"sum_max{index}(")
        )
        for point in where:
            given = ", ".join(repr(float(v)) for v in arguments(formulas, point))
            if len(formulas) == 1:
                calls.append(f'printf("%.17g\\n", func{index}({given}));')
            else:
                more = f"{given}, " if given else ""
                calls.append(f"func{index}({more}out);")
                calls += [f'printf("%.17g\\n", out[{i}]);' for i in range(len(formulas))]
    body = "\n".join(calls)
    return "\n".join([*parts, "#include <stdio.h>", f"int main(void) {{ double out[99]; {body} }}"])


def run_c(jobs: list, folder: Path) -> list[Results]:
    (folder / "all.c").write_text(c_program(jobs), encoding="utf-8")
    strict = ["-std=c99", "-pedantic", "-Wall", "-Werror", "-Wno-unused", "-O1"]
    binary = folder / "all"
    subprocess.run(["cc", *strict, str(folder / "all.c"), "-o", str(binary), "-lm"], check=True)
    text = subprocess.run([str(binary)], check=True, capture_output=True, text=True).stdout
    return grouped(jobs, [float(line) for line in text.split()])


def grouped(jobs: list, values: list[float]) -> list[Results]:
    stream = iter(values)
    found = [[[next(stream) for _ in formulas] for _ in where] for formulas, where in jobs]
    assert next(stream, None) is None
    return found


def run_javascript(jobs: list, folder: Path) -> list[Results]:
    lines = []
    calls = []
    for index, (formulas, where) in enumerate(jobs):
        path = folder / f"m{index}.mjs"
        path.write_text(source(formulas, "javascript", name="func"), encoding="utf-8")
        lines.append(f"import {{ func as f{index} }} from './{path.name}';")
        rows = json.dumps([arguments(formulas, p) for p in where])
        calls.append(f"for (const p of {rows}) out.push(f{index}(...p));")
    text = "\n".join(
        [*lines, "const out = [];", *calls, "console.log(JSON.stringify(out.flat()));"]
    )
    (folder / "all.mjs").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["node", str(folder / "all.mjs")], check=True, capture_output=True, text=True, timeout=60
    )
    return grouped(jobs, json.loads(done.stdout))


def run_julia(jobs: list, folder: Path) -> list[Results]:
    lines = []
    for index, (formulas, where) in enumerate(jobs):
        lines.append(f"module M{index}\n{source(formulas, 'julia', name='func')}end")
        for point in where:
            given = ", ".join(repr(v) for v in arguments(formulas, point))
            lines.append(f"for r in M{index}.func({given}) println(r) end")
    (folder / "all.jl").write_text("\n".join(lines), encoding="utf-8")
    done = subprocess.run(
        ["julia", "--startup-file=no", str(folder / "all.jl")],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return grouped(jobs, [float(x) for x in done.stdout.split()])


def run_calc(jobs: list, folder: Path, column: bool = False) -> list[Results]:
    """LibreOffice Calc: one sheet a job and point would be slow, so cells are given."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    row = 1
    places = []
    for formulas, where in jobs:
        names = sorted({s.name for f in formulas for s in f.symbols})
        for point in where:
            cells = {}
            for offset, name in enumerate(names):
                cell = sheet.cell(row=row, column=2 + offset, value=point[name])
                cells[name] = f"${cell.column_letter}${cell.row}"
            at = f"AA{row}" if column else None
            text = source(formulas, "excel", cells=cells, at=at)
            lines = [x for x in text.splitlines() if not x.startswith("#")]
            for offset, line in enumerate(lines):
                place, _, formula = line.rpartition("\t")
                sheet[place or f"AA{row + offset}"] = formula
            places += [row + len(lines) - len(formulas) + i for i in range(len(formulas))]
            row += len(lines)
    book.save(folder / "all.xlsx")
    subprocess.run(
        ["soffice", f"-env:UserInstallation=file://{folder}/profile", "--headless",
         "--convert-to", "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,false",
         "--outdir", str(folder), str(folder / "all.xlsx")],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with (folder / "all.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return grouped(jobs, [float(rows[r - 1][26]) for r in places])


def run_formulas(jobs: list) -> list[Results]:
    """A spreadsheet's formulas computed in Python."""
    formulas_package = pytest.importorskip("formulas")
    found = []
    for formulas, where in jobs:
        text = source(formulas, "excel")
        lines = [x for x in text.splitlines() if not x.startswith("#")]
        compiled = [formulas_package.Parser().ast(x)[1].compile() for x in lines]
        said = re.findall(r"^#   (\w+)(?: \(the symbol (\w+)\))?: ", text, re.MULTILINE)
        names = {written.upper(): symbol or written for written, symbol in said}
        results = []
        for point in where:
            results.append([float(c(*(point[names[i]] for i in c.inputs))) for c in compiled])
        found.append(results)
    return found


def fits(formula: Formula) -> bool:
    """Whether a spreadsheet takes it in one cell, also where names of cells are longer."""
    try:
        return len(formula.code("excel")) < 7000
    except InputError:
        return False


def has(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def test_python_agrees():
    check((*HARD, *shipped()), run_python)


def test_numpy_agrees():
    check((*HARD, *shipped()), run_numpy)


@has("cc")
def test_c_agrees(tmp_path):
    check((*HARD, *shipped()), lambda jobs: run_c(jobs, tmp_path))


@has("node")
def test_javascript_agrees(tmp_path):
    check((*HARD, *shipped()), lambda jobs: run_javascript(jobs, tmp_path))


@has("julia")
def test_julia_agrees(tmp_path):
    check((*HARD, *shipped()), lambda jobs: run_julia(jobs, tmp_path))


def test_julia_parses():
    """Not an execution, but it finds what the compiler would refuse to read."""
    tree_sitter = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_julia")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    assert parser.parse(b"function f(x)\n    return x +\nend").root_node.has_error
    for formula in (*HARD, *shipped()):
        assert not parser.parse(formula.code("julia").encode()).root_node.has_error


@has("soffice")
def test_calc_agrees(tmp_path):
    short = tuple(f for f in shipped() if fits(f))
    assert len(short) > 30
    check((*HARD, *short), lambda jobs: run_calc(jobs, tmp_path), count=2)


@has("soffice")
def test_calc_agrees_with_values_in_cells_of_their_own(tmp_path):
    long = cg.compile("llama-2-7b", "a6000", "early-exit{distribution=geometric,p=0.1}").tpot
    assert not fits(long)
    check((*HARD, long), lambda jobs: run_calc(jobs, tmp_path, column=True), count=2)


def test_spreadsheet_formulas_agree():
    plain = [f for f in (*HARD, *shipped()) if fits(f) and "INDIRECT" not in f.code("excel")]
    simple = [f for f in plain if len(f.code("excel")) < 4000 and len(f.symbols) > 0]
    assert len(simple) > 20
    check(tuple(simple[:28]), run_formulas, count=2)


coefficients = st.builds(Rational, st.integers(0, 9), st.integers(1, 7))


@st.composite
def random_formulas(draw):
    atoms = st.sampled_from([Integer(1), B, T, B * T, Min(T, W), ceiling(T / 6), T**2, B / W])
    span = st.sampled_from([None, None, Span(T, S + 1, S + N - 1), Span(T, Min(S, W), W)])

    def arm():
        return sum((draw(coefficients) * draw(atoms) for _ in range(3)), Integer(0))

    terms = [
        Term(draw(st.sampled_from([Integer(3), N - 1, Rational(2, 7), -B])),
             arms(*(arm() for _ in range(draw(st.integers(1, 3))))), ("op",), draw(span))
        for _ in range(draw(st.integers(1, 4)))
    ]  # fmt: skip
    # Differences cancel; a constant keeps the comparison relative to the summands.
    return Formula("random", draw(st.sampled_from(["s", "byte"])), (*terms, one(Integer(10**9))))


@settings(max_examples=40)
@given(random_formulas())
def test_random_formulas_agree_in_python_and_numpy(formula):
    check((formula,), run_python, count=3)
    check((formula,), run_numpy, count=3)


@has("cc")
@has("node")
@settings(max_examples=3)
@given(st.lists(random_formulas(), min_size=8, max_size=8))
def test_random_formulas_agree_in_c_and_javascript(tmp_path_factory, formulas):
    folder = tmp_path_factory.mktemp("random")
    check(tuple(formulas), lambda jobs: run_c(jobs, folder), count=3)
    check(tuple(formulas), lambda jobs: run_javascript(jobs, folder), count=3)


@pytest.mark.parametrize("language", ["python", "numpy", "c", "javascript"])
def test_several_results_share_their_subexpressions(language, tmp_path):
    compiled = cg.compile("llama-2-7b", "a6000", "page-kv")
    many = (compiled.tpot, compiled.latency, compiled.memory, HARD[8])
    where = [
        {"B": 3, "N": 17, "S": 99, "T": 204, "W": 5},
        {"B": 1, "N": 1, "S": 1, "T": 1, "W": 1},
    ]
    run = {
        "python": run_python,
        "numpy": run_numpy,
        "c": lambda jobs: run_c(jobs, tmp_path),
        "javascript": lambda jobs: run_javascript(jobs, tmp_path),
    }[language]
    (found,) = run([(many, where)])
    for point, results in zip(where, found, strict=True):
        for formula, got in zip(many, results, strict=True):
            wanted = formula.evaluate(**{s.name: point[s.name] for s in formula.symbols})
            assert math.isclose(got, float(wanted), rel_tol=1e-12)
    apart = sum(len(f.code(language).split("*")) for f in many[:2])
    assert len(source(many[:2], language).split("*")) < apart


def test_amounts_are_exact_in_python():
    compiled = cg.compile("llama-3-70b", "h100")
    for metric in ("flops", "bytes", "memory"):
        formula = getattr(compiled, metric)
        scope: dict = {}
        exec(formula.code("python", name="func"), scope)
        # Beyond 2**53, where doubles have gaps.
        for point in ({"B": 977, "N": 10**6 + 3, "S": 10**9 + 7}, {"B": 1, "N": 1, "S": 1}):
            got = scope["func"](**point)
            assert isinstance(got, int)
            assert got == formula.evaluate(**point)
    scope = {}
    third = made("third", one(T / 3 + B, T / 2), unit="byte")
    exec(third.code("python"), scope)
    assert scope["third"](B=1, T=4) == 7 / 3
    assert scope["third"](B=1, T=6) == 3
    assert isinstance(scope["third"](B=1, T=6), int)


def test_a_sum_in_closed_form_does_not_depend_on_its_length():
    formula = made("lines", one(B * T / 3 + 2, W * T / 5 + B, span=Span(T, S + 1, S + N - 1)))
    for language in ("python", "numpy"):
        scope: dict = {}
        exec(formula.code(language), scope)
        got = scope["lines"](3, 10**15, 5, 7)  # a loop would never end
        assert math.isclose(float(got), 7 / 5 * (10**15 + 4) * (10**15 + 5) / 2, rel_tol=1e-9)


def test_helpers_are_written_only_where_needed():
    plain = made("plain", one(B + T, 3 * T))
    lines = HARD[8]
    for language in ("python", "numpy", "c", "javascript", "julia"):
        word = "sumMax" if language == "javascript" else "sum_max"
        assert word not in plain.code(language)
        assert lines.code(language).count(word) >= 2
    assert "import math" not in plain.code("python")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_header_says_what_it_is_and_cannot_be_escaped(language):
    text = '*/ x\n"""\n=# evil(); // --> </script>\u2028\u202e'
    formula = made(
        "tpot - tpot",
        one(B * width),
        setting=Setting(text, assumptions=(text,), notes=(text,)),
        limits=(Limit(B, Integer(9), text),),
    )
    printed = formula.code(language)
    mark = {"c": "//", "javascript": "//"}.get(language, "#")
    comment, code = [], []
    for line in printed.splitlines():
        (comment if line.startswith(mark) else code).append(line)
    joined = "\n".join(comment)
    assert "[s]" in joined
    assert "batch: sequences" in joined
    assert "feed-forward width" in joined
    assert "B <= 9" in joined
    assert "evil" in joined
    assert not any("evil" in line for line in code)
    assert not any(c in printed for c in ("*/ x", "</script", "\u2028", "\u202e"))
    if language not in ("excel",):
        assert "tpot_tpot(" in printed
    if language == "c":
        assert "I_ (the symbol I)" in joined


def test_names_of_the_languages_are_avoided(tmp_path):
    words = ("np", "math", "whole", "max", "int", "sum", "abs", "v1", "t1", "print")
    formula = made("return_", one(sum((i + 1) * symbol(w) for i, w in enumerate(words)), 3 * B))
    point = {s.name: 3 + i for i, s in enumerate(formula.symbols)}
    wanted = formula.evaluate(**point)
    jobs = [((formula,), [point])]
    assert run_python(jobs)[0][0][0] == wanted
    assert run_numpy(jobs)[0][0][0] == wanted
    assert "def max_(" in source(formula, "python", name="max")


def test_bad_requests():
    formula = cg.compile("gpt2", "v100").tpot
    with pytest.raises(InputError, match="did you mean 'javascript'"):
        source(formula, "javascrip")
    with pytest.raises(InputError, match="no formula"):
        source([], "c")
    with pytest.raises(InputError, match="not a function name"):
        source(formula, "c", name="f(); evil")
    with pytest.raises(InputError, match="excel only"):
        source(formula, "c", at="D1")
    with pytest.raises(InputError, match="not a cell"):
        source(formula, "excel", cells={"B": "B2+1"})
    with pytest.raises(InputError, match="no symbol"):
        source(formula, "excel", cells={"Q": "B2"})
    with pytest.raises(InputError, match="not a cell"):
        source(formula, "excel", at="evil")
    long = cg.compile("llama-2-7b", "a6000", "early-exit{distribution=geometric,p=0.1}").tpot
    with pytest.raises(InputError, match="more than the 8192"):
        source(long, "excel")


def test_the_command_prints_code(capsys):
    assert main(["formula", "llama-2-7b", "--on", "a6000", "--format", "python"]) == 0
    scope: dict = {}
    exec(capsys.readouterr().out, scope)
    wanted = cg.compile("llama-2-7b", "a6000").tpot.evaluate(B=2, T=300)
    assert math.isclose(scope["tpot"](2, 300), wanted, rel_tol=1e-12)
    for language in LANGUAGES:
        assert main(["formula", "gpt2", "--on", "v100", "--format", language]) == 0
        assert "tpot" in capsys.readouterr().out


def test_evaluation_rounds_quotients_exactly():
    for divisor in range(1, 60):
        up, down = made("up", one(ceiling(T / divisor))), made("down", one(floor(T / divisor)))
        for value in range(1, 8):
            exact = Fraction(value * divisor, divisor)
            assert up.evaluate(T=value * divisor) == exact == down.evaluate(T=value * divisor)
