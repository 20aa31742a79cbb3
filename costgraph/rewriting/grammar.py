"""The text of pipelines: ``name{option=value,…},name…``, read and written.

A value is bare (``16``, ``1/2``, ``llama-2-7b``, ``./draft.json``) or stands between
quotes, double or single, where every printable character may stand, so that a
pipeline can be a value of another: ``speculative{draft-passes="quantize{preset=w4a16}"}``.
A backslash in quotes takes the next character as it is. Nothing is ever evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from costgraph.errors import PipelineError, clip

#: Characters of a pipeline and of one value.
LONGEST, LONGEST_VALUE = 16_000, 4_000

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_BARE = re.compile(r"""[^\s,{}"'=\\]+""")
QUOTES = "\"'"


@dataclass(frozen=True)
class Given:
    """One option as it was written: its value, and where it stands (from 1)."""

    name: str
    value: str
    at: int


@dataclass(frozen=True)
class Item:
    """One pass as it was written: its options in order, and where it stands (from 1)."""

    name: str
    options: tuple[Given, ...]
    at: int


def read(text: str) -> tuple[Item, ...]:
    """The passes that ``text`` names, with their options as texts.

    Raises:
        PipelineError: the text is none, is too long, or does not parse; says where.
    """
    if not isinstance(text, str):
        raise PipelineError(f"a pipeline is a text, not {clip(text)}")
    if len(text) > LONGEST:
        raise PipelineError(f"a pipeline of {len(text)} characters is too long ({LONGEST} at most)")
    return _Reader(text).items()


def quoted(value: str) -> str:
    """``value`` as it is written: bare where that reads back as the same."""
    if _BARE.fullmatch(value) and value.isprintable():
        return value
    quote = QUOTES[1] if QUOTES[0] in value and QUOTES[1] not in value else QUOTES[0]
    return quote + value.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote


class _Reader:
    """A position in a text, and what may follow there."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def items(self) -> tuple[Item, ...]:
        found: list[Item] = []
        self._skip()
        while self._at < len(self._text):
            found.append(self._item())
            if self._at < len(self._text):
                self._expect(",", f"',' and a pass after {found[-1].name!r}")
                if self._at == len(self._text):
                    self._fail("a pass after ','")
        return tuple(found)

    def _item(self) -> Item:
        at = self._at + 1
        name = self._match(_NAME, "a pass name; write name{option=value,…},name…")
        options: list[Given] = []
        if self._peek() == "{":
            self._expect("{", "")
            while self._peek() != "}":
                options.append(self._option(name))
                if self._peek() != "}":
                    self._expect(",", f"',' or '}}' after option {options[-1].name!r}")
                    if self._peek() == "}":
                        self._fail(f"an option of {name!r} after ','")
            self._expect("}", "")
        return Item(name, tuple(options), at)

    def _option(self, owner: str) -> Given:
        at = self._at + 1
        name = self._match(_NAME, f"an option of {owner!r}, not an empty option")
        if self._peek() != "=":
            self._fail(f"a value: {owner}: option {name!r} needs a value: {name}=…")
        self._expect("=", "")
        start = self._at
        value = self._string() if self._peek() in tuple(QUOTES) else self._bare(owner, name)
        if len(value) > LONGEST_VALUE:
            raise PipelineError(
                f"pipeline, character {start + 1}: {owner}: {name}: a value of {len(value)} "
                f"characters is too long ({LONGEST_VALUE} at most)"
            )
        return Given(name, value, at)

    def _bare(self, owner: str, name: str) -> str:
        return self._match(
            _BARE, f"a value of {owner}: {name}; in quotes if it has other characters than a word"
        )

    def _string(self) -> str:
        opened, quote = self._at, self._text[self._at]
        found: list[str] = []
        at = opened + 1
        while at < len(self._text) and self._text[at] != quote:
            at += self._text[at] == "\\"
            found.extend(self._text[at : at + 1])
            at += 1
        if at >= len(self._text):
            self._fail(f"the closing {quote} of what opens here")
        value = "".join(found)
        if not value.isprintable():
            self._fail("printable characters in quotes")
        self._at = at + 1
        self._skip()
        return value

    # --- characters

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _match(self, pattern: re.Pattern[str], wanted: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            self._fail(wanted)
        self._at = found.end()
        self._skip()
        return found[0]

    def _expect(self, character: str, wanted: str) -> None:
        if self._peek() != character:
            self._fail(wanted or repr(character))
        self._at += 1
        self._skip()

    def _fail(self, wanted: str) -> NoReturn:
        rest = self._text[self._at :]
        found = f"not {clip(rest, 40)}" if rest else "but the text ends"
        raise PipelineError(f"pipeline, character {self._at + 1}: expected {wanted}, {found}")
