"""Sizes that exporters write as text, read as data.

Two notations occur: ``past + 1`` in ONNX files and, in programs of ``torch.export``,
the calls of sympy's ``srepr``: ``Add(Symbol('s0', integer=True), Integer(1))``. Python's
parser takes them apart; nothing of them is evaluated. What is built are the few
functions below, of numbers and names of bounded size.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from sympy import Add, Expr, Integer, Max, Min, Mul, Rational, Symbol, nan, oo, zoo

from costgraph.formula.least import least, most

#: Characters, nested parts and digits of one size.
LONGEST, DEEPEST, LARGEST = 4000, 60, 10**18
#: Arguments of one function; terms of a size that is multiplied out.
MOST_ARGUMENTS, MOST_TERMS = 32, 1000
#: Exponents up to this are taken.
HIGHEST_POWER = 8
Named = Callable[[str], Expr]


class NotArithmetic(ValueError):
    """A text is no size that can be read."""


def _down(x: Expr) -> Expr:
    from costgraph.ops.conv import whole_floor

    return whole_floor(x)


def _floor_div(a: Expr, b: Expr) -> Expr:
    return _down(a / b)


def _ceil_div(a: Expr, b: Expr) -> Expr:
    return -_down(-a / b)


def _mod(a: Expr, b: Expr) -> Expr:
    return a - b * _down(a / b)


def _ratio(a: Expr, b: Expr) -> Expr:
    return a / b


def _same(a: Expr) -> Expr:
    return a


def _power(a: Expr, b: Expr) -> Expr:
    if not (b.is_Integer and abs(b) <= HIGHEST_POWER):
        raise NotArithmetic("a power that is no small whole number")
    return a**b


_FUNCTIONS: Mapping[str, Callable[..., Expr]] = MappingProxyType(
    {
        "Add": Add,
        "Mul": Mul,
        "Max": most,
        "Min": least,
        "max": most,
        "min": least,
        "Pow": _power,
        "PowByNatural": _power,
        "FloorDiv": _floor_div,
        "CleanDiv": _ratio,
        "IntTrueDiv": _ratio,
        "FloatTrueDiv": _ratio,
        "CeilDiv": _ceil_div,
        "Mod": _mod,
        "PythonMod": _mod,
        "floor": _down,
        "ceiling": lambda x: -_down(-x),
        "FloorToInt": _down,
        "CeilToInt": lambda x: -_down(-x),
        "TruncToInt": _down,  # sizes are positive
        "ToFloat": _same,
        "Identity": _same,
    }
)
#: Functions of one and of two arguments; the others take any number.
_ONE = frozenset(
    {"floor", "ceiling", "FloorToInt", "CeilToInt", "TruncToInt", "ToFloat", "Identity"}
)
_ANY = frozenset({"Add", "Mul", "Max", "Min", "max", "min"})
_INFIX: Mapping[type[ast.operator], Callable[[Expr, Expr], Expr]] = MappingProxyType(
    {
        ast.Add: lambda a, b: a + b,
        ast.Sub: lambda a, b: a - b,
        ast.Mult: lambda a, b: a * b,
        ast.Div: _ratio,
        ast.FloorDiv: _floor_div,
        ast.Mod: _mod,
        ast.Pow: _power,
    }
)


def size(text: str, named: Named) -> Expr:
    """The size that ``text`` states; names become what ``named`` says.

    Raises:
        NotArithmetic: it is none: unknown functions, other syntax, or too large.
    """
    try:
        return _built(_parsed(text), named, 0)
    except ZeroDivisionError:
        raise NotArithmetic("a division by zero") from None


def is_arithmetic(text: str) -> bool:
    """True if ``text`` computes with names: ``past + 1``, not ``past`` nor ``seq-len``.

    Names may hold hyphens and slashes, so these count as operators only beside
    a number or, for the hyphen, between spaces.
    """
    try:
        tree = _parsed(text)
    except NotArithmetic:
        return False
    if isinstance(tree, ast.Name) or not any(isinstance(n, ast.Name) for n in ast.walk(tree)):
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Sub, ast.Div, ast.FloorDiv)):
            number = isinstance(node.left, ast.Constant) or isinstance(node.right, ast.Constant)
            spaced = isinstance(node.op, ast.Sub) and " - " in text
            if not (number or spaced):
                return False
    return True


Span = Callable[[Symbol], tuple[int, int | None]]


def decided(e: Expr, span: Span) -> Expr:
    """``e`` with the minima and maxima decided that the ranges of its symbols decide.

    Args:
        e: a size.
        span: the smallest and the largest value of a symbol; None for no largest.
    """
    if not e.has(Min, Max):
        return e
    known = {atom: _decided(atom, span) for atom in e.atoms(Min, Max)}
    return e.xreplace(known).expand()


def _decided(atom: Expr, span: Span) -> Expr:
    """The only candidate that is left of a minimum or maximum, or what it was."""
    sign = 1 if isinstance(atom, Max) else -1
    args = [decided(a, span) for a in atom.args]
    for a in args:
        if all(_never_negative(sign * (a - b), span) for b in args):
            return a
    return atom


def _never_negative(difference: Expr, span: Span) -> bool:
    """True if an affine expression is at least zero wherever its symbols may be."""
    least_value: Expr = Integer(0)
    for term, factor in difference.expand().as_coefficients_dict().items():
        if term == 1:
            least_value += factor
            continue
        if not term.is_Symbol:
            return False
        low, high = span(term)
        if factor < 0 and high is None:
            return False
        least_value += factor * (low if factor > 0 else high)
    return bool(least_value >= 0)


def _parsed(text: str) -> ast.expr:
    if len(text) > LONGEST:
        raise NotArithmetic(f"a text of more than {LONGEST} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NotArithmetic("no arithmetic") from None


def _built(node: ast.expr, named: Named, depth: int) -> Expr:
    if depth > DEEPEST:
        raise NotArithmetic("nested too deeply")
    if isinstance(node, ast.Constant):
        return _whole(node.value)
    if isinstance(node, ast.Name):
        return named(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _built(node.operand, named, depth + 1)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _INFIX:
        parts = (_built(n, named, depth + 1) for n in (node.left, node.right))
        return _bounded(_INFIX[type(node.op)](*parts))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _bounded(_called(node.func.id, node, named, depth + 1))
    raise NotArithmetic(f"a part of kind {type(node).__name__}")


def _called(name: str, call: ast.Call, named: Named, depth: int) -> Expr:
    if name == "Symbol":
        # What sympy assumes of the symbol stands behind; sizes are positive here.
        first = call.args[0] if len(call.args) == 1 else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return named(first.value)
        raise NotArithmetic("a symbol without a name")
    if any(k.arg != "evaluate" for k in call.keywords):
        raise NotArithmetic("arguments by name")
    if name in ("Integer", "Rational"):
        numbers = [_number(a) for a in call.args]
        if len(numbers) != (1 if name == "Integer" else 2):
            raise NotArithmetic(f"{name} of {len(numbers)} numbers")
        return Rational(*numbers)
    function = _FUNCTIONS.get(name)
    if function is None:
        raise NotArithmetic(f"the function {name[:40]!r}")
    if len(call.args) > MOST_ARGUMENTS:
        raise NotArithmetic(f"{name} of more than {MOST_ARGUMENTS} arguments")
    args: Sequence[Expr] = [_built(a, named, depth) for a in call.args]
    if not args or (name not in _ANY and len(args) != (1 if name in _ONE else 2)):
        raise NotArithmetic(f"{name} of {len(args)} arguments")
    return function(*args)


def _number(node: ast.expr) -> int:
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    inner = node.operand if isinstance(node, ast.UnaryOp) and negative else node
    if not isinstance(inner, ast.Constant):
        raise NotArithmetic("a number that is none")
    value = int(_whole(inner.value))
    return -value if negative else value


def _whole(value: object) -> Expr:
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
        raise NotArithmetic("a number that is no whole one of at most 18 digits")
    return Integer(value)


def _bounded(made: Expr) -> Expr:
    if made.has(nan, zoo, oo, -oo):
        raise NotArithmetic("a division by zero")
    if made.is_Rational and max(abs(made.p), made.q) > LARGEST:
        raise NotArithmetic("a number that is too large")
    if _terms(made) > MOST_TERMS:
        raise NotArithmetic("a size of too many terms")
    return made


def _terms(e: Expr) -> int:
    """At most so many terms result where ``e`` is multiplied out."""
    if e.is_Add:
        return sum(map(_terms, e.args))
    if e.is_Mul:
        return math.prod(map(_terms, e.args))
    if e.is_Pow:
        return int(_terms(e.base) ** abs(int(e.exp))) if e.exp.is_Integer else MOST_TERMS + 1
    return max(map(_terms, e.args), default=1)
