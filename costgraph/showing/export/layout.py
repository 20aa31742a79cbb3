"""Mathematics as a small tree, rendered as text, LaTeX or presentation MathML.

Printers compute no cost: they turn sympy expressions and the parts of a formula
into the same tree, so that the three forms never say different things.

Each printer knows how tightly what it wrote holds together, and puts parentheses
around whatever holds less than its place needs: what is printed reads back as the
same value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from sympy import Add, Expr, Max, Min, Mul, Pow, Rational, Symbol, ceiling, floor, fraction, sstr

from costgraph.showing.export.atoms import (
    GREEK,
    cancelling,
    exact_text,
    name_parts,
    number_latex,
    number_text,
    symbol_latex,
)
from costgraph.showing.export.escaping import text_latex

if TYPE_CHECKING:
    from costgraph.formula.terms import Span


@dataclass(frozen=True)
class Number:
    """A number, shown short; exactly where a power would enlarge what rounding loses."""

    value: Rational
    exact: bool = False


@dataclass(frozen=True)
class Name:
    """A symbol; what follows the first underscore is a subscript."""

    text: str


@dataclass(frozen=True)
class Verbatim:
    """What has no form here, as sympy writes it."""

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


@dataclass(frozen=True)
class Labelled:
    """An argument of a maximum with the name of what it is the time of."""

    label: str
    body: Node


Node: TypeAlias = (
    "Number | Name | Verbatim | Product | Total | Ratio | Power | Call | Norm | Series | Labelled"
)


def labelled(label: str, node: Node) -> Node:
    """``node`` under a label, if there is one."""
    return Labelled(label, node) if label else node


def series(nodes: Sequence[Node]) -> Node:
    """Times one after the other: their sum."""
    return nodes[0] if len(nodes) == 1 else Total(tuple((False, n) for n in nodes))


_CALLS = {Max: "max", Min: "min", ceiling: "ceil", floor: "floor"}


def of_expr(expr: Expr, exact: bool = False) -> Node:
    """The tree of an expression, as it stands (nothing is expanded).

    Numbers of powers with a symbol in the exponent are ``exact``: the fourth digit
    of ``(255/256)^B`` is the first one of its value at large ``B``.
    """
    if expr.is_Rational:
        return Number(Rational(expr), exact)
    if expr.is_Float:
        return Number(Rational(str(expr)), exact)
    if isinstance(expr, Symbol):
        return Name(expr.name)
    for kind, word in _CALLS.items():
        if isinstance(expr, kind):
            # As in prose: symbols before numbers.
            given = sorted(expr.args, key=lambda a: (bool(a.is_number), sstr(a)))
            return Call(word, tuple(of_expr(a, exact) for a in given))
    if isinstance(expr, Add):
        exact = exact or cancelling(a.as_coeff_Mul()[0] for a in expr.args)
        terms = sorted(expr.args, key=lambda a: (bool(_sign(a) < 0), _degree(a), sstr(a)))
        return Total(
            tuple((_sign(a) < 0, of_expr(-a if _sign(a) < 0 else a, exact)) for a in terms)
        )
    if isinstance(expr, Mul):
        if _sign(expr) < 0:
            return Total(((True, of_expr(-expr, exact)),))
        top, bottom = fraction(expr)
        if bottom != 1:
            return Ratio(of_expr(top, exact), of_expr(bottom, exact))
        factors = sorted(expr.args, key=_rank)
        return Product(tuple(of_expr(f, exact) for f in factors))
    if isinstance(expr, Pow):
        if expr.exp.is_Rational and expr.exp < 0:
            return Ratio(Number(Rational(1)), of_expr(expr.base**-expr.exp, exact))
        exact = exact or bool(expr.exp.free_symbols) or not expr.exp.is_Integer
        return Power(of_expr(expr.base, exact), of_expr(expr.exp, exact))
    return Verbatim(str(sstr(expr)))


def combined(
    count: Expr, arms: Sequence[Node], norm: Expr | None = None, span: Span | None = None
) -> Node:
    """``count × max(arms)``, or the norm of the arms; with a span its sum over contexts."""
    body = arms[0]
    if len(arms) > 1:
        body = Call("max", tuple(arms)) if norm is None else Norm(tuple(arms), norm)
    if span is not None:
        body = Series(Name(span.symbol.name), of_expr(span.lower), of_expr(span.upper), body)
    return body if count == 1 else Product((of_expr(count), body))


#: Symbols of a request: they stand behind constants and dimensions.
_REQUEST = ("B", "q", "T", "S", "N")


def _rank(factor: Expr) -> tuple[bool, bool, bool, str]:
    """Numbers, then constants, then what a request varies, then the rest."""
    request = any(s.name in _REQUEST for s in factor.free_symbols)
    plain = factor.is_Symbol or factor.is_Pow
    return (not (factor.is_Rational or factor.is_Float), not plain, request, sstr(factor))


def _sign(expr: Expr) -> int:
    return -1 if expr.as_coeff_Mul()[0] < 0 else 1


def _degree(expr: Expr) -> int:
    return len(expr.free_symbols)


# --- how tightly what was printed holds together -----------------------------------------

SUM, PRODUCT, POWER, ATOM = range(4)


def _leasts(factors: tuple[Node, ...]) -> list[int]:
    """How tightly each factor must hold together; a sum's sign reaches to the end."""
    last = len(factors) - 1
    return [
        PRODUCT if i == (last if isinstance(f, Series) else 0) else POWER
        for i, f in enumerate(factors)
    ]


def _begins_with_digit(node: Node) -> bool:
    """Whether a factor would run into a number before it: ``2 3^B`` reads as ``23^B``."""
    match node:
        case Number(value):
            return bool(value >= 0)
        case Power(base, _):
            return isinstance(base, Number) and bool(base.value.is_Integer and base.value >= 0)
        case Product(factors):
            return _begins_with_digit(factors[0])
        case Ratio(Total(((False, first), *_)), _):
            return _begins_with_digit(first)
        case Ratio(top, _):
            return _begins_with_digit(top)
    return False


# --- text ------------------------------------------------------------------------------

_SUB = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_SUPER = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def to_text(node: Node) -> str:
    """Plain text with ``·``, ``/`` and superscripts."""
    return _text(node)[0]


def _in_text(node: Node, least: int) -> str:
    text, own = _text(node)
    return text if own >= least else f"({text})"


def _number_level(text: str, scientific: int) -> int:
    """How tightly a printed number holds together."""
    if text.startswith("-"):
        return SUM
    if "/" in text:
        return PRODUCT
    return scientific if "e" in text else ATOM


def _text(node: Node) -> tuple[str, int]:
    match node:
        case Number(value, exact):
            text = exact_text(value) if exact else number_text(value)
            return text, _number_level(text, ATOM)
        case Name(text):
            return text, ATOM
        case Verbatim(text):
            return text, SUM
        case Product(factors):
            pairs = zip(factors, _leasts(factors), strict=True)
            # A quotient in front keeps its parentheses: not everyone reads a/b·c alike.
            return "·".join(
                _in_text(f, POWER if isinstance(f, Ratio) else least) for f, least in pairs
            ), PRODUCT
        case Total(parts):
            shown = ""
            for minus, part in parts:
                glue = (" - " if minus else " + ") if shown else ("-" if minus else "")
                shown += glue + _in_text(part, PRODUCT)
            return shown or "0", SUM
        case Ratio(top, bottom):
            return f"{_in_text(top, PRODUCT)}/{_in_text(bottom, POWER)}", PRODUCT
        case Power(base, exponent):
            head, text = _in_text(base, ATOM), to_text(exponent)
            if isinstance(exponent, Number) and text.isdigit():
                return head + text.translate(_SUPER), POWER
            return f"{head}^{_in_text(exponent, ATOM)}", POWER
        case Call(function, arguments):
            return f"{function}({', '.join(map(to_text, arguments))})", ATOM
        case Norm(arguments, exponent):
            below = f"{float(exponent):.3g}".translate(_SUB)
            return f"‖{', '.join(map(to_text, arguments))}‖{below}", ATOM
        case Series(index, lower, upper, body):
            ends = f"{to_text(index)} = {to_text(lower)} … {to_text(upper)}"
            return f"Σ[{ends}] {_in_text(body, PRODUCT)}", PRODUCT
        case Labelled(label, body):
            return f"{label}: {to_text(body)}", SUM


# --- LaTeX -----------------------------------------------------------------------------

_LATEX_CALLS = {"max": r"\max", "min": r"\min"}


def to_latex(node: Node) -> str:
    """LaTeX for math mode; needs amsmath."""
    return _latex(node)[0]


def in_latex(node: Node, least: int) -> str:
    """LaTeX of an operand, in parentheses where it holds together less than ``least``."""
    text, own = _latex(node)
    return text if own >= least else rf"\left({text}\right)"


def _latex(node: Node) -> tuple[str, int]:
    match node:
        case Number(value, exact):
            text = number_latex(value, exact)
            return text, SUM if text.startswith("-") else (
                POWER if "frac" in text else PRODUCT if "times" in text else ATOM
            )
        case Name(text):
            return symbol_latex(text), ATOM
        case Verbatim(text):
            return rf"\mathtt{{{text_latex(text)}}}", SUM
        case Product(factors):
            return _latex_product(factors), PRODUCT
        case Total(parts):
            shown = ""
            for minus, part in parts:
                shown += ("-" if minus else "+" if shown else "") + in_latex(part, PRODUCT)
            return shown or "0", SUM
        case Ratio(top, bottom):
            return rf"\frac{{{to_latex(top)}}}{{{to_latex(bottom)}}}", POWER
        case Power(base, exponent):
            return f"{in_latex(base, ATOM)}^{{{to_latex(exponent)}}}", POWER
        case Call("ceil", (argument,)):
            return rf"\left\lceil {to_latex(argument)} \right\rceil", ATOM
        case Call("floor", (argument,)):
            return rf"\left\lfloor {to_latex(argument)} \right\rfloor", ATOM
        case Call(function, arguments):
            return f"{call_latex(function)}{_list_latex('(', arguments, ')')}", ATOM
        case Norm(arguments, exponent):
            whole = _list_latex(r"\Vert ", arguments, r"\Vert")
            return f"{whole}_{{{float(exponent):.3g}}}", POWER
        case Series(index, lower, upper, body):
            return f"{sign_latex(index, lower, upper)} {in_latex(body, PRODUCT)}", PRODUCT
        case Labelled(label, body):
            return label_latex(label) + to_latex(body), SUM


def call_latex(function: str) -> str:
    """The name of a function, upright."""
    return _LATEX_CALLS.get(function, rf"\operatorname{{{text_latex(function)}}}")


def sign_latex(index: Node, lower: Node, upper: Node) -> str:
    """The sign of a sum with its ends."""
    return rf"\sum_{{{to_latex(index)}={to_latex(lower)}}}^{{{to_latex(upper)}}}"


def label_latex(label: str) -> str:
    """What stands before an argument."""
    return rf"\text{{{text_latex(label)}: }}"


def glue_latex(node: Node) -> str:
    """What stands between a factor and the next one, ``node``."""
    return r"\cdot " if _begins_with_digit(node) else r"\,"


def _latex_product(factors: tuple[Node, ...]) -> str:
    leasts = _leasts(factors)
    shown = in_latex(factors[0], leasts[0])
    for factor, least in zip(factors[1:], leasts[1:], strict=True):
        shown += glue_latex(factor) + in_latex(factor, least)
    return shown


def _list_latex(left: str, arguments: tuple[Node, ...], right: str) -> str:
    inner = r",\; ".join(map(to_latex, arguments))
    return rf"\left{left}{inner}\right{right}"


# --- MathML ----------------------------------------------------------------------------


_THIN = '<mspace width="0.17em"/>'
_DOT = "<mo>&#xB7;</mo>"


def to_mathml(node: Node) -> str:
    """Presentation MathML, without the surrounding ``<math>``."""
    return _mathml(node)[0]


def _fenced(node: Node, least: int) -> str:
    text, own = _mathml(node)
    return text if own >= least else _row("<mo>(</mo>", text, "<mo>)</mo>")


def _mathml(node: Node) -> tuple[str, int]:
    match node:
        case Number(value, exact):
            text = exact_text(value) if exact else number_text(value)
            level = _number_level(text, PRODUCT)
            return _number_mathml(text), POWER if level == PRODUCT and "/" in text else level
        case Name(text):
            return name_mathml(text), ATOM
        case Verbatim(text):
            return f"<mtext>{_escaped(text)}</mtext>", SUM
        case Product(factors):
            shown: list[str] = []
            for factor, least in zip(factors, _leasts(factors), strict=True):
                if shown:
                    shown.append(_DOT if _begins_with_digit(factor) else _THIN)
                shown.append(_fenced(factor, least))
            return _row(*shown), PRODUCT
        case Total(parts):
            summed: list[str] = []
            for minus, part in parts:
                if summed or minus:
                    summed.append(f"<mo>{'&#x2212;' if minus else '+'}</mo>")
                summed.append(_fenced(part, PRODUCT))
            return (_row(*summed) if summed else "<mn>0</mn>"), SUM
        case Ratio(top, bottom):
            return f"<mfrac>{to_mathml(top)}{to_mathml(bottom)}</mfrac>", POWER
        case Power(base, exponent):
            return f"<msup>{_fenced(base, ATOM)}{to_mathml(exponent)}</msup>", POWER
        case Call("ceil", (argument,)):
            return _row("<mo>&#x2308;</mo>", to_mathml(argument), "<mo>&#x2309;</mo>"), ATOM
        case Call("floor", (argument,)):
            return _row("<mo>&#x230A;</mo>", to_mathml(argument), "<mo>&#x230B;</mo>"), ATOM
        case Call(function, arguments):
            inner = _joined([to_mathml(a) for a in arguments], "<mo>,</mo>")
            called = _row(f"<mi>{_escaped(function)}</mi>", "<mo>(</mo>", *inner, "<mo>)</mo>")
            return called, ATOM
        case Norm(arguments, exponent):
            inner = _joined([to_mathml(a) for a in arguments], "<mo>,</mo>")
            whole = _row("<mo>&#x2016;</mo>", *inner, "<mo>&#x2016;</mo>")
            return f"<msub>{whole}<mn>{float(exponent):.3g}</mn></msub>", POWER
        case Series(index, lower, upper, body):
            start = _row(to_mathml(index), "<mo>=</mo>", to_mathml(lower))
            sign = f"<munderover><mo>&#x2211;</mo>{start}{to_mathml(upper)}</munderover>"
            return _row(sign, _fenced(body, PRODUCT)), PRODUCT
        case Labelled(label, body):
            # Spaces that do not break: tables of formulas give text no room to wrap.
            text = _escaped(label).replace(" ", "&#xA0;")
            return _row(f"<mtext>{text}:&#xA0;</mtext>", to_mathml(body)), SUM


def name_mathml(text: str) -> str:
    """A symbol with its subscript."""
    head, rest = name_parts(text)
    base = f"<mi>{_escaped(GREEK.get(head, ('', head))[1])}</mi>"
    if not rest:
        return base
    below = f"<mi>{rest}</mi>" if len(rest) == 1 else f"<mtext>{_escaped(rest)}</mtext>"
    return f"<msub>{base}{below}</msub>"


def _number_mathml(text: str) -> str:
    if text.startswith("-"):
        return _row("<mo>&#x2212;</mo>", _number_mathml(text[1:]))
    if "/" in text:
        top, bottom = text.split("/")
        return f"<mfrac><mn>{top}</mn><mn>{bottom}</mn></mfrac>"
    mantissa, mark, exponent = text.partition("e")
    if not mark:
        return f"<mn>{text}</mn>"
    power = f"<msup><mn>10</mn>{_number_mathml(str(int(exponent)))}</msup>"
    return _row(f"<mn>{mantissa}</mn>", "<mo>&#xD7;</mo>", power)


def _row(*parts: str) -> str:
    return f"<mrow>{''.join(parts)}</mrow>"


def _joined(parts: list[str], glue: str) -> list[str]:
    return [p for i, part in enumerate(parts) for p in ((glue, part) if i else (part,))]


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)
