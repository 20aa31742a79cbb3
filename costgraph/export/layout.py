"""Mathematics as a small tree, rendered as text, LaTeX or presentation MathML.

Printers compute no cost: they turn sympy expressions and the parts of a formula
into the same tree, so that the three forms never say different things.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from sympy import Add, Expr, Max, Min, Mul, Pow, Rational, Symbol, ceiling, floor, fraction, sstr

from costgraph.export.text import number_text


@dataclass(frozen=True)
class Number:
    """A number, shown short."""

    value: Rational


@dataclass(frozen=True)
class Name:
    """A symbol; what follows the first underscore is a subscript."""

    text: str


@dataclass(frozen=True)
class Product:
    """Factors side by side."""

    factors: tuple[Node, ...]


@dataclass(frozen=True)
class Total:
    """Signed summands."""

    parts: tuple[tuple[bool, Node], ...]


@dataclass(frozen=True)
class Ratio:
    """A fraction."""

    top: Node
    bottom: Node


@dataclass(frozen=True)
class Power:
    """A base to an exponent."""

    base: Node
    exponent: Node


@dataclass(frozen=True)
class Call:
    """``max``, ``min``, ``ceil``, ``floor`` … of arguments."""

    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Norm:
    """``‖a, b‖ₚ = (aᵖ + bᵖ)^(1/p)`` of arguments."""

    arguments: tuple[Node, ...]
    exponent: Rational


@dataclass(frozen=True)
class Series:
    """A sum over a range."""

    index: Node
    lower: Node
    upper: Node
    body: Node


Node: TypeAlias = "Number | Name | Product | Total | Ratio | Power | Call | Norm | Series"

_CALLS = {Max: "max", Min: "min", ceiling: "ceil", floor: "floor"}


def of_expr(expr: Expr) -> Node:
    """The tree of an expression, as it stands (nothing is expanded)."""
    if expr.is_Rational:
        return Number(Rational(expr))
    if isinstance(expr, Symbol):
        return Name(expr.name)
    for kind, word in _CALLS.items():
        if isinstance(expr, kind):
            return Call(word, tuple(of_expr(a) for a in expr.args))
    if isinstance(expr, Add):
        terms = sorted(expr.args, key=lambda a: (bool(_sign(a) < 0), _degree(a), sstr(a)))
        return Total(tuple((_sign(a) < 0, of_expr(-a if _sign(a) < 0 else a)) for a in terms))
    if isinstance(expr, Mul):
        top, bottom = fraction(expr)
        if bottom != 1:
            return Ratio(of_expr(top), of_expr(bottom))
        factors = sorted(expr.args, key=_rank)
        return Product(tuple(of_expr(f) for f in factors))
    if isinstance(expr, Pow):
        if expr.exp.is_Rational and expr.exp < 0:
            return Ratio(Number(Rational(1)), of_expr(expr.base**-expr.exp))
        return Power(of_expr(expr.base), of_expr(expr.exp))
    return Name(str(sstr(expr)))


#: Symbols of a request: they stand behind constants and dimensions.
_REQUEST = ("B", "q", "T", "S", "N")


def _rank(factor: Expr) -> tuple[bool, bool, bool, str]:
    """Numbers, then constants, then what a request varies, then the rest."""
    request = any(s.name in _REQUEST for s in factor.free_symbols)
    plain = factor.is_Symbol or factor.is_Pow
    return (not factor.is_Rational, not plain, request, sstr(factor))


def _sign(expr: Expr) -> int:
    return -1 if expr.as_coeff_Mul()[0] < 0 else 1


def _degree(expr: Expr) -> int:
    return len(expr.free_symbols)


# --- text ------------------------------------------------------------------------------

_SUB = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_SUPER = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def to_text(node: Node) -> str:
    """Plain text with ``·``, ``/`` and superscripts."""
    match node:
        case Number(value):
            return number_text(value)
        case Name(text):
            return text
        case Product(factors):
            return "·".join(_inner(f, (Total, Ratio)) for f in factors)
        case Total(parts):
            shown = ""
            for minus, part in parts:
                glue = (" - " if minus else " + ") if shown else ("-" if minus else "")
                shown += glue + to_text(part)
            return shown or "0"
        case Ratio(top, bottom):
            return f"{_inner(top, (Total,))}/{_inner(bottom, (Total, Product, Ratio))}"
        case Power(base, exponent):
            text = to_text(exponent)
            if isinstance(exponent, Number) and text.lstrip("-").isdigit():
                return _inner(base, (Total, Product, Ratio, Power)) + text.translate(_SUPER)
            head = _inner(base, (Total, Product, Ratio, Power))
            return f"{head}^{_inner(exponent, (Total, Product, Ratio))}"
        case Call(function, arguments):
            return f"{function}({', '.join(to_text(a) for a in arguments)})"
        case Norm(arguments, exponent):
            below = f"{float(exponent):.3g}".translate(_SUB)
            return f"‖{', '.join(to_text(a) for a in arguments)}‖{below}"
        case Series(index, lower, upper, body):
            ends = f"{to_text(index)} = {to_text(lower)} … {to_text(upper)}"
            return f"Σ[{ends}] {_inner(body, (Total,))}"


def _inner(node: Node, wrapped: tuple[type, ...]) -> str:
    text = to_text(node)
    return f"({text})" if isinstance(node, wrapped) else text


# --- LaTeX -----------------------------------------------------------------------------

_LATEX_CALLS = {"max": r"\max", "min": r"\min"}


def to_latex(node: Node) -> str:
    """LaTeX for math mode; needs amsmath."""
    from costgraph.export.latex import number_latex, symbol_latex

    match node:
        case Number(value):
            return number_latex(value)
        case Name(text):
            return symbol_latex(text)
        case Product(factors):
            return r"\,".join(_bracketed(f, (Total,)) for f in factors)
        case Total(parts):
            shown = ""
            for minus, part in parts:
                shown += ("-" if minus else "+" if shown else "") + to_latex(part)
            return shown or "0"
        case Ratio(top, bottom):
            return rf"\frac{{{to_latex(top)}}}{{{to_latex(bottom)}}}"
        case Power(base, exponent):
            head = _bracketed(base, (Total, Product, Ratio, Power))
            return f"{{{head}}}^{{{to_latex(exponent)}}}"
        case Call("ceil", (argument,)):
            return rf"\left\lceil {to_latex(argument)} \right\rceil"
        case Call("floor", (argument,)):
            return rf"\left\lfloor {to_latex(argument)} \right\rfloor"
        case Call(function, arguments):
            word = _LATEX_CALLS.get(function, rf"\operatorname{{{function}}}")
            inner = r",\; ".join(to_latex(a) for a in arguments)
            return rf"{word}\left({inner}\right)"
        case Norm(arguments, exponent):
            inner = r",\; ".join(to_latex(a) for a in arguments)
            return rf"\left\Vert {inner}\right\Vert_{{{float(exponent):.3g}}}"
        case Series(index, lower, upper, body):
            ends = f"_{{{to_latex(index)}={to_latex(lower)}}}^{{{to_latex(upper)}}}"
            return rf"\sum{ends} {_bracketed(body, (Total,))}"


def _bracketed(node: Node, wrapped: tuple[type, ...]) -> str:
    text = to_latex(node)
    return rf"\left({text}\right)" if isinstance(node, wrapped) else text


# --- MathML ----------------------------------------------------------------------------


_THIN = '<mspace width="0.17em"/>'


def to_mathml(node: Node) -> str:
    """Presentation MathML, without the surrounding ``<math>``."""
    match node:
        case Number(value):
            return _number_mathml(value)
        case Name(text):
            return name_mathml(text)
        case Product(factors):
            return _row(
                *_joined([_fenced(f, (Total,)) for f in factors], '<mspace width="0.17em"/>')
            )
        case Total(parts):
            shown: list[str] = []
            for minus, part in parts:
                if shown or minus:
                    shown.append(f"<mo>{'&#x2212;' if minus else '+'}</mo>")
                shown.append(to_mathml(part))
            return _row(*shown) if shown else "<mn>0</mn>"
        case Ratio(top, bottom):
            return f"<mfrac>{to_mathml(top)}{to_mathml(bottom)}</mfrac>"
        case Power(base, exponent):
            head = _fenced(base, (Total, Product, Ratio, Power))
            return f"<msup>{head}{to_mathml(exponent)}</msup>"
        case Call("ceil", (argument,)):
            return _row("<mo>&#x2308;</mo>", to_mathml(argument), "<mo>&#x2309;</mo>")
        case Call("floor", (argument,)):
            return _row("<mo>&#x230A;</mo>", to_mathml(argument), "<mo>&#x230B;</mo>")
        case Call(function, arguments):
            inner = _joined([to_mathml(a) for a in arguments], "<mo>,</mo>")
            return _row(f"<mi>{_escaped(function)}</mi>", "<mo>(</mo>", *inner, "<mo>)</mo>")
        case Norm(arguments, exponent):
            inner = _joined([to_mathml(a) for a in arguments], "<mo>,</mo>")
            whole = _row("<mo>&#x2016;</mo>", *inner, "<mo>&#x2016;</mo>")
            return f"<msub>{whole}<mn>{float(exponent):.3g}</mn></msub>"
        case Series(index, lower, upper, body):
            start = _row(to_mathml(index), "<mo>=</mo>", to_mathml(lower))
            sign = f"<munderover><mo>&#x2211;</mo>{start}{to_mathml(upper)}</munderover>"
            return _row(sign, _fenced(body, (Total,)))


def name_mathml(text: str) -> str:
    """A symbol with its subscript."""
    from costgraph.export.latex import name_parts

    head, rest = name_parts(text)
    base = f"<mi>{_escaped(head)}</mi>"
    if not rest:
        return base
    below = f"<mi>{rest}</mi>" if len(rest) == 1 else f"<mtext>{_escaped(rest)}</mtext>"
    return f"<msub>{base}{below}</msub>"


def _number_mathml(value: Rational) -> str:
    text = number_text(value)
    if "/" in text:
        top, bottom = text.split("/")
        return f"<mfrac><mn>{top}</mn><mn>{bottom}</mn></mfrac>"
    mantissa, mark, exponent = text.partition("e")
    if not mark:
        return f"<mn>{text}</mn>"
    power = f"<msup><mn>10</mn><mn>{int(exponent)}</mn></msup>"
    return _row(f"<mn>{mantissa}</mn>", "<mo>&#xD7;</mo>", power)


def _row(*parts: str) -> str:
    return f"<mrow>{''.join(parts)}</mrow>"


def _joined(parts: list[str], glue: str) -> list[str]:
    return [p for i, part in enumerate(parts) for p in ((glue, part) if i else (part,))]


def _fenced(node: Node, wrapped: tuple[type, ...]) -> str:
    text = to_mathml(node)
    return _row("<mo>(</mo>", text, "<mo>)</mo>") if isinstance(node, wrapped) else text


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)
