"""Readers of printed mathematics: text, LaTeX and MathML back to numbers.

Each reads what it is given as a mathematician would, knows nothing of the printers,
and refuses what it does not know or what is ambiguous (two numbers side by side).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from xml.etree import ElementTree

Env = Mapping[str, float]
Lazy = Callable[[Env], float]

_PREFIX = {"k": 3, "M": 6, "G": 9, "T": 12, "P": 15}
_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUB = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")


CALLS: Mapping[str, Callable[[list[float]], float]] = {
    "max": max,
    "min": min,
    "ceil": lambda v: float(math.ceil(v[0] - 1e-9 * abs(v[0]))),
    "ceiling": lambda v: float(math.ceil(v[0] - 1e-9 * abs(v[0]))),
    "floor": lambda v: float(math.floor(v[0] + 1e-9 * abs(v[0]))),
    "sqrt": lambda v: math.sqrt(v[0]),
    "log": lambda v: math.log(v[0]),
}


def norm(values: list[float], p: float) -> float:
    top = max(values)
    return top * sum((v / top) ** p for v in values) ** (1 / p) if top else 0.0


def series(name: str, lower: Lazy, upper: Lazy, body: Lazy, env: Env) -> float:
    ends = round(lower(env)), round(upper(env))
    return sum(body({**env, name: float(k)}) for k in range(ends[0], ends[1] + 1))


class Reader:
    """Sums, products and powers over tokens; languages differ in their atoms."""

    plus, minus = "+", "-"
    times: tuple[str, ...] = ("·", "*")
    over = "/"
    juxtaposed = False

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, token: str = "") -> str:
        found = self.next
        if (token and found != token) or not found:
            raise ValueError(f"expected {token!r} at {self.tokens[self.at : self.at + 8]}")
        self.at += 1
        return found

    def whole(self) -> Lazy:
        found = self.sum()
        if self.next:
            raise ValueError(f"left over: {self.tokens[self.at : self.at + 8]}")
        return found

    def sum(self) -> Lazy:
        signs, parts = [], []
        sign = 1.0
        if self.next in (self.plus, self.minus):
            sign = -1.0 if self.take() == self.minus else 1.0
        while True:
            signs.append(sign)
            parts.append(self.product())
            if self.next not in (self.plus, self.minus):
                break
            sign = -1.0 if self.take() == self.minus else 1.0
        return lambda env: math.fsum(s * p(env) for s, p in zip(signs, parts, strict=True))

    def product(self) -> Lazy:
        found = self.power()
        while True:
            if self.next in self.times:
                self.take()
                found = _binary(found, self.power(), lambda a, b: a * b)
            elif self.next == self.over:
                self.take()
                found = _binary(found, self.power(), lambda a, b: a / b)
            elif self.juxtaposed and self.begins():
                if self.begins_with_number():
                    raise ValueError(f"a number after a factor: {self.tokens[self.at - 2 :]}")
                found = _binary(found, self.power(), lambda a, b: a * b)
            else:
                return found

    def begins(self) -> bool:
        """Whether a factor begins here."""
        raise NotImplementedError

    def begins_with_number(self) -> bool:
        """Whether a factor here would run into a number before it."""
        return _is_number(self.next)

    def power(self) -> Lazy:
        base = self.atom()
        raised = self.exponent()
        return base if raised is None else _binary(base, raised, lambda a, b: a**b)

    def exponent(self) -> Lazy | None:
        raise NotImplementedError

    def atom(self) -> Lazy:
        raise NotImplementedError

    def list(self, closing: str) -> Callable[[Env], list[float]]:
        parts = [self.sum()]
        while self.next == ",":
            self.take()
            parts.append(self.sum())
        self.take(closing)
        return lambda env: [p(env) for p in parts]


def _binary(a: Lazy, b: Lazy, f: Callable[[float, float], float]) -> Lazy:
    return lambda env: f(a(env), b(env))


def _is_number(token: str) -> bool:
    return bool(re.match(r"[\d.]", token))


def _called(name: str, arguments: Callable[[Env], list[float]]) -> Lazy:
    return lambda env: CALLS[name](arguments(env))


# --- text ------------------------------------------------------------------------------

_TEXT = re.compile(
    r"\s*(Σ\[|\d+\.?\d*(?:[eE][+-]?\d+)?|[A-Za-z_][A-Za-z_0-9]*|[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+|[₀-₉.]+|\*\*|\S)"
)
_UNITS = re.compile(r"(\d) ([kMGTP]?)(?:FLOP|B)/s")


class TextReader(Reader):
    """Plain text: ``A·(3/4)^B``, ``max( a / 768 GB/s , b )``, ``Σ[T = 1 … N] x``."""

    def __init__(self, text: str) -> None:
        # A rate with its unit is a number with a prefix.
        text = _UNITS.sub(lambda m: f"{m[1]}{m[2]}", text)
        super().__init__(_TEXT.findall(text))

    def begins(self) -> bool:
        return False

    def exponent(self) -> Lazy | None:
        if self.next and self.next[0] in "⁰¹²³⁴⁵⁶⁷⁸⁹⁻":
            value = float(self.take().translate(_SUPER))
            return lambda env: value
        if self.next in ("^", "**"):
            self.take()
            sign = -1.0 if self.next == "-" and self.take() else 1.0
            found = self.atom()
            return lambda env: sign * found(env)
        return None

    def atom(self) -> Lazy:
        token = self.take()
        if _is_number(token):
            value = float(token)
            if self.next in _PREFIX:
                value = float(f"{token}e{_PREFIX[self.take()]}")
            return lambda env: value
        if token == "(":
            found = self.sum()
            self.take(")")
            return found
        if token == "‖":
            values = self.list("‖")
            p = float(self.take().translate(_SUB))
            return lambda env: norm(values(env), p)
        if token == "Σ[":
            name = self.take()
            self.take("=")
            lower = self.sum()
            self.take("…")
            upper = self.sum()
            self.take("]")
            body = self.product()
            return lambda env: series(name, lower, upper, body, env)
        if token.lower() in CALLS and self.next == "(":
            self.take()
            return _called(token.lower(), self.list(")"))
        if re.match(r"[A-Za-z_]", token):
            return lambda env: env[token]
        raise ValueError(f"unknown token {token!r}")


def read_text(text: str) -> Lazy:
    """A formula in plain text."""
    return TextReader(text).whole()


# --- LaTeX -----------------------------------------------------------------------------

_LATEX = re.compile(r"\s*(\\[A-Za-z]+|\\.|\d+\.?\d*|[A-Za-z]|\S)")
_SPACE = (r"\,", r"\;", r"\quad", r"\displaystyle", "&", r"\\", r"\Bigl", r"\Bigr", r"\bigl",
          r"\bigr", r"\allowbreak", r"\notag")  # fmt: skip


class LatexReader(Reader):
    r"""LaTeX of math mode: ``\frac``, ``\tfrac``, ``\left( \right)``, ``\sum`` …"""

    times = (r"\cdot", r"\times")
    over = "\0"
    juxtaposed = True

    def __init__(self, text: str) -> None:
        tokens = [t for t in _LATEX.findall(text.replace("{}", "")) if t not in _SPACE]
        super().__init__(tokens)

    def begins(self) -> bool:
        token = self.next
        starts = (r"\left", r"\frac", r"\tfrac", r"\max", r"\min", r"\sum", r"\mathrm",
                  r"\operatorname", "(", "{", r"\lceil")  # fmt: skip
        return token in starts or bool(re.match(r"[A-Za-z\d.]", token))

    def begins_with_number(self) -> bool:
        ahead = self.tokens[self.at : self.at + 3]
        return _is_number(ahead[0]) or (ahead[0].endswith("frac") and _is_number(ahead[2]))

    def group(self) -> Lazy:
        self.take("{")
        found = self.sum()
        self.take("}")
        return found

    def exponent(self) -> Lazy | None:
        if self.next != "^":
            return None
        self.take()
        return self.group()

    def word(self) -> str:
        """The letters of a group."""
        self.take("{")
        found = ""
        while self.next != "}":
            found += self.take()
        self.take()
        return found

    def below(self) -> str:
        """A subscript as text."""
        if self.next != "_":
            return ""
        self.take()
        self.take("{")
        found = ""
        if self.next == r"\mathrm":
            self.take()
            found = self.word()
        while self.next != "}":
            found += self.take()
        self.take()
        return found

    def atom(self) -> Lazy:
        token = self.take()
        if _is_number(token):
            value = float(token)
            return lambda env: value
        if token in (r"\frac", r"\tfrac"):
            # A fraction raised without parentheses looks as if only its top were.
            found = _binary(self.group(), self.group(), lambda a, b: a / b)
            if self.next == "^":
                raise ValueError("a fraction raised without parentheses")
            return found
        if token in (r"\left", r"\max", r"\min", r"\operatorname", "("):
            return self.fenced(token)
        if token == r"\sum":
            return self.series()
        if token == "{":
            self.at -= 1
            return self.group()
        if token == r"\mathrm":
            return self.named(self.word())
        if re.match(r"[A-Za-z]", token):
            return self.named(token)
        raise ValueError(f"unknown token {token!r}")

    def named(self, head: str) -> Lazy:
        below = self.below()
        if below and not (below.isdigit() or head + below in ("Hk", "dh")):
            return lambda env: env[f"{head}_{below.replace(',', '_')}"]
        return lambda env: env[head + below]

    def fenced(self, token: str) -> Lazy:
        name = token[1:]
        if token == r"\operatorname":
            name = self.word()
        if name in CALLS and name != "left":
            self.opened()
            return _called(name, self.list(")"))
        fence = "(" if token == "(" else self.take()
        if fence == "(":
            found = self.closing(")")
            return lambda env: found(env)[0]
        if fence in (r"\lceil", r"\lfloor"):
            inner = self.sum()
            self.take(r"\right")
            self.take(fence.replace("l", "r", 1))
            return _called(fence[2:], lambda env: [inner(env)])
        values = self.closing(r"\Vert" if fence == r"\Vert" else r"\rVert")
        p = float(self.below())
        return lambda env: norm(values(env), p)

    def opened(self) -> None:
        if self.next == r"\left":
            self.take()
        self.take("(")

    def list(self, closing: str) -> Callable[[Env], list[float]]:
        return self.closing(closing)

    def closing(self, fence: str) -> Callable[[Env], list[float]]:
        parts = [self.sum()]
        while self.next == ",":
            self.take()
            parts.append(self.sum())
        if self.next == r"\right":
            self.take()
        self.take(fence)
        return lambda env: [p(env) for p in parts]

    def series(self) -> Lazy:
        self.take("_")
        self.take("{")
        name = self.take()
        self.take("=")
        lower = self.sum()
        self.take("}")
        self.take("^")
        upper = self.group()
        body = self.product()
        return lambda env: series(name, lower, upper, body, env)


def read_latex(text: str) -> Lazy:
    """A formula in LaTeX, without its left side."""
    return LatexReader(text).whole()


# --- MathML ----------------------------------------------------------------------------


class MathReader(Reader):
    """The children of an ``<mrow>``; an element is a token by its place."""

    times = ("·", "×")
    minus = "−"
    over = "\0"
    juxtaposed = True

    def __init__(self, children: list[ElementTree.Element]) -> None:
        self.elements = list(_seen(children))
        super().__init__([_token(c) for c in self.elements])

    def begins(self) -> bool:
        return bool(self.next) and self.next not in ("+", "−", ",", ")", "⌉", "⌋", "‖", "=")

    def exponent(self) -> Lazy | None:
        return None

    def begins_with_number(self) -> bool:
        element = self.elements[self.at]
        while _tag(element) in ("mfrac", "msup") and len(element):
            element = element[0]
        return _tag(element) == "mn"

    def atom(self) -> Lazy:
        element = self.elements[self.at]
        token = self.take()
        if token == "(":
            found = self.sum()
            self.take(")")
            return found
        if token in ("⌈", "⌊"):
            inner = self.sum()
            self.take("⌉" if token == "⌈" else "⌋")
            return _called("ceil" if token == "⌈" else "floor", lambda env: [inner(env)])
        if token in CALLS and self.next == "(":
            self.take()
            return _called(token, self.list(")"))
        if _tag(element) == "munderover":
            return self.series(element)
        return read_element(element)

    def series(self, element: ElementTree.Element) -> Lazy:
        _, start, end = list(element)
        ends = list(start)
        name = "".join(ends[0].itertext())
        lower, upper = read_row(ends[2:]), read_element(end)
        body = self.product()
        return lambda env: series(name, lower, upper, body, env)


def _seen(children: list[ElementTree.Element]) -> Iterator[ElementTree.Element]:
    """What is seen of a row: rows inside it have no marks of their own."""
    for child in children:
        if _tag(child) == "mrow":
            yield from _seen(list(child))
        elif _tag(child) != "mspace":
            yield child


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def _token(element: ElementTree.Element) -> str:
    if _tag(element) in ("mo", "mi", "mn"):
        return (element.text or "").strip()
    return f"<{_tag(element)}>"


def read_row(children: list[ElementTree.Element]) -> Lazy:
    return MathReader(children).whole()


def read_element(element: ElementTree.Element) -> Lazy:
    """One element of presentation MathML."""
    tag, children = _tag(element), list(element)
    if tag in ("mrow", "math", "mtd", "mstyle"):
        return read_row(children)
    if tag == "mn":
        text = element.text or ""
        value = float(f"{text[:-1]}e{_PREFIX[text[-1]]}" if text[-1] in _PREFIX else text)
        return lambda env: value
    if tag == "mi":
        name = element.text or ""
        return lambda env: env[name]
    if tag == "mfrac":
        return _binary(*map(read_element, children), lambda a, b: a / b)
    if tag == "msup":
        base = children[0]
        if _tag(base) == "mfrac":
            raise ValueError("a fraction raised without parentheses")
        if _tag(base) == "mrow" and _token(next(iter(base))) not in ("(", "⌈", "⌊", "max", "min"):
            raise ValueError("a row raised without parentheses")
        return _binary(*map(read_element, children), lambda a, b: a**b)
    if tag == "msub":
        return _subscripted(*children)
    if tag == "munderover":
        raise ValueError("a sum without its body")
    raise ValueError(f"unknown element {tag}")


def _subscripted(head: ElementTree.Element, below: ElementTree.Element) -> Lazy:
    if _tag(head) == "mrow":
        inner = list(head)
        reader = MathReader(inner[1:-1])
        parts = [reader.sum()]
        while reader.next == ",":
            reader.take()
            parts.append(reader.sum())
        p = float(below.text or "")
        return lambda env: norm([f(env) for f in parts], p)
    name, rest = head.text or "", below.text or ""
    joined = (
        name + rest
        if rest.isdigit() or name + rest in ("Hk", "dh")
        else (f"{name}_{rest.replace(',', '_')}")
    )
    return lambda env: env[joined]


def read_mathml(text: str) -> Lazy:
    """A formula in presentation MathML (one element)."""
    return read_element(ElementTree.fromstring(text))
