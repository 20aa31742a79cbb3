"""Texts from outside, written so that the reader of a terminal, CSV or TOML takes them as texts.

Names of files, models, operations and devices come from whoever made the input. What
would steer a terminal, start a formula in a spreadsheet or end a string early is escaped.
"""

from __future__ import annotations

import re
import unicodedata

#: Categories of characters without a shape of their own: controls, formats (among them
#: those that change the direction of writing), surrogates, private and unassigned ones,
#: separators of lines and paragraphs.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: Invisible operators of MathML: they steer nothing.
_HARMLESS = frozenset("\u2061\u2062\u2063\u2064")
_SUSPECT = re.compile(r"[^ -~\n\t]")
_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_TOML = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
#: Beginnings that spreadsheets take for a formula, and what they skip before one.
_FORMULA = tuple("=+-@\t\r\n")


def visible(text: str) -> str:
    r"""``text`` in one line, what cannot be printed escaped: ``\n``, ``\x1b``, ``\u202e``.

    The result is printable in Python's sense; of spaces only the plain one is.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(c: str) -> str:
    # A lone surrogate has no other form; all else is written as Python writes it.
    code = ord(c)
    return f"\\u{code:04x}" if 0xD800 <= code < 0xE000 else ascii(c)[1:-1]


def printed(text: str) -> str:
    r"""A whole output for a terminal: lines, tabs and spaces kept, what steers it escaped.

    Escapes are those of JSON, so that JSON stays what it is: ``\u001b``.
    """
    return _SUSPECT.sub(lambda m: _json_escape(m[0]) if _steers(m[0]) else m[0], text)


def _steers(c: str) -> bool:
    return not c.isprintable() and c not in _HARMLESS and unicodedata.category(c) in _UNSEEN


def _json_escape(c: str) -> str:
    code = ord(c)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def csv_text(text: str) -> str:
    """A text for a cell of a CSV file, made such that no spreadsheet runs it.

    An apostrophe goes before ``=``, ``+``, ``-``, ``@`` and white space at the
    beginning; numbers stay.
    """
    if not text.startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def toml_text(text: str) -> str:
    """A TOML string, its quotation marks included, that reads back as ``text``.

    Lone surrogates, which TOML cannot hold, are written as their escapes.
    """
    return '"' + "".join(map(_toml_character, text)) + '"'


def _toml_character(c: str) -> str:
    if c in _TOML:
        return _TOML[c]
    code = ord(c)
    if 0xD800 <= code < 0xE000:
        return f"\\\\u{code:04x}"
    if c.isprintable():
        return c
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def toml_key(text: str) -> str:
    """A TOML key that reads back as ``text``."""
    return text if _BARE.match(text) else toml_text(text)
