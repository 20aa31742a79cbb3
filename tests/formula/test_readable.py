"""Formulas in named constants: the same formula, its legend exact, its prints well formed."""

from __future__ import annotations

from html import escape
from xml.etree import ElementTree

import pytest
from sympy import Add, Integer, Max, expand

import costgraph as cg
from costgraph.errors import InputError
from costgraph.formula.naming import named
from costgraph.setting import Setting
from costgraph.showing.export.escaping import text_latex
from costgraph.showing.export.layout import of_expr, to_latex, to_mathml, to_text
from costgraph.symbols import B, T, symbol

CASES = [
    ("llama-2-7b", "a6000", ""),
    ("llama-3-70b", "h100", "fuse,quantize{preset=w4a16}"),
    ("gpt2", "v100", "fuse"),
    ("llama-2-7b", "h100", "page-kv{block=16}"),
    ("llama-2-7b", "h100", "speculative{draft=heads,gamma=2}"),
]
METRICS = ("tpot", "ttft", "latency", "throughput", "flops", "bytes", "memory")


@pytest.fixture(scope="module", params=CASES, ids=[" ".join(c) for c in CASES])
def compiled(request):
    return cg.compile(*request.param)


def rebuilt(found) -> dict:
    """The named lines with every constant and rate put back."""
    values = {c.symbol: c.value for c in found.constants} | dict(found.rates)
    return [
        (
            line,
            [
                (a.amount if a.rate is None else a.amount / a.rate).xreplace(values)
                for a in line.arms
            ],
        )
        for line in found.lines
    ]


@pytest.mark.parametrize("metric", METRICS)
def test_constants_put_back_give_the_formula(compiled, metric):
    formula = getattr(compiled, metric)
    found = compiled.readable(metric)
    at = {s: Integer(7 + i) for i, s in enumerate(formula.symbols)}
    at |= {T: Integer(11)}
    for s in formula.symbols:
        if s.name == "N":
            at[s] = Integer(1)  # spans are empty: what is left has no sums
    total = sum(
        line.count.xreplace(at) * Max(*(a.xreplace(at) for a in arms))
        for line, arms in rebuilt(found)
        if line.span is None
    )
    value = total if formula.numerator is None else formula.numerator.xreplace(at) / total
    given = {s.name: at[s] for s in formula.symbols}
    assert float(value) == pytest.approx(float(formula.evaluate(**given)), rel=1e-12)


@pytest.mark.parametrize("metric", ["tpot", "ttft", "latency"])
def test_derivations_from_the_dimensions_are_exact_and_present(compiled, metric):
    found = compiled.readable(metric, "summary")
    dims = dict(found.dims)
    derived = [c for c in found.constants if c.derivation is not None]
    for c in derived:
        assert expand(c.derivation.xreplace(dims) - c.value) == 0
    assert len(derived) >= 0.6 * len(found.constants)
    if not compiled.passes:
        assert len(derived) == len(found.constants)


@pytest.mark.parametrize("metric", ["tpot", "ttft", "latency"])
def test_a_summary_bounds_the_formula_from_both_sides(compiled, metric):
    formula = getattr(compiled, metric)
    found = compiled.readable(metric, "summary")
    for batch in (1, 30, 500):
        at = {
            s: Integer({"B": batch, "S": 200, "N": 50, "T": 321}[s.name]) for s in formula.symbols
        }
        parts = [float(arms[0].xreplace(at)) for _, arms in rebuilt(found)]
        value = formula.evaluate(**{s.name: int(v) for s, v in at.items()})
        assert max(parts) * (1 - 1e-12) <= value <= sum(parts) * (1 + 1e-12)


def test_the_whole_decode_step_on_one_line():
    text = cg.compile("llama-2-7b", "a6000").readable("tpot", "summary").text()
    assert "max(t1, t2) <= tpot(B, T) <= t1 + t2" in text
    assert "(W + A·B + K·B·T)/BW" in text
    assert "exactly the memory line for 1 <= B < 213.465" in text
    assert "K = 532480 byte per B·T = L·(8·H + 4·Hk·dh)" in text


def test_without_a_twin_there_are_values_but_no_derivations():
    found = named(cg.compile("gpt2", "a6000").tpot)
    assert found.constants
    assert all(c.derivation is None for c in found.constants)
    with pytest.raises(InputError, match="summary"):
        named(cg.compile("gpt2", "a6000").tpot, "sumary")
    with pytest.raises(InputError, match="rate"):
        named(cg.compile("gpt2", "a6000").throughput, "summary")


@pytest.mark.parametrize("metric", METRICS)
def test_mathml_is_well_formed(compiled, metric):
    html = compiled.readable(metric).mathml()
    tree = ElementTree.fromstring(html)
    spaces = {"m": "http://www.w3.org/1998/Math/MathML"}
    assert tree.findall(".//m:mtable", spaces)


def test_hostile_text_is_escaped():
    from dataclasses import replace

    formula = cg.compile("gpt2", "a6000").tpot
    setting = Setting("m", assumptions=("</ul><b>%$#_&{}\\",))
    evil = replace(formula, name="<script>alert(1)</script>", setting=setting)
    found = named(evil)
    assert "<script" not in found.mathml()
    ElementTree.fromstring(found.mathml())
    assert r"\%\$\#\_\&\{\}\textbackslash{}" in found.latex(document=True)


def test_layout_prints_in_three_ways():
    page = symbol("page")
    expr = 2 * B * T**2 - (B + 1) / symbol("BW") + (1 - symbol("p")) ** B
    assert to_text(of_expr(expr)) == "(1 - p)^B + 2·B·T² - (1 + B)/BW"
    assert to_latex(of_expr(B / symbol("Hk"))) == r"\frac{B}{H_{k}}"
    from sympy import ceiling

    assert to_text(of_expr(3 * ceiling(T / page))) == "3·ceil(T/page)"
    for node in (of_expr(expr), of_expr(Max(B, T)), of_expr(Add(B, -T))):
        ElementTree.fromstring(to_mathml(node))


def test_norms_print_as_norms_and_stay_exact():
    compiled = cg.compile("llama-3-8b", "h100", "fuse", fidelity="calibrated")
    found = compiled.readable("tpot", "summary")
    assert found.detail == "ops"  # a norm is not between the arms' maximum and their sum
    assert "‖" in found.text()
    assert r"\Vert" in found.latex()
    ElementTree.fromstring(found.mathml())
    at = {B: 8, T: 1000}
    total = 0.0
    for line, arms in rebuilt(found):
        values = [float(a.xreplace(at)) for a in arms]
        if line.norm is None:  # of several arms the largest
            total += float(line.count) * max(values)
            continue
        p = float(line.norm)
        total += float(line.count) * sum(v**p for v in values) ** (1 / p)
    assert total == pytest.approx(compiled.tpot.evaluate(B=8, T=1000), rel=1e-12)
    assert compiled.tpot.local(B=8, T=1000).value == pytest.approx(total, rel=1e-12)
    code: dict = {}
    exec(compiled.tpot.code("python"), code)
    assert code["tpot"](8, 1000) == pytest.approx(total, rel=1e-12)
    array = compiled.latency.evaluate(B=[8, 9], S=500, N=[40, 41])
    scalars = [compiled.latency.evaluate(B=b, S=500, N=n) for b, n in ((8, 40), (9, 41))]
    assert array == pytest.approx(scalars, rel=1e-9)


@pytest.mark.parametrize(
    ("model", "metric"),
    [
        ("llama-3-8b", "tpot"), ("llama-3-8b", "memory"), ("mixtral-8x7b", "tpot"),
        ("deepseek-v2-lite", "ttft"), ("whisper-tiny", "tpot"), ("dit-xl-2", "latency"),
        ("mamba-2.8b", "tpot"), ("bert-base", "latency"),
    ],
)  # fmt: skip
def test_constants_are_derived_or_it_is_said_why_not(model, metric):
    found = cg.compile(model, "h100").readable(metric, "summary")
    derived = any(c.derivation is not None for c in found.constants)
    assert found.constants
    for text in (found.text(), found.latex(document=True), found.mathml()):
        said = "not derived from the model" in " ".join(text.split())
        assert said == (not derived)


@pytest.mark.parametrize(
    ("model", "passes", "names"),
    [
        ("deepseek-v2-lite", "fuse", {"E", "Is", "Rk", "Ld", "Lx"}),
        ("t5-base", "fuse", {"L", "Le"}),
        ("whisper-large-v3", "", {"L", "Le"}),
    ],
)
def test_experts_latents_and_encoders_are_derived_too(model, passes, names):
    compiled = cg.compile(model, "h200", passes)
    seen = set()
    for metric in ("tpot", "ttft"):
        found = compiled.readable(metric, "summary")
        dims = dict(found.dims)
        seen |= {s.name for s in dims}
        assert found.constants
        for c in found.constants:
            assert c.derivation is not None, (metric, c)
            assert expand(c.derivation.xreplace(dims) - c.value) == 0
            # No size of the model is left as a number: what stays is of formats and counts.
            assert max((abs(n.p) for n in c.derivation.atoms(Integer)), default=0) < 2000
        assert "not derived" not in found.text()
    assert names <= seen


def test_where_nothing_is_derived_one_line_says_why():
    assert "no names are given to those of" in cg.compile("gpt-oss-20b", "h200").readable().text()
    spoken = cg.compile("mixtral-8x7b", "h200", "speculative{draft=heads,gamma=2,alpha=E}")
    assert "give the symbol another name" in spoken.readable().text()
    rounded = cg.compile("deepseek-v3", "h200").readable("tpot", "summary").text()
    assert "W is not derived from the model's dimensions: in symbols" in rounded


@pytest.mark.parametrize(
    ("model", "passes", "metric"),
    [
        ("gpt2", "", "tpot"),  # positions
        ("llama-2-7b", "speculative{draft=skip}", "tpot"),  # assumptions of a pass
    ],
)
def test_every_notation_says_where_a_formula_is_valid(model, passes, metric):
    formula = getattr(cg.compile(model, "h100", passes), metric)
    limits = [limit.text for limit in formula.limits]
    assert formula.setting.assumptions if "draft" in passes else limits
    assert all(text in str(formula) for text in limits)
    for found in (named(formula, "summary"), named(formula, "ops")):
        told = [*found.notes, *formula.setting.assumptions, *limits]
        page = found.latex(document=True)
        for sentence in told:
            assert sentence in str(found)
            assert escape(sentence) in found.mathml()
            assert text_latex(sentence.replace("<=", "≤")) in page
