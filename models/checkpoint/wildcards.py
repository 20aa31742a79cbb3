"""Patterns with wildcards, matched in time that grows with text and pattern alone.

Texts from files never become regular expressions of Python: of those that checkpoints
write, what names of modules need is read here (``.*``, ``\\d+``, ``[a-z]``, ``(a|b)``, ``^``,
``$``, ``x?``), and the rest is refused.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, product

#: Alternatives that the groups of one expression may multiply to.
MOST_WAYS = 64
_ANY = frozenset(map(chr, range(32, 127)))
_DIGITS, _WORD = frozenset(string.digits), frozenset(string.ascii_letters + string.digits + "_")
_CLASSES = {"d": _DIGITS, "w": _WORD}


class NotRead(ValueError):
    """A pattern beyond what is read."""


@dataclass(frozen=True)
class Token:
    """One character of a set, which may be absent, and may come again."""

    among: frozenset[str]
    absent: bool = False
    again: bool = False


Tokens = tuple[Token, ...]
EVERYTHING = Token(_ANY, absent=True, again=True)


@dataclass(frozen=True)
class Wildcards:
    """A pattern as its ways to be matched, each from the first character to the last."""

    ways: tuple[Tokens, ...]

    def matches(self, text: str) -> bool:
        """Whether the whole text is as one of the ways says."""
        return any(needle in text and way.runs_through(text) for needle, way in self._read)

    def may_match_in(self, texts: str) -> bool:
        """Whether one of several texts, written one after another, can match.

        Lists of what stays wide name hundreds of modules, and most of them are told apart here.
        """
        return any(needle in texts for needle in self._needles)

    @cached_property
    def _needles(self) -> frozenset[str]:
        return frozenset(needle for needle, _ in self._read)

    @cached_property
    def _read(self) -> tuple[tuple[str, _Places], ...]:
        """Each way with the longest piece that every text of it holds as it stands."""
        return tuple((_needle(way), _Places.of(way)) for way in self.ways)

    @cached_property
    def open_start(self) -> bool:
        """It begins with anything: what stands in front of a name makes no difference."""
        return all(way and way[0] == EVERYTHING for way in self.ways)

    @cached_property
    def tells_numbers(self) -> bool:
        """It has digits of its own, and may tell layers apart."""
        return any(t.among < _DIGITS for way in self.ways for t in way)


@dataclass(frozen=True)
class _Places:
    """Sets of places in a pattern, bit by bit: those that take each character, those that
    may be absent, those that may come again.
    """

    length: int
    taking: dict[str, int]
    absent: int
    again: int

    @classmethod
    def of(cls, tokens: Tokens) -> _Places:
        taking: dict[str, int] = {}
        absent = again = 0
        for place, token in enumerate(tokens):
            for char in token.among:
                taking[char] = taking.get(char, 0) | 1 << place
            absent |= token.absent << place
            again |= token.again << place
        return cls(len(tokens), taking, absent, again)

    def runs_through(self, text: str) -> bool:
        """All places in the pattern at once, character by character."""
        places = self._closed(1)
        for char in text:
            taken = places & self.taking.get(char, 0)
            if not taken:
                return False
            places = self._closed(taken << 1 | taken & self.again)
        return bool(places >> self.length & 1)

    def _closed(self, places: int) -> int:
        while (more := places | (places & self.absent) << 1) != places:
            places = more
        return places


def _needle(tokens: Tokens) -> str:
    """The longest run of characters that a pattern says one by one."""
    runs = (
        "".join(char for t in run for char in t.among) if plain else ""
        for plain, run in groupby(tokens, lambda t: len(t.among) == 1 and not t.absent | t.again)
    )
    return max(runs, key=len, default="")


def glob(text: str) -> Wildcards:
    """A name with ``*`` and ``?`` (and no classes), of itself or of what stands below it."""
    if "[" in text:
        raise NotRead("classes of characters")
    tokens = tuple(
        EVERYTHING if c == "*" else Token(_ANY) if c == "?" else Token(frozenset(c)) for c in text
    )
    dot, end = Token(frozenset(".")), (EVERYTHING,)
    ways = (tokens, (*tokens, dot, *end), (*end, dot, *tokens), (*end, dot, *tokens, dot, *end))
    return Wildcards(ways)


def expression(text: str) -> Wildcards:
    """A regular expression that matches from the start of a name, as ``re.match`` does.

    Raises:
        NotRead: it holds something else than what names need.
    """
    ways: list[Tokens] = []
    for way in _spelled_out(text):
        way = way.removeprefix("^")
        closed = way.endswith("$") and not way.endswith("\\$")
        tokens = _tokens(way[:-1] if closed else way)
        ways.append(tokens if closed else (*tokens, EVERYTHING))
    return Wildcards(tuple(ways))


def _spelled_out(text: str) -> list[str]:
    """The texts that groups of alternatives stand for, one level deep."""
    parts: list[list[str]] = []
    plain, at = "", 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            plain, at = plain + text[at : at + 2], at + 2
        elif char == "(":
            end = text.find(")", at)
            inner = text[at + 1 : end].removeprefix("?:")
            if end < 0 or "(" in inner or inner.startswith("?") or "\\)" in text[at : end + 1]:
                raise NotRead("groups in groups, and what looks ahead")
            if text[end + 1 : end + 2] in ("*", "+", "{", "?"):
                raise NotRead("a group that repeats")
            parts += [[plain], inner.split("|")]
            plain, at = "", end + 1
        elif char == "|":
            if parts or "(" in text:
                raise NotRead("alternatives outside a group")
            return text.split("|")
        else:
            plain, at = plain + char, at + 1
    parts.append([plain])
    count = 1
    for part in parts:
        count *= len(part)
    if count > MOST_WAYS:
        raise NotRead(f"more than {MOST_WAYS} alternatives")
    return ["".join(chosen) for chosen in product(*parts)]


def _tokens(text: str) -> Tokens:
    made: list[Token] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            code = text[at + 1 : at + 2]
            if not code or (code.isalnum() and code not in _CLASSES):
                raise NotRead(f"\\{code}")
            among, at = _CLASSES.get(code, frozenset(code)), at + 2
        elif char == "[":
            end = text.find("]", at + 2)
            if end < 0:
                raise NotRead("a class without an end")
            among, at = _class(text[at + 1 : end]), end + 1
        elif char in "{}()^$|*+?":
            raise NotRead(char)
        else:
            among, at = _ANY if char == "." else frozenset(char), at + 1
        sign = text[at] if at < len(text) and text[at] in "*+?" else ""
        if sign:
            at += 1
            if text[at : at + 1] == "?":  # as few as possible: the same texts match
                at += 1
        made.append(
            Token(among, absent=bool(sign) and sign in "*?", again=bool(sign) and sign in "*+")
        )
    return tuple(made)


def _class(text: str) -> frozenset[str]:
    negated = text.startswith("^")
    text = text.removeprefix("^")
    found: set[str] = set()
    at = 0
    while at < len(text):
        if text[at] == "\\":
            code = text[at + 1 : at + 2]
            found |= _CLASSES.get(code, frozenset(code))
            at += 2
        elif text[at + 1 : at + 2] == "-" and at + 2 < len(text):
            found |= {chr(c) for c in range(ord(text[at]), ord(text[at + 2]) + 1) if c < 128}
            at += 3
        else:
            found.add(text[at])
            at += 1
    return _ANY - found if negated else frozenset(found)
