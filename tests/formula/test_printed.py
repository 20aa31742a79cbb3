"""Whole formulas as they are printed: they read back, and their pages hold them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from xml.etree import ElementTree

import pytest

import costgraph as cg
from costgraph.models import entries
from costgraph.showing.export.plain import formula_object
from costgraph.showing.export.regimes import form_text
from costgraph.showing.export.text import expr_text
from tests.properties.readers import norm, read_element, read_latex, read_text

#: A spread of what formulas contain: maxima, powers of fractions, sums over contexts,
#: clipped lengths, ceilings, norms, expectations.
CASES = {
    "dense": ("llama-3-8b", "h100", "fuse,quantize{preset=w4a16}", "ideal"),
    "mixture": ("mixtral-8x7b", "h100", "fuse", "ideal"),
    "latent": ("deepseek-v3", "h200", "", "ideal"),
    "windows": ("mistral-7b", "h100", "", "ideal"),
    "paged": ("gpt2", "a6000", "page-kv{block=16}", "ideal"),
    "speculative": ("opt-13b", "a6000", "fuse,speculative{draft=opt-125m}", "ideal"),
    "exits": ("llama-3-8b", "h100", "early-exit", "ideal"),
    "hybrid": ("qwen3.5-27b", "h100", "", "ideal"),
    "encoder-decoder": ("t5-small", "h100", "", "ideal"),
    "diffusion": ("dit-xl-2", "h100", "", "ideal"),
    "calibrated": ("mixtral-8x7b", "h100", "fuse", "calibrated"),
    # Sums whose terms nearly cancel; a fraction behind a factor that begins with a number.
    "cancelling": ("phi-3.5-moe", "h100", "fuse,page-kv", "ideal"),
    "denoising": ("dream-7b", "h100", "fuse", "ideal"),
}
#: Pipelines for the sample of shipped models, in turn.
PIPELINES = ("fuse", "", "fuse,quantize{preset=w4a16}", "fuse,window", "fuse,early-exit")
SAMPLE = [
    (name, PIPELINES[i % len(PIPELINES)]) for i, name in enumerate(sorted(entries())[3::17])
]  # fmt: skip
METRICS = ("ttft", "tpot", "latency", "throughput", "memory", "bytes")
AT = {"B": 3, "S": 48, "N": 5, "T": 51, "K": 4, "G": 16}


@cache
def compiled(case: str) -> cg.Compiled:
    model, device, passes, fidelity = CASES[case]
    return cg.compile(model, device, passes, fidelity=fidelity)


def formulas(case: str) -> dict[str, cg.Formula]:
    found = {}
    for metric in METRICS:
        try:
            found[metric] = getattr(compiled(case), metric)
        except cg.CostgraphError:
            continue  # what generates no tokens has no time per token
    return found


def at(formula: cg.Formula) -> dict[str, int]:
    return {s.name: AT[s.name] for s in formula.symbols}


def body(text: str) -> str:
    """What a printed formula says right of the equals sign, in one line."""
    lines = text.split("\nwhere")[0].split("\nassuming")[0].splitlines()
    shown = " ".join(line for line in lines if "←" not in line)
    return shown.split("] =", 1)[1].strip()


def right_sides(latex: str) -> list[tuple[str, str]]:
    """(left, right) of the equations of a block, lines that continue one added to it."""
    inner = re.sub(r"\\(begin|end)\{(aligned|align\*)\}", "", latex)
    found: list[tuple[str, str]] = []
    for row in inner.split(r"\\"):
        if r"\parbox" in row:  # where a line is from
            continue
        sides = re.match(r"\s*([^&]*) (?:=|\\le)\{\}& (.*)", row, re.DOTALL)
        if sides:
            found.append((sides[1].strip(), sides[2]))
        else:
            left, right = found.pop()
            found.append((left, right + " " + row.replace("&", "").replace(r"\qquad", "")))
    return found


def latex_value(latex: str, env: dict[str, float]) -> float:
    """The value of the first equation; others define what it uses."""
    pairs = right_sides(latex)
    known = dict(env)
    for left, right in reversed(pairs):
        value = read_latex(right)(known)
        known[left] = value
    return value


def mathml_value(html: str, env: dict[str, float]) -> float:
    tree = ElementTree.fromstring(html)
    space = "{http://www.w3.org/1998/Math/MathML}"
    (table,) = tree.findall(f".//{space}mtable")
    rows = [list(r) for r in table]
    known, total, name = dict(env), 0.0, ""
    for left, sign, right, _ in reversed(rows):
        total += read_element(right)(known)
        if "".join(sign.itertext()) == "=":
            name = "".join(left.itertext())
            known[name], value, total = total, total, 0.0
    return value


def named_env(named, formula: cg.Formula) -> dict[str, float]:
    env = {k: float(v) for k, v in at(formula).items()}
    env |= {c.symbol.name: float(c.value) for c in named.constants}
    return env | {s.name: float(v) for s, v in named.rates.items()}


@pytest.mark.parametrize("case", CASES)
def test_formulas_read_back_in_every_notation(case):
    for metric, formula in formulas(case).items():
        env = {k: float(v) for k, v in at(formula).items()}
        expected = float(formula.evaluate(**at(formula)))
        # Coefficients have four digits; sums over generations cancel a little more.
        near = pytest.approx(expected, rel=4e-3)
        assert read_text(body(formula.text()))(env) == near, metric
        assert latex_value(formula.latex(), env) == near, metric
        named = compiled(case).readable(metric)
        exact = pytest.approx(expected, rel=1e-9 if named.lines else 1e-3)
        env = named_env(named, formula)
        # Numbers that named formulas keep: exponents of norms, expected counts of steps.
        rounded = case in ("calibrated", "speculative", "exits")
        close = pytest.approx(expected, rel=2e-3) if rounded else exact
        assert read_text(body(named.text()))(env) == close, metric
        assert latex_value(named.latex(), env) == close, metric
        assert mathml_value(named.mathml(), env) == close, metric
        page = named.latex(document=True)
        shown = page[page.index(r"\begin{align*}") : page.index(r"\end{align*}")]
        assert shown.count(r"\parbox") == shown.count("&{}+") + shown.count("={}&") - (
            formula.numerator is not None
        )
        assert latex_value(shown, env) == close, metric


@pytest.mark.parametrize(("model", "passes"), SAMPLE)
def test_a_sample_of_shipped_models_reads_back(model, passes):
    made = cg.compile(model, "h100", passes)
    for metric in ("tpot", "latency", "energy"):
        if metric not in made.metrics:
            continue
        formula, named = getattr(made, metric), made.readable(metric)
        expected = float(formula.evaluate(**at(formula)))
        near = pytest.approx(expected, rel=4e-3)
        env = {k: float(v) for k, v in at(formula).items()}
        assert read_text(body(formula.text()))(env) == near, metric
        assert latex_value(formula.latex(), env) == near, metric
        env = named_env(named, formula)
        assert latex_value(named.latex(), env) == near, metric
        assert mathml_value(named.mathml(), env) == near, metric


@pytest.mark.parametrize("case", ["mixture", "latent", "speculative"])
def test_summaries_read_back(case):
    formula = compiled(case).tpot
    named = compiled(case).readable("tpot", "summary")
    env = named_env(named, formula)
    lines = [x for x in named.text().splitlines() if re.match(r"    t\d+ = ", x)]
    pairs = dict(right_sides(named.latex())[1:])
    for index, (shown, line) in enumerate(zip(lines, named.lines, strict=True), 1):
        (arm,) = line.arms
        values = {s: env[s.name] for s in arm.amount.free_symbols}
        expected = float(arm.amount.xreplace(values)) / env[arm.rate.name]
        assert read_text(shown.split(" = ", 1)[1])(env) == pytest.approx(expected, rel=1e-9)
        assert read_latex(pairs[f"t_{{{index}}}"])(env) == pytest.approx(expected, rel=1e-9)
    for constant in named.constants:  # what a legend derives, in the dimensions' letters
        if constant.derivation is not None:
            dims = {s.name: float(v) for s, v in named.dims.items()}
            shown = read_text(expr_text(constant.derivation))(dims)
            assert shown == pytest.approx(float(constant.value), rel=2e-3)


@pytest.mark.parametrize("case", ["dense", "mixture", "calibrated"])
def test_closed_forms_of_regimes_read_back(case):
    for piece in compiled(case).tpot.regimes("B", T=51):
        place = float(piece.lower) + 1.0
        expected = float(piece.expr.xreplace(dict.fromkeys(piece.expr.free_symbols, place)))
        assert read_text(form_text(piece.expr))({"B": place}) == pytest.approx(expected, rel=4e-3)


@pytest.mark.parametrize("case", ["dense", "mixture", "paged"])
def test_expressions_of_json_read_back(case):
    formula = compiled(case).tpot
    found = json.loads(json.dumps(formula_object(formula)))
    env = {k: float(v) for k, v in at(formula).items()}
    total = 0.0
    for term in found["terms"]:
        arms = [read_text(a["expr"])(env) for a in term["arms"]]
        size = max(arms) if term["norm"] is None else norm(arms, term["norm"])
        total += read_text(term["count"])(env) * size
    assert total == pytest.approx(formula.evaluate(**at(formula)), rel=1e-9)
    assert read_text(found["expr"])(env) == pytest.approx(total, rel=1e-9)


def overfull(folder, name: str, text: str) -> list[float]:
    """Compiles a document; by how many points its boxes stand over."""
    (folder / f"{name}.tex").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"],
        cwd=folder, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:].decode(errors="replace")
    log = (folder / f"{name}.log").read_text(errors="replace")
    return [float(x) for x in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt", log)]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs a LaTeX installation")
@pytest.mark.parametrize("case", [c for c in CASES if c != "diffusion"])
def test_documents_compile_and_fit_their_page(tmp_path, case):
    for metric in ("throughput", "latency", "memory"):
        page = compiled(case).readable(metric).latex(document=True)
        assert overfull(tmp_path, metric, page) == [], metric
    if case == "dense":  # the formula without its page, in a plain document
        text = "\\documentclass{article}\\usepackage{amsmath}\\begin{document}$"
        text += compiled(case).throughput.latex() + "$\\end{document}"
        overfull(tmp_path, "plain", text)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs a LaTeX installation")
def test_a_formula_of_many_symbols_fits_its_page(tmp_path):
    found = cg.compile("deepseek-v3", "h100", symbolic_model=True)
    assert len(found.latency.symbols) > 15
    for metric in ("throughput", "latency"):
        page = found.readable(metric).latex(document=True)
        assert overfull(tmp_path, metric, page) == [], metric


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs poppler")
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs a LaTeX installation")
def test_long_formulas_begin_on_the_first_page_and_end_on_another(tmp_path):
    named = compiled("latent").readable("latency")
    assert overfull(tmp_path, "long", named.latex(document=True)) == []
    subprocess.run(["pdftotext", "-layout", "long.pdf"], cwd=tmp_path, check=True, timeout=60)
    pages = (tmp_path / "long.txt").read_text(encoding="utf-8").split("\f")
    assert len(pages) > 2
    assert "latency" in pages[0]
    # No maximum is lost where a page turns.
    shown = sum(len(re.findall(r"\bmax\b", page)) for page in pages)
    assert shown == named.latex(document=True).count(r"\max")


# --- answers ------------------------------------------------------------------------

QUANTITY = re.compile(r"(-?[\d.]+(?:e[-+]?\d+)?) ?(n|µ|m|k|M|G|T|P)?(s|B|FLOP)?\b")
SCALES = dict(zip("nµmkMGTP", (1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9, 1e12, 1e15), strict=True))
ENDS = re.compile(r"(?:([\d.e+]+) <= )?(\w+)(?: < ([\d.e+]+))?$")


def quantity(text: str) -> float:
    """A number with a prefix, as it is printed."""
    number, prefix, _ = QUANTITY.match(text).groups()
    return float(number) * SCALES.get(prefix, 1.0)


@pytest.mark.parametrize("case", ["mixture", "speculative", "calibrated"])
def test_what_explain_prints_reads_back(case):
    tpot = compiled(case).tpot
    point = {"B": 3, "T": 51}
    text = str(compiled(case).explain("tpot", **point))
    value = tpot.evaluate(**point)
    assert quantity(re.search(r"^tpot: (.+)$", text, re.M)[1]) == pytest.approx(value, rel=1e-3)
    bounds = text.split("bound by\n")[1].split("made of\n")
    for part in (bounds[0], bounds[1].split("\none per cent")[0].split("\nfit")[0]):
        shares = [float(x) for x in re.findall(r"^ +([\d.]+)%  ", part, re.M)]
        assert shares
        assert sum(shares) <= 100 + 0.05 * len(shares)
    assert sum(map(float, re.findall(r"^ +([\d.]+)%  ", bounds[0], re.M))) > 98
    for name, change in re.findall(r"^    (\w+) +changes it by ([-+][\d.]+)%$", text, re.M):
        if name in point:
            more = tpot.evaluate(**{**point, name: point[name] * 1.0001})
            assert 1e4 * (more / value - 1) == pytest.approx(float(change), abs=0.01), name
    # In a norm of fitted times the largest one changes, and the formula does not.
    turns = re.findall(r"^    ([BT]) (?:up|down) to ([\d.e+]+) ", text, re.M)
    for name, then in turns if CASES[case][3] == "ideal" else ():
        there = {**point, name: float(then)}
        one, two = ({**there, name: there[name] * x} for x in (0.999, 1.001))
        # Another resource bounds some operation on the other side.
        before, after = tpot.local(**one).parts, tpot.local(**two).parts
        assert {(p.resource, p.expr) for p in before} != {(p.resource, p.expr) for p in after}


@pytest.mark.parametrize("over", ["B", "T"])
def test_what_solve_and_wins_print_reads_back(over):
    tpot = compiled("mixture").tpot
    point = {"B": 4, "T": 4000}
    rest = {name: value for name, value in point.items() if name != over}
    budget = tpot.evaluate(**point)
    shown = str(tpot.solve_for(over, budget, **rest))
    ends = [float(x) for x in re.findall(rf"{over} (?:<=|<|≤) ([\d.e+]+)", shown)]
    assert ends, shown
    assert tpot.evaluate(**rest, **{over: ends[-1]}) == pytest.approx(budget, rel=1e-4)

    other = cg.compile("mixtral-8x7b", "h200", "fuse").tpot
    mine = cg.compile("mixtral-8x7b", "h100", "fuse,quantize{weights=int4}").tpot
    intervals = cg.wins(other, mine, over, **rest)
    for interval in intervals:
        lower, upper = re.search(
            rf"^([\d.e+]+) <= {over}(?: < ([\d.e+]+))?", interval.text
        ).groups()
        inside = float(lower) + 1 if upper is None else (float(lower) + float(upper)) / 2
        given = {**rest, over: inside}
        assert mine.evaluate(**given) < other.evaluate(**given), interval.text
        if upper is not None:
            for x, better in ((0.999, True), (1.001, False)):
                given = {**rest, over: float(upper) * x}
                assert (mine.evaluate(**given) < other.evaluate(**given)) == better, interval.text
