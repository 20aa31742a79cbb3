r"""LaTeX that fits a line: formulas broken where a reader would break them.

A formula that is too wide becomes several lines, cut between summands and between
the arguments of maxima; a fraction whose numerator is too wide is written as
``1/rate`` times a sum in parentheses. Widths are estimated from the widths of
Computer Modern's letters, somewhat generously.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from costgraph.showing.export.layout import (
    POWER,
    PRODUCT,
    Call,
    Labelled,
    Node,
    Norm,
    Power,
    Product,
    Ratio,
    Series,
    Total,
    call_latex,
    glue_latex,
    in_latex,
    label_latex,
    sign_latex,
    to_latex,
)

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.")
#: Points at 10 pt of what is not a letter or digit, with the space around it.
_WIDTHS = {
    "+": 12.3, "-": 12.3, "=": 13.4, ",": 4.5, "/": 5.0, "(": 4.0, ")": 4.0, "|": 2.8, ".": 2.8,
    "&": 0.0, " ": 0.0, r"\,": 1.7, r"\;": 2.8, r"\quad": 10.0, r"\cdot": 7.3, r"\times": 12.3,
    r"\max": 20.6, r"\min": 18.9, r"\left": 4.0, r"\right": 4.0, r"\Bigl": 2.0, r"\Bigr": 2.0,
    r"\lceil": 4.5, r"\rceil": 4.5, r"\lfloor": 4.5, r"\rfloor": 4.5, r"\Vert": 5.0,
    r"\le": 13.4, r"\_": 5.5,
}  # fmt: skip
_NARROW = frozenset("fijlrstI")
_SCRIPT = 0.72


def measure(text: str) -> float:
    """The width of LaTeX for math mode in points, in a font of 10 pt."""
    tokens = _TOKEN.findall(text)
    return _Measure(tokens).sequence()


class _Measure:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def _argument(self) -> float:
        """The width of the next group or token."""
        if self.at >= len(self.tokens):
            return 0.0
        token = self.tokens[self.at]
        self.at += 1
        return self.sequence("}") if token == "{" else self._one(token)

    def sequence(self, closing: str = "") -> float:
        total = 0.0
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            self.at += 1
            if token == closing:
                break
            total += self._one(token)
        return total

    def _one(self, token: str) -> float:
        if token == "{":
            return self.sequence("}")
        if token in (r"\frac", r"\tfrac"):
            scale = 1.0 if token == r"\frac" else _SCRIPT
            return scale * max(self._argument(), self._argument()) + 2.4
        if token in ("_", "^"):
            return _SCRIPT * self._argument() + 0.5
        if token == r"\sum":
            ends = []
            while self.at < len(self.tokens) and self.tokens[self.at] in "_^":
                self.at += 1
                ends.append(_SCRIPT * self._argument())
            return max(14.4, *ends) + 1.7
        if token in (r"\operatorname", r"\mathrm", r"\mathtt", r"\text"):
            return self._argument() + 1.7
        if token in _WIDTHS:
            return _WIDTHS[token]
        if token.isdigit():
            return 5.0
        if len(token) == 1 and token.isalpha():
            return 4.2 if token in _NARROW else 8.2 if token.isupper() else 6.0
        return 6.0


def broken(node: Node, first: float, room: float) -> list[str]:
    """The formula in lines: the first of ``first`` points at most, the others of ``room``.

    What cannot be broken (a power, a name) may still be wider.
    """
    whole = to_latex(node)
    if measure(whole) <= first:
        return [whole]
    return filled(list(_pieces(node, min(first, room))), first, room)


def filled(pieces: list[str], first: float, room: float) -> list[str]:
    """Pieces put into as few lines as hold them, in order."""
    lines: list[str] = []
    line, used, most = "", 0.0, first
    for piece in pieces:
        width = measure(piece)
        if line and used + width > most:
            lines.append(line)
            line, used, most = "", 0.0, room
        line, used = line + piece, used + width
    return [*lines, line]


def _pieces(node: Node, room: float) -> Iterator[str]:
    """Parts of a formula between which a line may end."""
    whole = to_latex(node)
    if measure(whole) <= room:
        yield whole
        return
    match node:
        case Total(parts):
            for index, (minus, part) in enumerate(parts):
                sign = "-" if minus else "+" if index else ""
                yield from _opened(f"{{}}{sign}" if sign and index else sign, _summand(part, room))
        case Product(factors):
            widest = max(range(len(factors)), key=lambda i: measure(to_latex(factors[i])))
            before = _product(factors[:widest])
            after = _product(factors[widest + 1 :])
            head = glue_latex(factors[widest]) if before else ""
            if measure(before) > room / 2:
                yield before
            else:
                head = before + head
            tail = f"{glue_latex(factors[widest + 1])}{after}" if after else ""
            yield from _between(head, _factor(factors[widest], room), tail)
        case Ratio(top, bottom):
            # A quotient of one and the rate, times what would be too wide above it.
            over = to_latex(bottom)
            yield from _between(
                rf"\frac{{1}}{{{over}}}\Bigl(", _pieces(top, room - measure(over)), r"\Bigr)"
            )
        case Call(function, arguments) if function in ("max", "min"):
            yield from _arguments(rf"{call_latex(function)}\Bigl(", arguments, r"\Bigr)", room)
        case Call("ceil" | "floor" as function, (argument,)):
            fences = (rf"\Bigl\l{function} ", rf" \Bigr\r{function}")
            yield from _between(fences[0], _pieces(argument, room), fences[1])
        case Norm(arguments, exponent):
            close = rf"\Bigr\Vert_{{{float(exponent):.3g}}}"
            yield from _arguments(r"\Bigl\Vert ", arguments, close, room)
        case Series(index, lower, upper, body):
            yield from _between(f"{sign_latex(index, lower, upper)} ", _factor(body, room), "")
        case Labelled(label, body):
            yield from _opened(label_latex(label), _pieces(body, room))
        case Power(base, exponent):
            yield from _between(r"\Bigl(", _pieces(base, room), rf"\Bigr)^{{{to_latex(exponent)}}}")
        case _:
            yield whole


def _product(factors: tuple[Node, ...]) -> str:
    shown = ""
    for factor in factors:
        shown += (glue_latex(factor) if shown else "") + in_latex(factor, POWER)
    return shown


def _summand(node: Node, room: float) -> Iterator[str]:
    """A part of a sum, in parentheses if it is a sum itself."""
    if isinstance(node, Total):
        return _between(r"\Bigl(", _pieces(node, room), r"\Bigr)")
    return _pieces(node, room)


def _factor(node: Node, room: float) -> Iterator[str]:
    """A factor of a product, in parentheses if it holds together less."""
    if in_latex(node, PRODUCT) != to_latex(node):
        return _between(r"\Bigl(", _pieces(node, room), r"\Bigr)")
    return _pieces(node, room)


def _arguments(
    opening: str, arguments: tuple[Node, ...], closing: str, room: float
) -> Iterator[str]:
    last = len(arguments) - 1
    for index, argument in enumerate(arguments):
        end = closing if index == last else r",\; "
        yield from _between(opening if index == 0 else "", _pieces(argument, room), end)


def _opened(opening: str, pieces: Iterator[str]) -> Iterator[str]:
    return _between(opening, pieces, "")


def _between(opening: str, pieces: Iterator[str], closing: str) -> Iterator[str]:
    """Pieces with what belongs to the first and to the last of them."""
    held = ""
    for index, piece in enumerate(pieces):
        if index:
            yield held
        held = piece if index else opening + piece
    yield held + closing
