"""Every operation of a formula, on nested formulas: right by brute force, or one line why not.

The operations are found by looking at the class: a new one has to be entered here.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from functools import cache, cached_property

import pytest
from sympy import Expr, Integer, Rational, Symbol, oo

import costgraph as cg
from costgraph.errors import CostgraphError, InputError
from costgraph.formula import Formula, Span
from costgraph.formula.evaluate import compile_terms
from costgraph.formula.naming import named
from costgraph.formula.outline import outlined
from costgraph.formula.terms import Arm, Term, chained, merged, remade
from costgraph.formula.wins import wins
from costgraph.showing.export.plain import formula_object
from costgraph.symbols import LEGEND, B, N, S, T
from tests.properties.readers import read_latex, read_text

#: Replicas and groups need a sequence each: eight at least.
AT = {B: 11, S: 7, N: 6, T: 11}
#: What a refusal says to ask instead.
INSTEAD = re.compile(r"\b(use|ask|take|instead|bind|combine|map|give)\b")


def one(expr: Expr, resource: str = "memory", count: Expr = Integer(1), op: str = "x") -> Term:
    return Term(count, (Arm(expr, resource),), (op,))


def two(
    a: Expr, b: Expr, count: Expr = Integer(1), op: str = "y", norm: Expr | None = None
) -> Term:
    return Term(count, (Arm(a, "memory"), Arm(b, "tensor:bf16")), (op,), norm=norm)


def both(*bodies: tuple[Term, ...], count: Expr = Integer(1), span: Span | None = None) -> Term:
    arms = tuple(chained(terms, f"body {i}") for i, terms in enumerate(bodies, 1))
    return Term(count, arms, tuple(op for t in bodies for x in t for op in x.ops), span)


def made(*terms: Term, unit: str = "s", numerator: Expr | None = None) -> Formula:
    rates = {"memory": Integer(3), "tensor:bf16": Integer(7)}
    return Formula("f", unit, merged(remade(t) for t in terms), numerator, (), rates)


#: Not one arm of these always exceeds the others.
PAIR = ((two(B, 10 + T), one(T, op="z")), (one(3 * B + 2, "link:net"), two(4 * B, 30 + B, op="w")))
TREES: dict[str, Callable[[], Formula]] = {
    "short": lambda: made(both((one(B), one(20 + T, "link:net")), (one(3 * B, "tensor:bf16"),))),
    "long": lambda: made(both(*PAIR, count=Integer(3)), one(2 * B + 1, op="v")),
    "deep": lambda: made(both((both(*PAIR), one(B)), (one(9 * B + T, "link:net"), two(T, 40 * B)))),
    "rate": lambda: made(both(*PAIR), unit="token/s", numerator=B * N),
    "sum": lambda: made(both(*PAIR, span=Span(T, S + 1, S + N - 1))),
    "smooth": lambda: made(
        both((two(B, 10 + T, norm=Rational(9, 5)), one(B)), (one(4 * B + 7, "link:net"),))
    ),
}
MODELS = {
    "tp": ("llama-3-8b", "8xh100", "fuse,parallel{tp=8}"),
    "pp": ("llama-3-8b", "8xh100", "fuse,parallel{tp=2,pp=4,micro=4}"),
    "kernels": ("llama-3-8b", "8xh100", "fuse,parallel{tp=8},overlap"),
    "halves": ("llama-3-8b", "8xh100", "fuse,parallel{tp=8},overlap{by=halves}"),
    "busiest": ("mixtral-8x7b", "8xh100", "fuse,parallel{ep=8,load=busiest}"),
}
NAMES = (*TREES, *(f"{m} {metric}" for m in MODELS for metric in ("tpot", "ttft", "latency")))


@cache
def compiled(case: str) -> cg.Compiled:
    return cg.compile(*MODELS[case])


@cache
def formula(name: str) -> Formula:
    if name in TREES:
        return TREES[name]()
    case, metric = name.split()
    found: Formula = getattr(compiled(case), metric)
    return found


# --- brute force -----------------------------------------------------------------------


def number(expr: Expr, at: dict[Symbol, object]) -> float:
    return float(expr.xreplace({s: Rational(v) for s, v in at.items()}).evalf(30))


def value_of_term(term: Term, at: dict[Symbol, object]) -> float:
    if term.span is not None:
        lower, upper = (int(number(e, at)) for e in (term.span.lower, term.span.upper))
        plain = Term(term.count, term.arms, term.ops, norm=term.norm)
        return math.fsum(
            value_of_term(plain, {**at, term.span.symbol: t}) for t in range(lower, upper + 1)
        )
    sizes = [
        math.fsum(value_of_term(t, at) for t in arm.chain) if arm.chain else number(arm.expr, at)
        for arm in term.arms
    ]
    count = number(term.count, at)
    if term.norm is not None and len(sizes) > 1:
        p = float(term.norm)
        return float(count * math.fsum(x**p for x in sizes) ** (1 / p))
    return count * max(sizes)


def brute(f: Formula, **other: object) -> float:
    by_name = {s.name: s for s in AT}
    at: dict[Symbol, object] = {**AT, **{by_name[k]: v for k, v in other.items()}}
    total = math.fsum(value_of_term(t, at) for t in f.terms)
    return total if f.numerator is None else number(f.numerator, at) / total


def point(f: Formula) -> dict[str, int]:
    return {s.name: AT[s] for s in f.symbols}


def near(a: object, b: float) -> bool:
    return float(a) == pytest.approx(b, rel=1e-8)  # type: ignore[arg-type]


def rest(f: Formula, *free: str) -> dict[str, int]:
    return {k: v for k, v in point(f).items() if k not in free}


# --- one check per operation -----------------------------------------------------------


def check_expr(f: Formula) -> None:
    plain = f.expr.xreplace({s: Integer(v) for s, v in AT.items() if s in f.symbols})
    assert near(plain.doit().evalf(20), brute(f))


def check_symbols(f: Formula) -> None:
    assert set(f.symbols) <= set(AT)
    assert list(f.symbols) == sorted(f.symbols, key=lambda s: s.name)


def check_assumptions(f: Formula) -> None:
    assert all("\n" not in a for a in f.assumptions)


def check_evaluate(f: Formula) -> None:
    given = point(f)
    assert near(f.evaluate(**given), brute(f))
    assert near(f(**given), brute(f))
    many = f.evaluate(**{**given, "B": [8, 12, 64]})
    assert [near(v, brute(f, B=b)) for v, b in zip(many, (8, 12, 64), strict=True)] == [True] * 3


def check_computed(f: Formula) -> None:
    given = point(f)
    _, symbols, *_ = f.computed
    assert near(compile_terms(*f.computed)(*(given[s.name] for s in symbols)), brute(f))


def check_bind(f: Formula) -> None:
    bound = f.bind(B=9)
    assert "B" not in {s.name for s in bound.symbols}
    assert near(bound.evaluate(**point(bound)), brute(f, B=9))


def check_given(f: Formula) -> None:
    assert near(f.given({B: Integer(9)}).evaluate(**rest(f, "B")), brute(f, B=9))


def check_substitute(f: Formula) -> None:
    swapped = f.substitute({B: 2 * B + 1})
    assert near(swapped.evaluate(**{**point(f), "B": 4}), brute(f, B=9))


def check_regimes(f: Formula) -> None:
    found = f.regimes("B", **rest(f, "B"))
    for b in (8, 9, 12, 300, 5000):
        expr = found.at(Integer(b)).expr.xreplace({B: Integer(b)})
        assert near(expr.evalf(20), brute(f, B=b))
    assert "regime" in str(found) or str(found)
    assert "<" in found._repr_html_()


def check_crossover(f: Formula) -> None:
    ends = {number(e, {}) for e in f.regimes("B", **rest(f, "B")).breakpoints}
    for cross in f.crossover("B", **rest(f, "B")):
        assert cross.below != cross.above
        assert any(number(cross.value, {}) == pytest.approx(end) for end in ends)


def check_region_map(f: Formula) -> None:
    if "T" not in {s.name for s in f.symbols}:
        return
    found = f.region_map("B", "T", **rest(f, "B", "T"))
    for b, t in ((8, 1), (40, 9), (9, 4000)):
        expr = found.at(b, t).expr.xreplace({B: Integer(b), T: Integer(t)})
        assert near(expr.evalf(20), brute(f, B=b, T=t))


def check_solve_for(f: Formula) -> None:
    budget = Rational(brute(f, B=20)) * Rational(1000001, 1000000)
    found = f.solve_for("B", budget, **rest(f, "B"))
    if found.largest is not None:
        assert found.largest >= 20
        assert brute(f, B=found.largest) <= budget < brute(f, B=found.largest + 1)


def check_local(f: Formula) -> None:
    found = f.local(**point(f))
    assert near(found.value, brute(f))
    assert sum(found.shares.values()) == pytest.approx(1)
    step = Rational(1, 10**6)
    slope = (brute(f, B=AT[B] + step) - brute(f, B=AT[B] - step)) / float(2 * step)
    assert number(found.derivative("B"), dict(AT)) == pytest.approx(slope, rel=1e-3)


def check_asymptote(f: Formula) -> None:
    found = f.asymptote("B", **rest(f, "B"))
    far = 10 ** (1 + max(9, math.ceil(math.log10(float(found.start) + 1))))
    assert number(found.leading, {}) * float(far) ** found.order == pytest.approx(
        brute(f, B=far), rel=1e-2
    )


def check_add(f: Formula) -> None:
    assert near((f + f.bind(B=9)).evaluate(**point(f)), brute(f) + brute(f, B=9))


def check_sub(f: Formula) -> None:
    assert (f - f).terms == ()
    assert near((f - f * 3).evaluate(**point(f)), -2 * brute(f))


def check_scaled(f: Formula) -> None:
    assert near((f * 3).evaluate(**point(f)), 3 * brute(f))
    assert near((2 * f).evaluate(**point(f)), 2 * brute(f))
    assert near((f / 4).evaluate(**point(f)), brute(f) / 4)
    if f.numerator is None:
        assert near((-f).evaluate(**point(f)), -brute(f))


def outline_value(f: Formula) -> float:
    """The outline that printers show, its names put back."""
    outline = outlined(f.terms, f.symbols)

    def value(terms: tuple[Term, ...], at: dict[Symbol, object]) -> float:
        return math.fsum(value_of(t, at) for t in terms)

    def value_of(term: Term, at: dict[Symbol, object]) -> float:
        if term.span is not None:
            lower, upper = (int(number(e, at)) for e in (term.span.lower, term.span.upper))
            plain = Term(term.count, term.arms, term.ops, norm=term.norm)
            return math.fsum(
                value_of(plain, {**at, term.span.symbol: t}) for t in range(lower, upper + 1)
            )
        names = {b.symbol: b.terms for b in outline.bodies}
        arms = tuple(
            Arm(Rational(value(names[a.expr], at)), a.resource) if a.expr in names else a
            for a in term.arms
        )
        return value_of_term(Term(term.count, arms, term.ops, norm=term.norm), at)

    total = value(outline.terms, dict(AT))
    return total if f.numerator is None else number(f.numerator, dict(AT)) / total


def check_text(f: Formula) -> None:
    text = f.text()
    assert text == str(f)
    assert near(outline_value(f), brute(f))
    for body in outlined(f.terms, f.symbols).bodies:
        assert f"  {body.symbol} ({body.name}) =" in text
    assert max(map(len, text.splitlines())) < 700


def check_latex(f: Formula) -> None:
    latex = f.latex()
    assert latex.count("{") == latex.count("}")
    assert latex.count(r"\left") == latex.count(r"\right")
    for body in outlined(f.terms, f.symbols).bodies:
        assert f"t_{{{body.symbol.name[1:]}}} ={{}}&" in latex
    assert f._repr_latex_() == rf"$\displaystyle {latex}$"


def check_mime(f: Formula) -> None:
    assert set(f._repr_mimebundle_()) == {"text/plain", "text/latex"}


def check_html(f: Formula) -> None:
    from xml.etree import ElementTree

    ElementTree.fromstring(f._repr_html_())


def check_repr(f: Formula) -> None:
    assert len(repr(f)) < 200


def check_code(f: Formula) -> None:
    scope: dict[str, Callable[..., float]] = {}
    exec(f.code("python", "f"), scope)
    assert near(scope["f"](*point(f).values()), brute(f))
    for language in ("numpy", "c", "javascript", "julia", "excel"):
        assert len(f.code(language)) > 50


def check_fields(f: Formula) -> None:
    shown = formula_object(f)
    assert len(shown["terms"]) == len(f.terms)
    nested = [a for t in shown["terms"] for a in t["arms"] if "body" in a]
    assert len(nested) == sum(1 for t in f.terms for a in t.arms if a.chain)
    assert all(a["terms"] for a in nested)


def check_beyond(f: Formula) -> None:
    """What is said beyond a stated context is a sentence or nothing, and open sizes assume it."""
    at = {s.name: value for s, value in ((s, 10**7) for s in f.symbols) if s.name in ("S", "T")}
    assert bool(f.beyond(**at)) is bool(f.stated and at)
    assert f.beyond(**dict.fromkeys(at, 1)) == ""
    if f.setting is not None:
        told = f.open_in(*f.symbols)
        assert told is not None
        asked = set(told.assumptions) - set(f.setting.assumptions)
        assert asked == {x.asks for x in f.stated if x.expr.free_symbols & set(f.symbols)}


def check_reject_unknown(f: Formula) -> None:
    f.reject_unknown({**point(f), "G": 1})  # which is what other formulas are of
    with pytest.raises(InputError, match="nonesuch"):
        f.reject_unknown({"nonesuch": 1})


def check_along(f: Formula) -> None:
    """What goes over a symbol says where the others are, and is open in this one."""
    over = f.symbols[0].name
    at = point(f)
    told = f.along(over, at)
    assert (told is None) is (f.setting is None)
    if told is not None:
        assert {name for name, _ in told.fixed} >= set(at) - {over}
        assert over not in {name for name, _ in told.fixed}


def check_meanings(f: Formula) -> None:
    assert set(f.meanings) <= {s.name for s in f.symbols}
    assert all(f.meanings.values()), "a symbol without a meaning is not listed"
    assert {s.name for s in f.symbols if s.name in LEGEND} <= set(f.meanings)


CHECKS: dict[str, Callable[[Formula], None]] = {
    "expr": check_expr, "symbols": check_symbols, "meanings": check_meanings,
    "assumptions": check_assumptions,
    "computed": check_computed,
    "beyond": check_beyond, "open_in": check_beyond, "along": check_along,
    "evaluate": check_evaluate, "__call__": check_evaluate, "bind": check_bind,
    "reject_unknown": check_reject_unknown,
    "given": check_given, "substitute": check_substitute, "regimes": check_regimes,
    "crossover": check_crossover, "region_map": check_region_map, "solve_for": check_solve_for,
    "local": check_local, "asymptote": check_asymptote, "__add__": check_add,
    "__sub__": check_sub, "__neg__": check_scaled, "__mul__": check_scaled,
    "__rmul__": check_scaled, "__truediv__": check_scaled, "latex": check_latex,
    "text": check_text, "__str__": check_text, "code": check_code, "__repr__": check_repr,
    "_repr_html_": check_html, "_repr_latex_": check_latex, "_repr_mimebundle_": check_mime,
}  # fmt: skip
#: What dataclasses bring along.
FRAME = {"__init__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__"}


def operations() -> set[str]:
    """Public methods and properties, and what operators and notebooks call."""
    return {
        name
        for name, member in vars(Formula).items()
        if (inspect.isfunction(member) or isinstance(member, (property, cached_property)))
        and (not name.startswith("_") or name.startswith(("__", "_repr_")))
        and name not in FRAME
    }


def test_every_operation_is_entered() -> None:
    assert operations() == set(CHECKS)


#: Sums over contexts have no regimes; the busiest device's load has roots in it.
ALONG = {"regimes", "crossover", "asymptote"}
REFUSED = {
    "sum": ALONG,
    "rate": {"region_map", "add", "sub"},
    "smooth": {"region_map"},
    "pp latency": {*ALONG, "code"},  # too long for one cell of Excel
    "halves latency": {*ALONG, "code"},
    **{f"busiest {metric}": ALONG for metric in ("tpot", "ttft", "latency")},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_works_or_says_what_to_ask(name: str) -> None:
    f, refused = formula(name), set()
    for check in dict.fromkeys((*CHECKS.values(), check_fields)):
        try:
            check(f)
        except CostgraphError as error:
            message = str(error)
            assert "\n" not in message, check.__name__
            assert len(message) < 400, check.__name__
            assert INSTEAD.search(message), (check.__name__, message)
            refused.add(check.__name__.removeprefix("check_"))
    assert refused == REFUSED.get(name, set())


@pytest.mark.parametrize("name", [n for n in NAMES if n != "rate"])
def test_named_constants_put_back_give_the_formula(name: str) -> None:
    f = formula(name)
    found = named(f)
    back = {c.symbol: c.value for c in found.constants} | dict(found.rates)
    parts = {p.symbol: p.lines for p in found.parts}

    def series(lines: tuple, at: dict[Symbol, object]) -> float:
        return math.fsum(value(line, at) for line in lines)

    def value(line, at: dict[Symbol, object]) -> float:
        if line.span is not None and line.span.symbol not in at:
            ends = (int(number(e, at)) for e in (line.span.lower, line.span.upper))
            first, last = ends
            spans = ({**at, line.span.symbol: t} for t in range(first, last + 1))
            return math.fsum(value(line, inner) for inner in spans)
        sizes = []
        for arm in line.arms:
            if arm.chain or arm.amount in parts:
                sizes.append(series(arm.chain or parts[arm.amount], at))
                continue
            over = 1.0 if arm.rate is None else number(Expr(arm.rate).args[0].xreplace(back), {})
            sizes.append(number(arm.amount.xreplace(back), at) / over)
        count = number(line.count, at)
        if line.norm is not None and len(sizes) > 1:
            p = float(line.norm)
            return count * math.fsum(x**p for x in sizes) ** (1 / p)
        return count * max(sizes)

    at: dict[Symbol, object] = {s: v for s, v in AT.items() if s in f.symbols}
    assert near(series(found.lines, at), brute(f))
    assert found.text()
    assert found.latex(document=True)
    assert found.mathml()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("rate", "smooth")])
def test_a_summary_bounds_a_nested_formula_from_both_sides(name: str) -> None:
    f = formula(name)
    found = named(f, "summary")
    back = {c.symbol: float(c.value) for c in found.constants}
    back |= {s: float(v) for s, v in found.rates.items()}
    env = {s.name: v for s, v in back.items()} | {s.name: float(v) for s, v in AT.items()}
    shown = [x for x in found.text().splitlines() if re.match(r"    t\d+ = ", x)]
    sides = [re.sub(r"(?<=[(, ])[a-z][\w ]*: ", "", x.split(" = ", 1)[1]) for x in shown]
    values = [read_text(side)(env) for side in sides]
    if any(line.span is not None for line in found.lines) or not values:
        return
    assert max(values) <= brute(f) * (1 + 1e-3)
    assert sum(values) >= brute(f) * (1 - 1e-3)


def test_a_reader_sees_what_is_in_series() -> None:
    f = formula("short")
    assert "max( body 1: 3·B / 3 B/s + 20 + T , 21·B / 7 FLOP/s )" in f.text()
    plain = re.sub(r"\\text\{[^}]*: \}", "", f.latex())
    inner = plain.split("={}& ")[1].split("\n")[0]
    assert near(read_latex(inner)({s.name: float(v) for s, v in AT.items()}), brute(f))


@pytest.mark.parametrize("name", ["long", "deep", "pp tpot", "halves tpot"])
def test_wins_on_nested_formulas(name: str) -> None:
    f = formula(name)
    other = Formula("g", "s", (one(Rational(brute(f, B=30)) / 30 * B),))
    found = wins(f, other, "B", **rest(f, "B"))
    for b in (8, 11, 29, 31, 400, 9000):
        inside = any(i.lower <= b and (i.upper == oo or b < i.upper) for i in found)
        mine, theirs = brute(f, B=b), brute(other, B=b)
        if not math.isclose(mine, theirs, rel_tol=1e-9):
            assert inside == (theirs < mine), b
